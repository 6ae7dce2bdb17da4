"""Small towers, inputs for them, and one training pass; shared by the tests of models."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from mural_jax.models import functional
from mural_jax.models.convnets import EfficientNet
from mural_jax.models.fusion import Fusion
from mural_jax.models.layers import Layers
from mural_jax.models.one_stream import OneStream
from mural_jax.models.spaces import Space, SpaceModel
from mural_jax.models.text import Transformer
from mural_jax.models.vision import ViT
from mural_jax.types import Array

LAYERS = Layers(width=16, depth=2, num_heads=2)
FUSION_LAYERS = Layers(width=16, depth=2, num_heads=2, dropout=0.1, norm_eps=1e-12)
TEXT_BL = jnp.array([[2, 9, 7, 3, 0, 0], [2, 5, 3, 0, 0, 0]])


def build_text(layers: Layers = LAYERS, kind: type = Transformer, **options: Any) -> Any:
    settings = dict(vocab_size=50, max_length=8, layers=layers) | options
    return kind(rngs=nnx.Rngs(0), **settings)


def build_vit(layers: Layers = LAYERS, **options: Any) -> ViT:
    settings = dict(image_size=16, layers=layers, patches=(2, 2), stem=(8,)) | options
    return ViT(rngs=nnx.Rngs(0), **settings)


def build_efficientnet(**options: Any) -> EfficientNet:
    return EfficientNet(rngs=nnx.Rngs(0), width_factor=0.2, depth_factor=1.0, **options)


def build_fusion(**options: Any) -> Fusion:
    settings = dict(vocab_size=20, layers=FUSION_LAYERS, max_length=6, feature_size=4)
    return Fusion(rngs=nnx.Rngs(0), **(settings | options))


def build_one_stream(pool: str = 'mean') -> OneStream:
    """A model with one space, `pairs`."""
    space = Space(sides=('image', 'text'), embedding=8, temperature=0.07)
    widths = {'image': 16, 'text': 16}
    return OneStream(
        fusion=build_fusion(pool=pool),
        num_classes=7,
        norm_eps=1e-12,
        rngs=nnx.Rngs(2),
        spaces={'pairs': SpaceModel(space, 'spaces.pairs', widths, nnx.Rngs(1))},
    )


def random_images(count: int, size: int) -> Array:
    """uint8 [count, size, size, 3]."""
    shape = (count, size, size, 3)
    return jax.random.randint(jax.random.key(0), shape, 0, 255).astype(jnp.uint8)


def random_regions(geometry: int = 5) -> Array:
    """float32 [2, 3, 4 + geometry]; the last region of the second image is padding."""
    feature_BRF, corner_BR2 = (
        jax.random.uniform(jax.random.key(i), (2, 3, size)) for i, size in enumerate((4, 2))
    )
    box_BR4 = jnp.concatenate([corner_BR2 / 2, corner_BR2 / 2 + 0.3], axis=-1)
    size_BR2 = jnp.full((2, 3, 2), 0.3)
    box_BRG = jnp.concatenate([box_BR4, size_BR2[..., : geometry - 4]], axis=-1)
    real_BR1 = jnp.array([[1, 1, 1], [1, 1, 0]])[..., None]
    return jnp.concatenate([feature_BRF, box_BRG], axis=-1) * real_BR1


def run_training_pass(tower: nnx.Module, inputs: Array) -> tuple:
    """(gradient, encoding, batch statistics after the pass) of a tower in training."""
    graphdef, params, statistics = functional.split(tower)

    @jax.jit
    def compute(params: dict) -> tuple:
        def loss(params: dict) -> tuple:
            model = functional.merge(graphdef, params, statistics)
            encoding = model(inputs, jax.random.split(jax.random.key(5), len(inputs)))
            value = (encoding.pooled_BD**2).sum()
            return value, (encoding, functional.read_batch_statistics(model))

        gradient, outputs = jax.grad(loss, has_aux=True)(params)
        return gradient, *outputs

    return compute(params)


def assert_trees_close(left: object, right: object, atol: float = 1e-5) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=atol)


def largest_difference(left: Array, right: Array) -> float:
    return float(np.abs(left - right).max())
