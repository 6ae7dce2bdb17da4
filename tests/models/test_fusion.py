"""One stream: the same weights for pairs and for each of the two alone; nothing leaks."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from mural_jax.models import functional
from mural_jax.models.fusion import POOLINGS, Fusion
from mural_jax.models.heads import Linear
from mural_jax.models.layers import Layers
from mural_jax.models.one_stream import OneStream
from mural_jax.types import Array, UserError

LAYERS = Layers(width=16, depth=2, num_heads=2, dropout=0.1, norm_eps=1e-12)
TEXT_BL = jnp.array([[2, 9, 7, 3, 0, 0], [2, 5, 3, 0, 0, 0]])
EMPTY_BL = jnp.zeros((2, 6), int)


def fusion(**more: Any) -> Fusion:
    given = dict(rngs=nnx.Rngs(0), vocab_size=20, layers=LAYERS, max_length=6, feature_size=4)
    return Fusion(**(given | more))


def regions(geometry: int = 5) -> Array:
    """Two pictures of three places, of which the second one's last is none."""
    feature_BRF, corner_BR2 = (
        jax.random.uniform(jax.random.key(i), (2, 3, size)) for i, size in enumerate((4, 2))
    )
    box_BR4 = jnp.concatenate([corner_BR2 / 2, corner_BR2 / 2 + 0.3], axis=-1)
    size_BR2 = jnp.full((2, 3, 2), 0.3)
    box_BRG = jnp.concatenate([box_BR4, size_BR2[..., : geometry - 4]], axis=-1)
    real = jnp.array([[1, 1, 1], [1, 1, 0]])[..., None]
    return jnp.concatenate([feature_BRF, box_BRG], axis=-1) * real


def one_stream(pool: str = 'mean') -> OneStream:
    heads = {'pairs': {way: Linear(width=16, embedding=8, rngs=nnx.Rngs(1))
                       for way in ('image', 'text')}}  # fmt: skip
    return OneStream(
        fusion=fusion(pool=pool), num_classes=7, norm_eps=1e-12, rngs=nnx.Rngs(2), heads=heads,
        temperature={'pairs': 0.07}, bias={},
    )  # fmt: skip


@pytest.mark.parametrize('pool', ['mean', 'first'])
def test_a_pair_with_one_side_empty_is_the_other_side_alone(pool: str) -> None:
    model = one_stream(pool)
    alone, joint = model.encode('text', TEXT_BL), model.encode('joint', (TEXT_BL, 0 * regions()))
    np.testing.assert_allclose(alone.pooled_BD, joint.pooled_BD, atol=1e-6)
    np.testing.assert_allclose(alone.tokens_BLD, joint.tokens_BLD[:, :6], atol=1e-5)
    assert not joint.mask_BL[:, 6:].any()
    alone, joint = model.encode('image', regions()), model.encode('joint', (EMPTY_BL, regions()))
    np.testing.assert_allclose(alone.pooled_BD, joint.pooled_BD, atol=1e-6)
    np.testing.assert_allclose(alone.tokens_BLD, joint.tokens_BLD[:, 6:], atol=1e-5)
    assert not joint.mask_BL[:, :6].any()


@pytest.mark.parametrize('pool', ['mean', 'first'])
def test_padding_changes_nothing(pool: str) -> None:
    short = fusion(pool=pool)(TEXT_BL[1:, :3], regions()[1:, :2])
    long = fusion(pool=pool)(TEXT_BL[1:], regions()[1:])
    np.testing.assert_allclose(short.pooled_BD, long.pooled_BD, atol=1e-6)
    published = fusion(pool='mean_with_padding')
    shorter, longer = published(TEXT_BL[1:, :3]), published(TEXT_BL[1:])
    assert np.abs(shorter.pooled_BD - longer.pooled_BD).max() > 1e-3


def test_each_side_changes_what_the_other_is_encoded_as() -> None:
    model = one_stream()
    joint = model.encode('joint', (TEXT_BL, regions()))
    assert np.abs(joint.tokens_BLD[:, :4] - model.encode('text', TEXT_BL).tokens_BLD[:, :4]).max() \
        > 1e-3  # fmt: skip
    image = model.encode('image', regions())
    assert np.abs(joint.tokens_BLD[:, 6:8] - image.tokens_BLD[:, :2]).max() > 1e-3


