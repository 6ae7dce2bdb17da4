"""The parts that towers are built of."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.types import Array

# Compute dtype -> what flax takes; parameters are float32 whatever it is.
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}


def split_key(key: Array | None, count: int) -> list[Array | None]:
    """`count` keys of one; no key (evaluation: nothing is random) gives none."""
    return [None] * count if key is None else list(jax.random.split(key, count))


def drop(x: Array, rate: float, key: Array | None) -> Array:
    """Dropout (Srivastava et al. 2014): zeroes a share `rate`, scales up the rest."""
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(kept, x / (1 - rate), 0)


class Mlp(nnx.Module):
    """Two dense layers with a GELU between, [..., width] -> [..., width]."""

    def __init__(self, width: int, hidden: int, dtype: Any, rngs: nnx.Rngs):
        self.up = nnx.Linear(width, hidden, dtype=dtype, rngs=rngs)
        self.down = nnx.Linear(hidden, width, dtype=dtype, rngs=rngs)

    def __call__(self, x_BLD: Array) -> Array:
        return self.down(jax.nn.gelu(self.up(x_BLD)))


class Attention(nnx.Module):
    """Multi-head self-attention (Vaswani et al. 2017) over the tokens that are real."""

    def __init__(self, width: int, num_heads: int, dtype: Any, rngs: nnx.Rngs):
        assert width % num_heads == 0, 'checked by the tower'
        self.num_heads = num_heads
        self.qkv = nnx.Linear(width, 3 * width, dtype=dtype, rngs=rngs)
        self.out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, x_BLD: Array, mask_BL: Array) -> Array:
        batch, length, width = x_BLD.shape
        shape = (batch, length, self.num_heads, width // self.num_heads)
        query, key, value = (part.reshape(shape) for part in jnp.split(self.qkv(x_BLD), 3, axis=-1))
        mixed = jax.nn.dot_product_attention(query, key, value, mask=mask_BL[:, None, None, :])
        return self.out(mixed.reshape(x_BLD.shape))


class Block(nnx.Module):
    """A pre-norm transformer layer."""

    def __init__(
        self, width: int, num_heads: int, mlp_ratio: float, dropout: float, dtype: Any,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.dropout = dropout
        self.attention_norm = nnx.LayerNorm(width, rngs=rngs)
        self.attention = Attention(width, num_heads, dtype, rngs)
        self.mlp_norm = nnx.LayerNorm(width, rngs=rngs)
        self.mlp = Mlp(width, int(width * mlp_ratio), dtype, rngs)

    def __call__(self, x_BLD: Array, mask_BL: Array, key: Array | None) -> Array:
        first, second = split_key(key, 2)
        mixed_BLD = self.attention(self.attention_norm(x_BLD), mask_BL)
        x_BLD = x_BLD + drop(mixed_BLD, self.dropout, first)
        return x_BLD + drop(self.mlp(self.mlp_norm(x_BLD)), self.dropout, second)


class Stack(nnx.Module):
    """`depth` blocks, one after the other, compiled once: their parameters are stacked."""

    def __init__(
        self, depth: int, width: int, num_heads: int, mlp_ratio: float, dropout: float,
        dtype: Any, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.depth = depth

        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=0, out_axes=0)
        def blocks(rngs: nnx.Rngs) -> Block:
            return Block(width, num_heads, mlp_ratio, dropout, dtype, rngs)

        self.blocks = blocks(rngs)

    def __call__(self, x_BLD: Array, mask_BL: Array, key: Array | None) -> Array:
        graphdef, params = nnx.split(self.blocks)

        def layer(x_BLD: Array, scanned: tuple[Any, Array | None]) -> tuple[Array, None]:
            params, key = scanned
            return nnx.merge(graphdef, params)(x_BLD, mask_BL, key), None

        keys = None if key is None else jax.random.split(key, self.depth)
        x_BLD, _ = jax.lax.scan(layer, x_BLD, (params, keys))
        return x_BLD


def masked_mean(x_BLD: Array, mask_BL: Array) -> Array:
    """The mean over real tokens, float32 [B, D]; zero where there is none."""
    weight_BL1 = mask_BL[..., None].astype(jnp.float32)
    total_BD = (x_BLD.astype(jnp.float32) * weight_BL1).sum(1)
    return total_BD / jnp.maximum(weight_BL1.sum(1), 1)


def unit_norm(x_BD: Array) -> Array:
    """x / |x| in float32; a zero vector stays zero."""
    x_BD = x_BD.astype(jnp.float32)
    return x_BD * jax.lax.rsqrt(jnp.maximum((x_BD**2).sum(-1, keepdims=True), 1e-12))
