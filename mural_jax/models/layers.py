"""The parts that towers are built of."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.distributed.mesh import constrain_batch
from mural_jax.types import Array, UserError

# Compute dtype -> what flax takes; parameters are float32 whatever it is.
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
# 'gelu' is the exact one (BERT, ViT), 'gelu_tanh' its approximation (SigLIP), 'quick_gelu' that of
# OpenAI's CLIP.
ACTIVATIONS: dict[str, Callable] = {
    'gelu': partial(jax.nn.gelu, approximate=False),
    'gelu_tanh': partial(jax.nn.gelu, approximate=True),
    'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),
}
# What the backward pass finds kept: everything, nothing, or the results of the dense layers, these
# on the device or in the memory of its host.
REMAT = {
    'none': None,
    'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'offload': jax.checkpoint_policies.offload_dot_with_no_batch_dims('device', 'pinned_host'),
}


class Compute(NamedTuple):
    """How all towers of a run compute: the dtype, and who does attention, 'xla' or 'cudnn'."""

    dtype: Any = jnp.float32
    attention: str = 'xla'


DEFAULT = Compute()


@dataclasses.dataclass(frozen=True)
class Layers:
    """The layers of a transformer, all of one shape.

    mlp_ratio: hidden units of the MLP, in widths. dropout: of the input and of each residual
    branch, in [0, 1). remat: what the backward pass computes again, 'none', 'full' (everything
    inside a layer), 'dots' (all but dense layers) or 'offload' (as 'dots', and what dense layers
    gave waits in the host's memory). unroll: layers in one turn of the compiled loop; more compile
    longer and can run faster.
    """

    width: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    activation: str = 'gelu_tanh'
    norm_eps: float = 1e-6
    dropout: float = 0.0
    remat: str = 'none'
    unroll: int = 1

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.num_heads, self.unroll) < 1:
            raise UserError('width, depth, num_heads and unroll of layers must be at least 1.')
        if self.width % self.num_heads:
            raise UserError(f'num_heads={self.num_heads} must divide width={self.width}.')
        choose('activation', self.activation, ACTIVATIONS)
        choose('remat', self.remat, REMAT)


def choose(key: str, value: str, table: dict[str, Any]) -> Any:
    """`table[value]`. Raises UserError where there is none."""
    if value not in table:
        raise UserError(f'{key}={value!r} is not known; there are {sorted(table)}.')
    return table[value]


def split_keys(key_B: Array | None, count: int) -> Any:
    """`count` keys of each, [count, B]; no keys (evaluation: nothing is random) give none.

    Each example has a key of its own, so what is random about it depends neither on the examples
    beside it nor on how the batch is cut over devices and microbatches.
    """
    if key_B is None:
        return [None] * count
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(key_B)


def bernoulli(key_B: Array, p: Array | float, shape: tuple[int, ...]) -> Array:
    """True with probability p, bool [B, *shape], each example by its own key."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, p, shape))(key_B)


def drop(x: Array, rate: float, key_B: Array | None) -> Array:
    """Dropout (Srivastava et al. 2014): zeroes a share `rate`, scales up the rest."""
    if key_B is None or rate == 0:
        return x
    return jnp.where(bernoulli(key_B, 1 - rate, x.shape[1:]), x / (1 - rate), 0)


def again(function: Callable) -> Callable:
    """Of what is cheap: the backward pass computes it again, which costs less than its parts do.

    Normalisation keeps three float32 arrays of its input's size, GELU four.
    """
    return jax.checkpoint(function)


class Mlp(nnx.Module):
    """Two dense layers with an activation between, [..., width] -> [..., width]."""

    def __init__(self, layers: Layers, dtype: Any, rngs: nnx.Rngs, **init: Any):
        hidden = round(layers.width * layers.mlp_ratio)
        self.activation = ACTIVATIONS[layers.activation]
        self.up = nnx.Linear(layers.width, hidden, dtype=dtype, rngs=rngs, **init)
        self.down = nnx.Linear(hidden, layers.width, dtype=dtype, rngs=rngs, **init)

    def __call__(self, x_BLD: Array) -> Array:
        return self.down(again(self.activation)(self.up(x_BLD)))


class Attention(nnx.Module):
    """Multi-head self-attention (Vaswani et al. 2017), over the tokens that are real.

    Query, key and value come from one product, whose kernel [D, 3, D] can be split by heads.
    """

    def __init__(
        self, layers: Layers, causal: bool, compute: Compute, rngs: nnx.Rngs, **init: Any
    ):  # fmt: skip
        width = layers.width
        self.num_heads, self.causal, self.by = layers.num_heads, causal, compute.attention
        self.qkv = nnx.LinearGeneral(width, (3, width), dtype=compute.dtype, rngs=rngs, **init)
        self.out = nnx.Linear(width, width, dtype=compute.dtype, rngs=rngs, **init)

    def __call__(self, x_BLD: Array, mask_BL: Array | None) -> Array:
        """`mask_BL` is True where a token may be attended to, None where all may."""
        qkv_BL3D = self.qkv(x_BLD)
        query, key, value = (qkv_BL3D[:, :, part] for part in range(3))
        mixed_BLD = attend(query, key, value, self.num_heads, mask_BL, self.causal, self.by)
        return self.out(mixed_BLD)


def attend(
    query_BQD: Array, key_BLD: Array, value_BLD: Array, num_heads: int,
    mask_BL: Array | None = None, causal: bool = False, by: str = 'xla',
) -> Array:  # fmt: skip
    """softmax(q k / sqrt(D / num_heads)) v by heads, [B, Q, D]; softmax in float32."""
    heads = [x.reshape(*x.shape[:2], num_heads, -1) for x in (query_BQD, key_BLD, value_BLD)]
    mask = None if mask_BL is None else mask_BL[:, None, None, :]
    if by == 'cudnn':
        return flash(heads, mask, causal, by).reshape(query_BQD.shape)
    attention: Callable = jax.nn.dot_product_attention
    return attention(*heads, mask=mask, is_causal=causal).reshape(query_BQD.shape)


def flash(heads: list[Array], mask_B11L: Array | None, causal: bool, by: str) -> Array:
    """Attention in the shapes that cuDNN's kernel takes, [B, Q, N, D / N].

    jax 0.11 refuses odd lengths in training, and a mask that is not given for each query. A
    position too many is no key to any query.
    """
    batch, num_queries = heads[0].shape[:2]
    length = heads[1].shape[1]
    lengths = {}
    if mask_B11L is None and length % 2:
        lengths = {
            'query_seq_lengths': jnp.full(batch, num_queries, jnp.int32),
            'key_value_seq_lengths': jnp.full(batch, length, jnp.int32),
        }
    query, key, value = (even(x, 1) for x in heads)
    if mask_B11L is not None:
        mask_B11L = even(mask_B11L, 3)
        mask_B11L = jnp.broadcast_to(mask_B11L, (batch, 1, query.shape[1], key.shape[1]))
    attention: Callable = jax.nn.dot_product_attention
    mixed = attention(
        query, key, value, mask=mask_B11L, is_causal=causal, implementation=by, **lengths
    )
    return mixed[:, :num_queries]


def even(x: Array, axis: int) -> Array:
    """The array with a zero more along `axis` where its length is odd."""
    return jnp.pad(x, [(0, x.shape[axis] % 2 if i == axis else 0) for i in range(x.ndim)])


class Block(nnx.Module):
    """A transformer layer: pre-norm x + f(norm(x)), or post-norm norm(x + f(x))."""

    def __init__(
        self, layers: Layers, causal: bool, post_norm: bool, compute: Compute, rngs: nnx.Rngs,
        **init: Any,
    ):  # fmt: skip
        self.dropout, self.post_norm = layers.dropout, post_norm
        self.attention_norm = nnx.LayerNorm(layers.width, epsilon=layers.norm_eps, rngs=rngs)
        self.attention = Attention(layers, causal, compute, rngs, **init)
        self.mlp_norm = nnx.LayerNorm(layers.width, epsilon=layers.norm_eps, rngs=rngs)
        self.mlp = Mlp(layers, compute.dtype, rngs, **init)

    def __call__(self, x_BLD: Array, mask_BL: Array | None, key_B: Array | None) -> Array:
        first, second = split_keys(key_B, 2)
        x_BLD = self._add(x_BLD, self.attention_norm, first, lambda x: self.attention(x, mask_BL))
        return self._add(x_BLD, self.mlp_norm, second, self.mlp)

    def _add(
        self, x_BLD: Array, norm: nnx.LayerNorm, key_B: Array | None, branch: Callable
    ) -> Array:  # fmt: skip
        if self.post_norm:
            x_BLD = x_BLD + drop(branch(x_BLD), self.dropout, key_B)
            return again(norm)(x_BLD).astype(x_BLD.dtype)
        return x_BLD + drop(branch(again(norm)(x_BLD)), self.dropout, key_B)


class Stack(nnx.Module):
    """The layers, one after the other, compiled once: their parameters are stacked in front."""

    def __init__(
        self, layers: Layers, compute: Compute, rngs: nnx.Rngs, causal: bool = False,
        post_norm: bool = False, **init: Any,
    ):  # fmt: skip
        self.layers = layers
        self.blocks = stacked(
            layers.depth, lambda rngs: Block(layers, causal, post_norm, compute, rngs, **init), rngs
        )

    def __call__(self, x_BLD: Array, mask_BL: Array | None, key_B: Array | None) -> Array:
        layers = self.layers
        keys = None if key_B is None else split_keys(key_B, layers.depth)

        def call(block: Block, x_BLD: Array, key_B: Array | None) -> Array:
            return block(x_BLD, mask_BL, key_B)

        return run_stacked(self.blocks, call, x_BLD, keys, layers.remat, layers.unroll)


def stacked(depth: int, build: Callable, rngs: nnx.Rngs) -> Any:
    """`depth` modules of one shape as one, their arrays stacked along a new first dimension.

    Name it `blocks`: optimizers that measure an array layer by layer know it by that.
    """
    return nnx.split_rngs(splits=depth)(nnx.vmap(build, in_axes=0, out_axes=0))(rngs)


def run_stacked(
    blocks: Any, call: Callable, x: Array, each: Any, remat: str = 'none', unroll: int = 1
) -> Array:
    """x -> call(block, x, each[i]) for one block after the other, in one compiled loop.

    `each` is a tree of arrays with a first dimension of one entry a block, or None. Batch
    statistics that the blocks change are kept in `blocks`.
    """
    graphdef, *states = nnx.split(blocks, nnx.Param, nnx.BatchStat)

    def layer(x: Array, scanned: Any) -> tuple[Array, Any]:
        states, own = scanned
        block = nnx.merge(graphdef, *states)
        # Examples stay where they are: else a compiler may gather them instead of the parameters.
        x = constrain_batch(call(block, constrain_batch(x), own))
        return x, nnx.state(block, nnx.BatchStat)

    if REMAT[remat] is not None:
        layer = jax.checkpoint(layer, policy=REMAT[remat], prevent_cse=False)
    x, passed = jax.lax.scan(layer, x, (states, each), unroll=unroll)
    nnx.update(blocks, passed)
    return x


def masked_mean(x_BLD: Array, mask_BL: Array | None) -> Array:
    """The mean over real tokens, float32 [B, D]; zero where there is none."""
    if mask_BL is None:
        return x_BLD.astype(jnp.float32).mean(1)
    weight_BL1 = mask_BL[..., None].astype(jnp.float32)
    total_BD = (x_BLD.astype(jnp.float32) * weight_BL1).sum(1)
    return total_BD / jnp.maximum(weight_BL1.sum(1), 1)


def unit_norm(x_BD: Array) -> Array:
    """x / |x| in float32; a zero vector stays zero."""
    x_BD = x_BD.astype(jnp.float32)
    return x_BD * jax.lax.rsqrt(jnp.maximum((x_BD**2).sum(-1, keepdims=True), 1e-12))
