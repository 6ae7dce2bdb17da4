"""Convolutional towers: the compiled loop over blocks, stochastic depth, batch statistics."""

import jax
import numpy as np
import pytest
from flax import nnx
from models.towers import (
    assert_trees_close,
    build_efficientnet,
    largest_difference,
    random_images,
    run_training_pass,
)

from mural_jax.models import functional
from mural_jax.models.convnets import EfficientNet, ResNet
from mural_jax.types import UserError


@pytest.fixture
def two_stages(monkeypatch: pytest.MonkeyPatch) -> None:
    """An EfficientNet of two stages, since more would only compile longer."""
    monkeypatch.setattr(EfficientNet, 'STAGES', ((1, 3, 1, 1, 16), (3, 3, 2, 6, 24)))


@pytest.mark.usefixtures('two_stages')
@pytest.mark.parametrize('remat', ['full', 'dots'])
def test_remat_changes_no_result_and_no_batch_statistics(remat: str) -> None:
    image = random_images(4, 32)
    default, changed = (
        run_training_pass(build_efficientnet(remat=value, drop_path=0.3), image)
        for value in ('none', remat)
    )
    assert_trees_close(default, changed)


@pytest.mark.usefixtures('two_stages')
def test_stochastic_depth_differs_by_key_in_training() -> None:
    tower, image = build_efficientnet(drop_path=0.9), random_images(4, 32)
    keys = (jax.random.split(jax.random.key(k), 4) for k in (1, 2))
    one, other = (tower(image, key_B).pooled_BD for key_B in keys)
    assert largest_difference(one, other) > 1e-3


@pytest.mark.usefixtures('two_stages')
def test_stochastic_depth_is_off_in_evaluation() -> None:
    tower, image = build_efficientnet(drop_path=0.9), random_images(4, 32)
    np.testing.assert_array_equal(tower(image).pooled_BD, tower(image).pooled_BD)


@pytest.fixture(scope='module')
def first_stage() -> tuple[nnx.Module, jax.Array]:
    """The first stage of a ResNet, with three blocks, and an input for it."""
    stage = ResNet(rngs=nnx.Rngs(0), stages=(3, 1)).stages[0]
    return stage, jax.random.normal(jax.random.key(0), (4, 8, 8, 64))


def test_stage_applies_its_blocks_in_order(first_stage: tuple) -> None:
    stage, x_BHWC = first_stage
    graphdef, params, statistics = nnx.split(stage.blocks, nnx.Param, nnx.BatchStat)
    blocks = [
        nnx.merge(graphdef, *jax.tree.map(lambda leaf, i=i: leaf[i], (params, statistics)))
        for i in range(2)
    ]
    one_by_one = stage.first(x_BHWC, None, 0.0)
    for block in blocks:
        one_by_one = block(one_by_one, None, 0.0)
    np.testing.assert_allclose(stage(x_BHWC, None, [0.0] * 3), one_by_one, atol=1e-5)


def test_stacked_blocks_keep_separate_batch_statistics(first_stage: tuple) -> None:
    stage, x_BHWC = first_stage
    stage(x_BHWC, jax.random.split(jax.random.key(1), 4), [0.0] * 3)
    means = nnx.state(stage.blocks, nnx.BatchStat)['reduce']['norm']['mean'][...]
    assert largest_difference(means[0], means[1]) > 1e-4


def test_batch_norm_uses_the_batch_of_all_devices() -> None:
    """Eight devices with an eighth of the batch each give the result of one with all of it."""
    image = random_images(16, 32)
    graphdef, params, statistics = functional.split(build_efficientnet(drop_path=0.0))

    @jax.jit
    def encode(image: jax.Array) -> tuple:
        model = functional.merge(graphdef, params, statistics)
        encoding = model(image, jax.random.split(jax.random.key(0), 16))
        return encoding.pooled_BD, functional.read_batch_statistics(model)

    mesh = jax.make_mesh((8,), ('data',), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec('data'))
    # The order of sums differs, and by processor; 50 normalisations carry the difference on.
    assert_trees_close(encode(jax.device_put(image, split)), encode(image), atol=1e-4)


@pytest.mark.parametrize('option', ['padding', 'pixels'])
def test_unknown_option_is_named_in_error(option: str) -> None:
    with pytest.raises(UserError, match=f"{option}='other' is not known"):
        build_efficientnet(**{option: 'other'})
