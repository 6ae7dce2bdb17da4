"""Image towers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.models.layers import DTYPES, Stack, drop, masked_mean, split_key
from mural_jax.types import Array, Encoding, UserError


class ViT(nnx.Module):
    """A vision transformer (Dosovitskiy et al. 2021, arXiv:2010.11929), pooled by the mean.

    patches: the strides of the patch embedding. (16,) is ViT's own. (4, 2, 2) makes the same 16
    pixel patches in three levels with batch norm and a GELU between, which learns faster from
    few pictures (early convolutions, Xiao et al. 2021, arXiv:2106.14881, here without overlap).
    stem: channels of all levels but the last, which has `width`. depth: transformer layers.
    """

    def __init__(
        self, *, rngs: nnx.Rngs, image_size: int, width: int, depth: int, num_heads: int,
        patches: tuple[int, ...] = (16,), stem: tuple[int, ...] = (), mlp_ratio: float = 4.0,
        dropout: float = 0.0, dtype: str = 'float32',
    ):  # fmt: skip
        if image_size % math.prod(patches) or width % num_heads:
            raise UserError(
                f'patches={patches} must divide image_size={image_size} and '
                f'num_heads={num_heads} must divide width={width}.'
            )
        if len(stem) != len(patches) - 1:
            raise UserError(f'stem={stem} must have one number less than patches={patches}.')
        self.width, self.dropout, self.dtype = width, dropout, DTYPES[dtype]
        channels = [3, *stem, width]
        self.patches = nnx.List(
            PatchLevel(patch, channels[i], channels[i + 1], self.dtype, rngs)
            for i, patch in enumerate(patches)
        )
        self.norms = nnx.List(nnx.BatchNorm(size, momentum=0.9, rngs=rngs) for size in stem)
        length = (image_size // math.prod(patches)) ** 2
        initial = nnx.initializers.normal(0.02)
        self.position_LD = nnx.Param(initial(rngs.params(), (length, width)))
        self.stack = Stack(depth, width, num_heads, mlp_ratio, dropout, self.dtype, rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, image_BHWC: Array, key: Array | None = None) -> Encoding:
        """uint8 [B, H, W, 3] -> Encoding; a `key` means training: dropout, batch statistics."""
        # White, the ground of most pictures, is zero.
        x = (2 - image_BHWC.astype(jnp.float32) / 127.5).astype(self.dtype)
        for patch, norm in zip(self.patches[:-1], self.norms):
            x = jax.nn.gelu(norm(patch(x), use_running_average=key is None))
        x_BLD = self.patches[-1](x).reshape(len(image_BHWC), -1, self.width)
        first, second = split_key(key, 2)
        x_BLD = drop(x_BLD + self.position_LD[...].astype(self.dtype)[None], self.dropout, first)
        mask_BL = jnp.ones(x_BLD.shape[:2], bool)
        tokens_BLD = self.norm(self.stack(x_BLD, mask_BL, second))
        return Encoding(masked_mean(tokens_BLD, mask_BL), tokens_BLD, mask_BL)


class PatchLevel(nnx.Module):
    """Cuts a picture into patches and maps each linearly, [B, H, W, C] -> [B, H/p, W/p, D].

    A convolution with stride p, written as a matrix product: several times faster on a CPU.
    """

    def __init__(self, patch: int, channels: int, width: int, dtype: Any, rngs: nnx.Rngs):
        self.patch = patch
        self.linear = nnx.Linear(patch * patch * channels, width, dtype=dtype, rngs=rngs)

    def __call__(self, x_BHWC: Array) -> Array:
        batch, height, width, channels = x_BHWC.shape
        p = self.patch
        x = x_BHWC.reshape(batch, height // p, p, width // p, p, channels)
        x = x.transpose(0, 1, 3, 2, 4, 5)
        return self.linear(x.reshape(batch, height // p, width // p, p * p * channels))
