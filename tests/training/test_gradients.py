"""The gradient of a step: the same over any devices and microbatches, and with penalties."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mural_jax.distributed.mesh import MeshShape, batch_sharding, tree_sharding
from mural_jax.models import functional
from mural_jax.models.dual_encoder import DualEncoder, build_spaces
from mural_jax.models.layers import Layers
from mural_jax.models.spaces import Space
from mural_jax.models.text import Transformer
from mural_jax.models.vision import ViT
from mural_jax.objectives.sigmoid import Sigmoid
from mural_jax.objectives.softmax import Softmax
from mural_jax.tasks.base import encode_and_run, total_loss
from mural_jax.tasks.contrast import Contrast
from mural_jax.training.gradients import Loss, PenaltyTerm, accumulate_gradient, compute_gradient

SIZE = 32
STEP = np.int32(3)
LAYERS = Layers(width=16, depth=1, num_heads=2, mlp_ratio=2.0, dropout=0.2)
OBJECTIVES = {
    'softmax': lambda **by: Softmax(margin=0.1, label_smoothing=0.1, **by),
    'sigmoid': lambda **by: Sigmoid(**by),
}
VIEWS = {
    'captions': (('image', 'image'), ('text', 'text')),
    'pairs': (('source', 'text'), ('target', 'text')),
}
SPACES = {
    f'{kind}_{stream}': Space(
        sides=tuple(dict.fromkeys(encoder for _, encoder in view)),
        embedding=12,
        temperature=0.2,
        bias=-2.0 if kind == 'sigmoid' else None,
    )
    for kind in OBJECTIVES
    for stream, view in VIEWS.items()
}


def make_tasks(**by: Any) -> dict[str, Contrast]:
    """Each objective on each stream; tasks of one stream share its passes."""
    return {
        f'{kind}_{stream}': Contrast(
            stream,
            view,
            make_objective(**by),
            space=f'{kind}_{stream}',
            weight=1.0 if stream == 'captions' else 0.5,
        )
        for kind, make_objective in OBJECTIVES.items()
        for stream, view in VIEWS.items()
    }


@functools.cache
def build_model() -> tuple[Any, Any, Any]:
    """A tower of each kind; without batch norms the examples do not look at each other."""
    rngs = nnx.Rngs(0)
    towers = {
        'image': ViT(rngs=rngs, layers=LAYERS, image_size=8, patches=(4,)),
        'text': Transformer(rngs=rngs, vocab_size=40, layers=LAYERS, max_length=6),
    }
    spaces = build_spaces(SPACES, {'image': 16, 'text': 16}, rngs)
    return functional.split(DualEncoder(towers=towers, spaces=spaces))


def make_batches() -> dict[str, dict[str, np.ndarray]]:
    """Some examples share an id, also with one that another device or microbatch has."""
    rng = np.random.default_rng(0)
    ids = rng.integers(0, 60, (SIZE, 2)).astype(np.int32)
    index = np.arange(SIZE, dtype=np.int32)
    text, source, target = rng.integers(1, 40, (3, SIZE, 6)).astype(np.int32)
    image = rng.integers(0, 255, (SIZE, 8, 8, 3)).astype(np.uint8)
    return {
        'captions': {'image': image, 'text': text, 'ids': ids, 'index': index},
        'pairs': {'source': source, 'target': target, 'ids': ids[::-1].copy(), 'index': index},
    }


@functools.cache
def compute_reference() -> tuple[Any, float]:
    """(gradient, loss) as anybody would write it: one device, all at once, float32."""
    graphdef, params, statistics = build_model()

    def loss(params: Any) -> jax.Array:
        model = functional.merge(graphdef, params, statistics)
        outputs = encode_and_run(model, make_tasks(), make_batches(), jax.random.key(7), STEP)
        return total_loss(model, make_tasks(), outputs, make_batches(), STEP)[0]

    value, gradient = jax.jit(jax.value_and_grad(loss))(params)
    return jax.device_get(gradient), float(value)


def compute_on_mesh(
    count: int,
    mesh: dict[str, int],
    microbatches: int,
    penalties: Mapping[str, PenaltyTerm] | None = None,
    frozen: frozenset[str] = frozenset(),
    **by: Any,
) -> tuple[Any, dict[str, float]]:
    """(gradient, logs) as training computes them, on `count` devices."""
    graphdef, params, statistics = build_model()
    built = MeshShape(**mesh).build(jax.devices()[:count])
    params = jax.device_put(params, tree_sharding(params, (), built))
    placed = jax.device_put(make_batches(), batch_sharding(built))

    @jax.jit
    def compute(params: Any, batches: Any, penalties: Any) -> tuple:
        key = jax.random.key(7)
        tasks = make_tasks(**by)
        loss = Loss(graphdef, tasks, frozen, frozenset(), statistics, key, STEP, penalties)
        if microbatches == 1:
            return compute_gradient(loss, params, batches)[:2]
        return accumulate_gradient(loss, params, batches, microbatches, ())[:2]

    with jax.set_mesh(built):
        gradient, logs = compute(params, placed, penalties or {})
    return jax.device_get(gradient), {name: float(value) for name, value in logs.items()}


def assert_same_gradient(found: Any, expected: Any, tolerance: float = 1e-5) -> None:
    """The norm of each array's difference is within a relative tolerance."""
    for (path, ours), theirs in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        error = np.linalg.norm(np.float64(ours) - theirs)
        assert error <= tolerance * np.linalg.norm(theirs) + 1e-12, jax.tree_util.keystr(path)


