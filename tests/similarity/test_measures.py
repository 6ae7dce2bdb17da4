"""Similarities against their definitions, in tiles and as a whole."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import oracles
from objectives.oracles import make_unit_vectors

from mural_jax.distributed.mesh import MeshShape, batch_sharding
from mural_jax.objectives.sigmoid import Sigmoid
from mural_jax.objectives.softmax import Softmax
from mural_jax.similarity.base import Similarity
from mural_jax.similarity.catalog import FORMS, SIMILARITIES
from mural_jax.similarity.late_interaction import POOLINGS, LateInteraction, TokenVectors
from mural_jax.similarity.measures import COSINE, Dot
from mural_jax.types import Encoding, UserError


def make_tokens(seed: int, size: int, length: int) -> TokenVectors:
    """Unit vectors of up to `length` tokens an example; the second example has none."""
    rng = np.random.default_rng(seed)
    mask_BL = np.arange(length) < rng.integers(1, length + 1, (size, 1))
    mask_BL[1] = False
    return TokenVectors(make_unit_vectors(rng, size, length, 8), mask_BL)


def make_sides(similarity: Similarity, size: int = 16) -> tuple[Any, Any]:
    """Representations of both sides."""
    if similarity.form == 'tokens':
        return make_tokens(0, size, 5), make_tokens(1, size, 7)
    rng = np.random.default_rng(0)
    return make_unit_vectors(rng, size, 8), make_unit_vectors(rng, size, 8)


ALL = [COSINE, Dot(), *(LateInteraction(pooling) for pooling in POOLINGS)]


@pytest.mark.parametrize('similarity', ALL, ids=str)
def test_tiles_equal_whole(similarity: Similarity) -> None:
    left, right = make_sides(similarity)
    whole_QR = np.asarray(similarity.score(left, right))
    take = [
        lambda tree, part=part: jax.tree.map(lambda x: x[part], tree)
        for part in (slice(0, 6), slice(6, 16))
    ]
    tiled_QR = np.block([[similarity.score(a(left), b(right)) for b in take] for a in take])
    np.testing.assert_allclose(tiled_QR, whole_QR, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize('similarity', ALL, ids=str)
def test_exact_pair_scores_differ_by_no_more_than_rounding(similarity: Similarity) -> None:
    left, right = make_sides(similarity)
    score_QR = np.asarray(similarity.score(left, right), np.float64)
    query_P, result_P = (x.ravel() for x in np.indices(score_QR.shape))
    pairs = (
        jax.tree.map(lambda x, p=p: x[p], tree) for tree, p in ((left, query_P), (right, result_P))
    )
    exact_P = similarity.score_pairs(*pairs)
    assert exact_P.dtype == np.float64
    assert np.abs(exact_P - score_QR.ravel()).max() <= similarity.rounding(left, right)


@pytest.mark.parametrize('pooling', POOLINGS)
def test_late_interaction_equals_double_loop(pooling: str) -> None:
    left, right = make_tokens(0, 6, 5), make_tokens(1, 9, 7)
    expected_QR = oracles.late_interaction(*left, *right, pooling)
    score_QR = LateInteraction(pooling).score(left, right)
    np.testing.assert_allclose(score_QR, expected_QR, atol=1e-5)


def test_padding_of_tokens_changes_no_score() -> None:
    left, right = make_tokens(0, 6, 5), make_tokens(1, 9, 7)
    padded = TokenVectors(
        np.pad(right.token_BLD, ((0, 0), (0, 3), (0, 0)), constant_values=9.0),
        np.pad(right.mask_BL, ((0, 0), (0, 3))),
    )
    similarity = LateInteraction('symmetric')
    np.testing.assert_allclose(
        similarity.score(left, padded), similarity.score(left, right), atol=1e-6
    )


def test_zero_token_has_finite_gradient() -> None:
    """Padded tokens are often zero vectors, whose norm has no gradient."""

    def total(token_BLD: jax.Array) -> jax.Array:
        encoding = Encoding(None, token_BLD, jnp.ones((2, 3), bool))
        tokens = LateInteraction().represent(encoding, lambda x: x)
        return LateInteraction().score(tokens, tokens).sum()

    assert np.isfinite(jax.grad(total)(jnp.zeros((2, 3, 4)))).all()


@pytest.mark.parametrize('shape', [None, (8, 1, 1), (4, 2, 1)], ids=str)
@pytest.mark.parametrize('by', ['gathered', 'ring'])
def test_late_interaction_trains_gathered_and_by_ring(by: str, shape: Any) -> None:
    """A loss on scores of another form, and its gradient, against the double loop."""
    similarity = LateInteraction('symmetric')
    left, right = make_sides(similarity)
    ids = np.arange(16, dtype=np.int32)[:, None]
    ids[3] = ids[12]
    scalars = {'temperature': jnp.float32(0.5)}

    def loss(left_BLD: Any, right_BLD: Any, masks: Any, ids: Any) -> Any:
        sides = (TokenVectors(left_BLD, masks[0]), TokenVectors(right_BLD, masks[1]))
        return Softmax(0.1, 0.1, by=by, tile=2)(similarity, *sides, ids, scalars)[0]

    given = (left.token_BLD, right.token_BLD, (left.mask_BL, right.mask_BL), ids)
    mesh = MeshShape(*(shape or (1, 1, 1))).build(jax.devices()[: np.prod(shape or 1)])
    given = jax.device_put(given, batch_sharding(mesh))
    with jax.set_mesh(mesh):
        value, slopes = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))(*given)
    score_BB = oracles.late_interaction(*left, *right, 'symmetric')
    expected = oracles.softmax_of_scores(score_BB, ids, 0.1, 0.1, 0.5)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    whole = jax.grad(
        lambda a, b: Softmax(0.1, 0.1)(
            similarity, left._replace(token_BLD=a), right._replace(token_BLD=b), ids, scalars
        )[0],
        argnums=(0, 1),
    )(left.token_BLD, right.token_BLD)
    for slope, expected_slope in zip(slopes, whole):
        np.testing.assert_allclose(slope, expected_slope, rtol=1e-4, atol=1e-6)


def test_dot_does_not_normalise() -> None:
    encoding = Encoding(jnp.array([[3.0, 4.0]]), None, None)
    np.testing.assert_allclose(Dot().represent(encoding, lambda x: x), [[3.0, 4.0]])
    np.testing.assert_allclose(COSINE.represent(encoding, lambda x: x), [[0.6, 0.8]], rtol=1e-6)


def test_sigmoid_trains_on_dot_products() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 12, 4)).astype(np.float32)
    ids = np.arange(12, dtype=np.int32)[:, None]
    scalars = {'temperature': jnp.float32(2.0), 'bias': jnp.float32(-1.0)}
    loss, _ = Sigmoid(by='ring', tile=5)(Dot(), x, y, ids, scalars)
    np.testing.assert_allclose(loss, oracles.sigmoid(x, y, ids, 2.0, -1.0), rtol=1e-5)


def test_every_kind_has_a_known_form_and_candidates() -> None:
    for kind in SIMILARITIES.values():
        assert kind.form in FORMS
        assert kind.candidates in {'', *SIMILARITIES}


def test_unknown_pooling_is_refused() -> None:
    with pytest.raises(UserError, match='max_left_sum_right'):
        LateInteraction('max_everything')