def test_what_is_no_word_and_no_region_gives_no_gradient() -> None:
    graphdef, params, statistics = functional.split(fusion())

    def score(params: dict, region_BRF: Array) -> Array:
        model = functional.merge(graphdef, params, statistics)
        return (model(TEXT_BL, region_BRF).pooled_BD * jnp.arange(16.0)[None]).sum()

    by_params, by_region = jax.grad(score, argnums=(0, 1))(params, regions())
    assert not by_params['token_VD'][0].any() and by_params['token_VD'][7].any()
    assert not by_region[1, 2, :4].any() and by_region[0, 2, :4].any()


def test_the_order_of_regions_says_nothing_and_their_places_do() -> None:
    model = fusion()
    turned = model(TEXT_BL, regions()[:, ::-1]).pooled_BD
    np.testing.assert_allclose(model(TEXT_BL, regions()).pooled_BD, turned, atol=1e-6)
    moved = regions().at[..., 4:8].multiply(0.5)
    assert np.abs(model(TEXT_BL, moved).pooled_BD - turned).max() > 1e-4


def test_tags_belong_to_the_picture() -> None:
    model, tags_BL = fusion(), TEXT_BL[:, 1:3]
    alone = model(region_BRF=regions(), tags_BL=tags_BL)
    joint = model(EMPTY_BL, regions(), tags_BL)
    np.testing.assert_allclose(alone.pooled_BD, joint.pooled_BD, atol=1e-6)
    assert np.abs(alone.pooled_BD - model(region_BRF=regions()).pooled_BD).max() > 1e-3
    as_text = model(tags_BL, regions())
    assert np.abs(alone.pooled_BD - as_text.pooled_BD).max() > 1e-3


def test_dropout_is_each_examples_own() -> None:
    model, keys = fusion(), jax.random.split(jax.random.key(0), 2)
    both = model(TEXT_BL, regions(), key_B=keys).pooled_BD
    second = model(TEXT_BL[1:], regions()[1:], key_B=keys[1:]).pooled_BD
    np.testing.assert_allclose(both[1:], second, atol=1e-6)
    assert np.abs(both - model(TEXT_BL, regions()).pooled_BD).max() > 1e-3


@pytest.mark.parametrize('geometry', [5, 6])
@pytest.mark.parametrize('pool', POOLINGS)
def test_every_option_gives_a_vector(pool: str, geometry: int) -> None:
    encoding = fusion(pool=pool, geometry=geometry)(TEXT_BL, regions(geometry))
    assert encoding.pooled_BD.shape == (2, 16) and encoding.pooled_BD.dtype == jnp.float32
    assert encoding.tokens_BLD.shape == (2, 10, 16) and encoding.mask_BL.shape == (2, 10)
    assert np.abs(encoding.pooled_BD).max() < 1


@pytest.mark.parametrize('wrong', [{'pool': 'last'}, {'geometry': 4}, {'feature_size': 0}])
def test_what_there_is_not_is_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        fusion(**wrong)


def test_predictions_are_made_where_they_are_asked_for() -> None:
    model = one_stream()
    encoding = model.encode('joint', (TEXT_BL, regions()))
    words = model.words(encoding, jnp.array([[1, 2], [1, 0]]))
    assert words.shape == (2, 2, 20)
    swapped = model.words(encoding, jnp.array([[2, 1], [0, 1]]))
    np.testing.assert_allclose(words, swapped[:, ::-1], atol=1e-6)
    assert model.region_classes(encoding, jnp.array([[1], [2]]), 4).shape == (2, 1, 7)
    assert model.matches(encoding).shape == (2,)
    embedded = model.project('pairs', 'text', model.encode('text', TEXT_BL)).pooled_BD
    np.testing.assert_allclose(np.linalg.norm(embedded, axis=1), 1, atol=1e-6)
