"""The fusion transformer: padding, regions, tags, dropout, options."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from models.towers import TEXT_BL, build_fusion, largest_difference, random_regions

from mural_jax.models import functional
from mural_jax.models.fusion import POOLINGS
from mural_jax.types import Array, UserError

EMPTY_BL = jnp.zeros((2, 6), int)


@pytest.mark.parametrize('pool', ['mean', 'first'])
def test_pooled_vector_does_not_depend_on_padding(pool: str) -> None:
    fusion, region_BRF = build_fusion(pool=pool), random_regions()
    short = fusion(TEXT_BL[1:, :3], region_BRF[1:, :2])
    long = fusion(TEXT_BL[1:], region_BRF[1:])
    np.testing.assert_allclose(short.pooled_BD, long.pooled_BD, atol=1e-6)


def test_mean_with_padding_depends_on_padding() -> None:
    fusion = build_fusion(pool='mean_with_padding')
    shorter, longer = fusion(TEXT_BL[1:, :3]), fusion(TEXT_BL[1:])
    assert largest_difference(shorter.pooled_BD, longer.pooled_BD) > 1e-3


def test_padding_gets_no_gradient() -> None:
    graphdef, params, statistics = functional.split(build_fusion())

    def score(params: dict, region_BRF: Array) -> Array:
        model = functional.merge(graphdef, params, statistics)
        return (model(TEXT_BL, region_BRF).pooled_BD * jnp.arange(16.0)[None]).sum()

    by_params, by_region = jax.grad(score, argnums=(0, 1))(params, random_regions())
    assert not by_params['token_VD'][0].any() and by_params['token_VD'][7].any()
    assert not by_region[1, 2, :4].any() and by_region[0, 2, :4].any()


def test_order_of_regions_has_no_influence() -> None:
    fusion, region_BRF = build_fusion(), random_regions()
    forwards, backwards = fusion(TEXT_BL, region_BRF), fusion(TEXT_BL, region_BRF[:, ::-1])
    np.testing.assert_allclose(forwards.pooled_BD, backwards.pooled_BD, atol=1e-6)


def test_boxes_of_regions_have_influence() -> None:
    fusion, region_BRF = build_fusion(), random_regions()
    moved_BRF = region_BRF.at[..., 4:8].multiply(0.5)
    one, other = fusion(TEXT_BL, region_BRF), fusion(TEXT_BL, moved_BRF)
    assert largest_difference(one.pooled_BD, other.pooled_BD) > 1e-4


def test_tags_belong_to_the_image() -> None:
    fusion, region_BRF, tags_BL = build_fusion(), random_regions(), TEXT_BL[:, 1:3]
    alone = fusion(region_BRF=region_BRF, tags_BL=tags_BL).pooled_BD
    joint = fusion(EMPTY_BL, region_BRF, tags_BL).pooled_BD
    np.testing.assert_allclose(alone, joint, atol=1e-6)
    assert largest_difference(alone, fusion(region_BRF=region_BRF).pooled_BD) > 1e-3
    assert largest_difference(alone, fusion(tags_BL, region_BRF).pooled_BD) > 1e-3


def test_dropout_of_an_example_depends_on_its_own_key_only() -> None:
    fusion, region_BRF = build_fusion(), random_regions()
    key_B = jax.random.split(jax.random.key(0), 2)
    both = fusion(TEXT_BL, region_BRF, key_B=key_B).pooled_BD
    second = fusion(TEXT_BL[1:], region_BRF[1:], key_B=key_B[1:]).pooled_BD
    np.testing.assert_allclose(both[1:], second, atol=1e-6)
    assert largest_difference(both, fusion(TEXT_BL, region_BRF).pooled_BD) > 1e-3


@pytest.mark.parametrize('geometry', [5, 6])
@pytest.mark.parametrize('pool', POOLINGS)
def test_every_option_gives_a_vector_and_tokens(pool: str, geometry: int) -> None:
    encoding = build_fusion(pool=pool, geometry=geometry)(TEXT_BL, random_regions(geometry))
    assert encoding.pooled_BD.shape == (2, 16) and encoding.pooled_BD.dtype == jnp.float32
    assert encoding.tokens_BLD.shape == (2, 10, 16) and encoding.mask_BL.shape == (2, 10)
    assert np.abs(encoding.pooled_BD).max() < 1


@pytest.mark.parametrize('wrong', [{'pool': 'last'}, {'geometry': 4}, {'feature_size': 0}])
def test_wrong_option_is_named_in_error(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        build_fusion(**wrong)