def assert_is_reference(found: tuple[Any, dict[str, float]]) -> None:
    gradient, loss = compute_reference()
    assert found[1]['loss'] == pytest.approx(loss, rel=1e-5)
    assert_same_gradient(found[0], gradient)


@pytest.mark.parametrize(
    ('by', 'count', 'microbatches'),
    [('gathered', 1, 4), ('gathered', 8, 1), ('ring', 1, 1), ('ring', 8, 4)],
)
def test_devices_and_microbatches_change_nothing(by: str, count: int, microbatches: int) -> None:
    """With dropout, and with pairs that are ignored across devices and microbatches."""
    assert_is_reference(compute_on_mesh(count, {'data': count}, microbatches, by=by, tile=2))


def test_sharded_parameters_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    mesh = {'data': 2, 'fsdp': 2, 'tensor': 2}
    monkeypatch.setattr('mural_jax.distributed.mesh.SMALLEST_SPLIT', 16)
    assert_is_reference(compute_on_mesh(8, mesh, 4, by='ring', tile=4))


def test_dropout_depends_on_the_key() -> None:
    """Or the tests above would not see the dropout."""
    graphdef, params, statistics = build_model()
    model = functional.merge(graphdef, params, statistics)
    one, other = (
        encode_and_run(model, make_tasks(), make_batches(), jax.random.key(seed), STEP)
        for seed in (7, 8)
    )
    difference = one['softmax_captions']['image'] - other['softmax_captions']['image']
    assert float(jnp.abs(difference).max()) > 1e-2


@dataclasses.dataclass(frozen=True)
class QuadraticPenalty:
    """1/2 sum_k importance_k (params_k - anchor_k)^2."""

    def __call__(self, params: Any, anchor: Any, importance: Any) -> jax.Array:
        terms = jax.tree.map(
            lambda p, a, i: 0.5 * jnp.sum(i * (p - a) ** 2), params, anchor, importance
        )
        return sum(jax.tree.leaves(terms), jnp.float32(0))


def make_penalty(weight: float) -> PenaltyTerm:
    """A penalty with random anchor and importance."""
    _, params, _ = build_model()
    rng = np.random.default_rng(1)
    anchor, importance = (
        jax.tree.map(lambda x: rng.uniform(size=x.shape).astype(np.float32), params)
        for _ in range(2)
    )
    return PenaltyTerm(QuadraticPenalty(), anchor, importance, weight)


@pytest.mark.parametrize('microbatches', [1, 4])
def test_penalty_adds_its_gradient_once(microbatches: int) -> None:
    _, params, _ = build_model()
    term = make_penalty(0.3)
    gradient, loss = compute_reference()
    expected = jax.tree.map(
        lambda g, p, a, i: g + 0.3 * i * (p - a), gradient, params, term.anchor, term.importance
    )
    value = float(term.objective(params, term.anchor, term.importance))
    found, logs = compute_on_mesh(1, {}, microbatches, {'ewc': term}, by='gathered')
    assert_same_gradient(found, expected)
    assert logs['ewc/penalty'] == pytest.approx(value, rel=1e-5)
    assert logs['loss'] == pytest.approx(loss + 0.3 * value, rel=1e-5)


def test_penalty_gives_frozen_parameters_no_gradient() -> None:
    frozen = frozenset({'towers/text/token_VD'})
    gradient, _ = compute_on_mesh(1, {}, 1, {'ewc': make_penalty(0.3)}, frozen, by='gathered')
    assert not gradient['towers']['text']['token_VD'].any()
    assert gradient['towers']['text']['stack']['blocks']['mlp']['up']['kernel'].any()
