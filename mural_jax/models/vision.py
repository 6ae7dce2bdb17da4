"""Vision transformers, and the pixel normalisation of all image towers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.models.layers import (
    DEFAULT_COMPUTE,
    Compute,
    Layers,
    Mlp,
    Stack,
    apply_dropout,
    attend,
    look_up,
    masked_mean,
    split_keys,
)
from mural_jax.types import Array, Encoding, UserError

# Mean and standard deviation of each channel on a scale where black is 0 and white is 1, named
# after the weights that expect them.
PIXEL_STATISTICS = {
    'imagenet': ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),  # torchvision, timm, ResNet
    'clip': ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    'half': ((0.5,) * 3, (0.5,) * 3),  # [-1, 1]: big_vision, SigLIP, ViT
    # Black becomes 2 and white, the background of most drawings, becomes 0 (ours).
    'white': ((1.0,) * 3, (-0.5,) * 3),
}
POOLINGS = ('mean', 'class', 'map')


def normalise_pixels(image_BHWC: Array, pixels: str) -> Array:
    """uint8 [B, H, W, 3] -> float32, (x / 255 - mean) / (standard deviation).

    `pixels` is a key of PIXEL_STATISTICS.
    """
    mean_C, deviation_C = (jnp.array(values, jnp.float32) for values in PIXEL_STATISTICS[pixels])
    # One multiplication and one addition per pixel instead of two divisions and a subtraction.
    scale_C, shift_C = 1 / (255 * deviation_C), -mean_C / deviation_C
    return image_BHWC.astype(jnp.float32) * scale_C[None, None, None] + shift_C[None, None, None]


class ViT(nnx.Module):
    """A vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929).

    layers: The transformer layers.
    image_size: Height and width of the images in pixels.
    patches: The strides of the patch embedding. (16,) is the published one. (4, 2, 2) makes patches
      of the same 16 pixels in three levels with batch norm and GELU between them, which learns
      faster from few images (early convolutions, Xiao et al. 2021, arXiv:2106.14881, here without
      overlap).
    stem: Output channels of every level but the last, which has the width of the layers.
    pool: 'mean' of all tokens; 'class', a class token in front of the patches (ViT, CLIP); or
      'map', attention by a learned query (Zhai et al. 2022, arXiv:2106.04560; SigLIP).
    pixels: A key of PIXEL_STATISTICS.
    embedding_norm: Whether a layer norm follows the position embeddings (CLIP).
    patch_bias: Whether the patch embedding has a bias (CLIP's has none).

    Raises UserError if `image_size` is not a multiple of the patch size, or if `stem` does not have
    one number less than `patches`.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        layers: Layers,
        image_size: int,
        patches: tuple[int, ...] = (16,),
        stem: tuple[int, ...] = (),
        pool: str = 'mean',
        pixels: str = 'half',
        embedding_norm: bool = False,
        patch_bias: bool = True,
        compute: Compute = DEFAULT_COMPUTE,
    ):
        look_up('pool', pool, dict.fromkeys(POOLINGS))
        look_up('pixels', pixels, PIXEL_STATISTICS)
        if image_size % math.prod(patches):
            raise UserError(f'patches={patches} must divide image_size={image_size}.')
        if len(stem) != len(patches) - 1:
            raise UserError(f'stem={stem} must have one number less than patches={patches}.')
        width = layers.width
        self.width, self.dropout, self.dtype = width, layers.dropout, compute.dtype
        self.pool, self.pixels = pool, pixels
        channels = [3, *stem, width]
        self.patches = nnx.List(
            PatchLevel(patch, channels[i], channels[i + 1], patch_bias, compute.dtype, rngs)
            for i, patch in enumerate(patches)
        )
        self.norms = nnx.List(nnx.BatchNorm(size, momentum=0.9, rngs=rngs) for size in stem)
        # The class token has a position embedding, too.
        length = (image_size // math.prod(patches)) ** 2 + (pool == 'class')
        init = nnx.initializers.normal(0.02)
        self.position_LD = nnx.Param(init(rngs.params(), (length, width)))
        if pool == 'class':
            self.class_D = nnx.Param(init(rngs.params(), (width,)))
        if embedding_norm:
            self.embedding_norm = nnx.LayerNorm(width, epsilon=layers.norm_eps, rngs=rngs)
        self.stack = Stack(layers, compute, rngs)
        self.norm = nnx.LayerNorm(width, epsilon=layers.norm_eps, rngs=rngs)
        if pool == 'map':
            self.map = AttentionPooling(layers, compute, rngs)

    def __call__(self, image_BHWC: Array, key_B: Array | None = None) -> Encoding:
        """uint8 [B, H, W, 3] -> Encoding; its tokens are the class token, if any, and the patches.

        With `key_B` the pass is a training pass: it applies dropout and updates batch statistics.
        """
        dropout_key_B, stack_key_B = split_keys(key_B, 2)
        with jax.named_scope('patches'):
            x_BLD = self._embed(image_BHWC, training=key_B is not None)
        with jax.named_scope('stack'):
            x_BLD = apply_dropout(x_BLD, self.dropout, dropout_key_B)
            x_BLD = self.stack(x_BLD, None, stack_key_B)
        tokens_BLD = self.norm(x_BLD)
        if self.pool == 'mean':
            pooled_BD = masked_mean(tokens_BLD, None)
        elif self.pool == 'class':
            pooled_BD = tokens_BLD[:, 0].astype(jnp.float32)
        else:
            with jax.named_scope('map'):
                pooled_BD = self.map(tokens_BLD)
        return Encoding(pooled_BD, tokens_BLD, jnp.ones(tokens_BLD.shape[:2], bool))

    def _embed(self, image_BHWC: Array, training: bool) -> Array:
        """Patches and the class token, if any, with their position embeddings, [B, L, D]."""
        x_BHWC = normalise_pixels(image_BHWC, self.pixels).astype(self.dtype)
        for patch, norm in zip(self.patches[:-1], self.norms):
            x_BHWC = jax.nn.gelu(norm(patch(x_BHWC), use_running_average=not training))
        x_BLD = self.patches[-1](x_BHWC).reshape(image_BHWC.shape[0], -1, self.width)
        if self.pool == 'class':
            class_B1D = jnp.tile(self.class_D[...].astype(self.dtype), (x_BLD.shape[0], 1, 1))
            x_BLD = jnp.concatenate([class_B1D, x_BLD], axis=1)
        x_BLD = x_BLD + self.position_LD[...].astype(self.dtype)[None]
        if hasattr(self, 'embedding_norm'):
            x_BLD = self.embedding_norm(x_BLD).astype(self.dtype)
        return x_BLD


class PatchLevel(nnx.Module):
    """Cuts an image into p x p patches and maps each linearly, [B, H, W, C] -> [B, H/p, W/p, D].

    This is a convolution with kernel size and stride p, written as a matrix product because that is
    several times faster on a CPU.
    """

    def __init__(
        self, patch: int, channels: int, width: int, bias: bool, dtype: Any, rngs: nnx.Rngs
    ):
        self.patch = patch
        self.linear = nnx.Linear(
            patch * patch * channels, width, use_bias=bias, dtype=dtype, rngs=rngs
        )

    def __call__(self, x_BHWC: Array) -> Array:
        batch, height, width, channels = x_BHWC.shape
        p = self.patch
        x = x_BHWC.reshape(batch, height // p, p, width // p, p, channels)
        # Inside a patch the order is (row, column, channel), as in a convolution kernel
        # [p, p, C, D], so published kernels fit after a reshape.
        x = x.transpose(0, 1, 3, 2, 4, 5)
        return self.linear(x.reshape(batch, height // p, width // p, p * p * channels))


class AttentionPooling(nnx.Module):
    """Multi-head attention pooling (Lee et al. 2019, arXiv:1810.00825), [B, L, D] -> [B, D].

    A learned query attends to all tokens: y = attention(query, tokens), pooled = y + MLP(norm(y)).
    """

    def __init__(self, layers: Layers, compute: Compute, rngs: nnx.Rngs):
        width = layers.width
        self.num_heads, self.implementation = layers.num_heads, compute.attention
        init = nnx.initializers.xavier_uniform()
        self.query_1D = nnx.Param(init(rngs.params(), (1, width)))
        self.query = nnx.Linear(width, width, dtype=compute.dtype, rngs=rngs)
        self.key_value = nnx.LinearGeneral(width, (2, width), dtype=compute.dtype, rngs=rngs)
        self.out = nnx.Linear(width, width, dtype=compute.dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=layers.norm_eps, rngs=rngs)
        self.mlp = Mlp(layers, compute.dtype, rngs)

    def __call__(self, x_BLD: Array) -> Array:
        query_11D = self.query(self.query_1D[...])[None]
        # The query does not depend on the example, so its projection is computed once.
        query_B1D = jnp.tile(query_11D, (x_BLD.shape[0], 1, 1))
        key_value_BL2D = self.key_value(x_BLD)
        key_BLD, value_BLD = key_value_BL2D[:, :, 0], key_value_BL2D[:, :, 1]
        mixed_B1D = attend(
            query_B1D, key_BLD, value_BLD, self.num_heads, implementation=self.implementation
        )
        pooled_BD = self.out(mixed_B1D)[:, 0].astype(jnp.float32)
        return pooled_BD + self.mlp(self.norm(pooled_BD)).astype(jnp.float32)
