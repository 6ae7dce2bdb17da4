"""Vision transformers: patches, pooling, batch statistics of the stem, settings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from models.towers import build_vit, random_images

from mural_jax.models import functional
from mural_jax.models.layers import Layers
from mural_jax.models.vision import PatchLevel, ViT
from mural_jax.types import UserError

DEEP = Layers(width=16, depth=4, num_heads=2, dropout=0.1)


@pytest.mark.parametrize('pool', ['mean', 'class', 'map'])
def test_every_pooling_gives_a_vector_and_tokens(pool: str) -> None:
    tower = ViT(rngs=nnx.Rngs(0), layers=DEEP, image_size=16, patches=(8,), pool=pool)
    encoding = tower(random_images(2, 16))
    assert encoding.pooled_BD.shape == (2, 16)
    assert encoding.tokens_BLD.shape == (2, 5 if pool == 'class' else 4, 16)


def test_patch_level_equals_a_strided_convolution() -> None:
    level = PatchLevel(4, 3, 5, True, jnp.float32, nnx.Rngs(0))
    image = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    kernel = level.linear.kernel[...].reshape(4, 4, 3, 5)
    expected = jax.lax.conv_general_dilated(
        image, kernel, (4, 4), 'VALID', dimension_numbers=('NHWC', 'HWIO', 'NHWC')
    )
    np.testing.assert_allclose(level(image), expected, atol=1e-5)


def test_batch_statistics_change_in_training_only() -> None:
    tower, image = build_vit(), random_images(4, 16)
    before = functional.read_batch_statistics(tower)
    tower(image)
    evaluated = functional.read_batch_statistics(tower)
    assert jax.tree.all(jax.tree.map(np.array_equal, before, evaluated))
    tower(image, jax.random.split(jax.random.key(0), 4))
    trained = functional.read_batch_statistics(tower)
    assert not jax.tree.all(jax.tree.map(np.array_equal, before, trained))


@pytest.mark.parametrize('wrong', [{'patches': (3, 2)}, {'stem': ()}, {'pool': 'max'}])
def test_settings_that_do_not_fit_raise_user_error(wrong: dict) -> None:
    with pytest.raises(UserError):
        build_vit(**wrong)
