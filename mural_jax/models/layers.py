"""Building blocks of the towers: dense layers, attention, transformer layers, dropout, pooling."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.config.changes import MEANS
from mural_jax.distributed.mesh import constrain_batch
from mural_jax.types import Array, UserError

# The dtypes that config.model.dtype accepts. Parameters are always float32.
DTYPES = {'float32': jnp.float32, 'bfloat16': jnp.bfloat16}
# 'gelu' is the exact function (BERT, ViT), 'gelu_tanh' its tanh approximation (SigLIP) and
# 'quick_gelu' the approximation of OpenAI's CLIP. Published weights need the one they were
# trained with.
ACTIVATIONS: dict[str, Callable] = {
    'gelu': partial(jax.nn.gelu, approximate=False),
    'gelu_tanh': partial(jax.nn.gelu, approximate=True),
    'quick_gelu': lambda x: x * jax.nn.sigmoid(1.702 * x),
}
# Which intermediate results of a layer are stored for the backward pass. A product "without batch
# dimensions" is a dense layer; attention scores have batch dimensions, so 'dots' recomputes them.
REMAT_POLICIES = {
    'none': None,  # all of them
    'full': jax.checkpoint_policies.nothing_saveable,
    'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    'offload': jax.checkpoint_policies.offload_dot_with_no_batch_dims('device', 'pinned_host'),
}


class Compute(NamedTuple):
    """How all towers of a model compute.

    Attributes:
      dtype: The dtype of matrix products and activations.
      attention: The implementation of attention, 'xla' or 'cudnn'.
    """

    dtype: Any = jnp.float32
    attention: str = 'xla'


DEFAULT_COMPUTE = Compute()


@dataclasses.dataclass(frozen=True)
class Layers:
    """The shape of a stack of identical transformer layers, and how the stack is compiled.

    mlp_ratio: Hidden units of the MLP as a multiple of the width.
    dropout: Dropout rate of the input and of each residual branch, in [0, 1).
    remat: What the backward pass recomputes instead of storing it: 'none'; 'full', everything
      inside a layer; 'dots', everything but the results of dense layers; 'offload', the same as
      'dots', with the results of dense layers stored in host memory.
    unroll: Layers per iteration of the compiled loop. Larger values compile longer and can run
      faster.
    """

    width: int
    depth: int
    num_heads: int
    mlp_ratio: float = 4.0
    activation: str = 'gelu_tanh'
    norm_eps: float = 1e-6
    dropout: float = 0.0
    remat: Annotated[str, MEANS] = 'none'
    unroll: Annotated[int, MEANS] = 1

    def __post_init__(self) -> None:
        if min(self.width, self.depth, self.num_heads, self.unroll) < 1:
            raise UserError('width, depth, num_heads and unroll of layers must be at least 1.')
        if self.width % self.num_heads:
            raise UserError(f'num_heads={self.num_heads} must divide width={self.width}.')
        look_up('activation', self.activation, ACTIVATIONS)
        look_up('remat', self.remat, REMAT_POLICIES)


def look_up(field: str, value: str, table: dict[str, Any]) -> Any:
    """`table[value]`. Raises UserError, which names the config field, for an unknown value."""
    if value not in table:
        raise UserError(f'{field}={value!r} is not known; the known values are {sorted(table)}.')
    return table[value]


# --- Randomness: one key per example ---


def split_keys(key_B: Array | None, count: int) -> Any:
    """`count` new keys for each example, [count, B]; `count` times None where `key_B` is None.

    No keys mean evaluation, where nothing is random.

    Each example has its own key, so its randomness depends neither on the other examples of the
    batch nor on how the batch is divided among devices and microbatches.
    """
    if key_B is None:
        return [None] * count
    return jax.vmap(lambda key: jax.random.split(key, count), out_axes=1)(key_B)


def draw_bernoulli(key_B: Array, p: Array | float, shape: tuple[int, ...]) -> Array:
    """bool [B, *shape], True with probability p; each example draws with its own key."""
    return jax.vmap(lambda key: jax.random.bernoulli(key, p, shape))(key_B)


def apply_dropout(x: Array, rate: float, key_B: Array | None) -> Array:
    """x with a share `rate` of its entries set to zero and the others divided by 1 - rate.

    Srivastava et al. 2014. Returns x unchanged in evaluation, where `key_B` is None.
    """
    if key_B is None or rate == 0:
        return x
    return jnp.where(draw_bernoulli(key_B, 1 - rate, x.shape[1:]), x / (1 - rate), 0)


# --- The parts of a transformer layer ---


def rematerialise(function: Callable) -> Callable:
    """The same function, recomputed in the backward pass. For functions that are cheap to compute.

    Their intermediate results cost more memory traffic than their computation costs time: a
    normalisation would store three float32 arrays of the size of its input, a GELU four.
    """
    return jax.checkpoint(function)


class Mlp(nnx.Module):
    """Two dense layers with an activation between them, [..., width] -> [..., width]."""

    def __init__(self, layers: Layers, dtype: Any, rngs: nnx.Rngs, **init: Any):
        hidden = round(layers.width * layers.mlp_ratio)
        self.activation = ACTIVATIONS[layers.activation]
        self.up = nnx.Linear(layers.width, hidden, dtype=dtype, rngs=rngs, **init)
        self.down = nnx.Linear(hidden, layers.width, dtype=dtype, rngs=rngs, **init)

    def __call__(self, x_BLD: Array) -> Array:
        return self.down(rematerialise(self.activation)(self.up(x_BLD)))


class Attention(nnx.Module):
    """Multi-head self-attention (Vaswani et al. 2017) over the real tokens of each example.

    One product computes queries, keys and values. Its kernel is [D, 3, D] and not [D, 3 D], so
    that tensor parallelism can split the last dimension by heads.
    """

    def __init__(self, layers: Layers, causal: bool, compute: Compute, rngs: nnx.Rngs, **init: Any):
        width = layers.width
        self.num_heads, self.causal = layers.num_heads, causal
        self.implementation = compute.attention
        self.qkv = nnx.LinearGeneral(width, (3, width), dtype=compute.dtype, rngs=rngs, **init)
        self.out = nnx.Linear(width, width, dtype=compute.dtype, rngs=rngs, **init)

    def __call__(self, x_BLD: Array, mask_BL: Array | None) -> Array:
        """`mask_BL` is True for the tokens that may be attended to; None means all tokens."""
        qkv_BL3D = self.qkv(x_BLD)
        query_BLD, key_BLD, value_BLD = (qkv_BL3D[:, :, part] for part in range(3))
        mixed_BLD = attend(
            query_BLD,
            key_BLD,
            value_BLD,
            self.num_heads,
            mask_BL,
            causal=self.causal,
            implementation=self.implementation,
        )
        return self.out(mixed_BLD)


def attend(
    query_BQD: Array,
    key_BLD: Array,
    value_BLD: Array,
    num_heads: int,
    mask_BL: Array | None = None,
    causal: bool = False,
    implementation: str = 'xla',
) -> Array:
    """softmax(q k^T / sqrt(D / num_heads)) v for each head, [B, Q, D]; the softmax is float32."""
    heads = [x.reshape(*x.shape[:2], num_heads, -1) for x in (query_BQD, key_BLD, value_BLD)]
    mask_B11L = None if mask_BL is None else mask_BL[:, None, None, :]
    if implementation == 'cudnn':
        return attend_with_cudnn(heads, mask_B11L, causal, implementation).reshape(query_BQD.shape)
    attention: Callable = jax.nn.dot_product_attention
    return attention(*heads, mask=mask_B11L, is_causal=causal).reshape(query_BQD.shape)


def attend_with_cudnn(
    heads: list[Array], mask_B11L: Array | None, causal: bool, implementation: str
) -> Array:
    """Attention in the shapes that cuDNN's flash attention accepts, [B, Q, heads, D / heads].

    In training jax 0.11 refuses odd lengths, and masks without a dimension for the queries. So
    odd lengths are padded by one position, which no query can attend to, and masks are broadcast.

    Args:
      heads: Queries [B, Q, heads, D / heads], keys and values [B, L, heads, D / heads].
      mask_B11L: True for the tokens that may be attended to; None means all tokens.
      causal: Whether a token sees only itself and the tokens before it.
      implementation: 'cudnn'; tests pass 'xla' to check the padding without a GPU.
    """
    batch, num_queries = heads[0].shape[:2]
    length = heads[1].shape[1]
    lengths = {}
    if mask_B11L is None and length % 2:
        # Without a mask, only these lengths hide the padded position from the queries.
        lengths = {
            'query_seq_lengths': jnp.full(batch, num_queries, jnp.int32),
            'key_value_seq_lengths': jnp.full(batch, length, jnp.int32),
        }
    query, key, value = (pad_to_even(x, 1) for x in heads)
    if mask_B11L is not None:
        mask_B11L = pad_to_even(mask_B11L, 3)
        mask_B1QL = jnp.broadcast_to(mask_B11L, (batch, 1, query.shape[1], key.shape[1]))
    else:
        mask_B1QL = None
    attention: Callable = jax.nn.dot_product_attention
    mixed = attention(
        query,
        key,
        value,
        mask=mask_B1QL,
        is_causal=causal,
        implementation=implementation,
        **lengths,
    )
    return mixed[:, :num_queries]


def pad_to_even(x: Array, axis: int) -> Array:
    """x with one zero appended along `axis` if its length there is odd."""
    return jnp.pad(x, [(0, x.shape[axis] % 2 if i == axis else 0) for i in range(x.ndim)])


class TransformerBlock(nnx.Module):
    """A transformer layer: pre-norm, x + f(norm(x)), or post-norm, norm(x + f(x)).

    f is attention first and the MLP second.
    """

    def __init__(
        self,
        layers: Layers,
        causal: bool,
        post_norm: bool,
        compute: Compute,
        rngs: nnx.Rngs,
        **init: Any,
    ):
        self.dropout, self.post_norm = layers.dropout, post_norm
        self.attention_norm = nnx.LayerNorm(layers.width, epsilon=layers.norm_eps, rngs=rngs)
        self.attention = Attention(layers, causal, compute, rngs, **init)
        self.mlp_norm = nnx.LayerNorm(layers.width, epsilon=layers.norm_eps, rngs=rngs)
        self.mlp = Mlp(layers, compute.dtype, rngs, **init)

    def __call__(self, x_BLD: Array, mask_BL: Array | None, key_B: Array | None) -> Array:
        attention_key_B, mlp_key_B = split_keys(key_B, 2)
        x_BLD = self._add_branch(
            x_BLD, self.attention_norm, attention_key_B, lambda x: self.attention(x, mask_BL)
        )
        return self._add_branch(x_BLD, self.mlp_norm, mlp_key_B, self.mlp)

    def _add_branch(
        self, x_BLD: Array, norm: nnx.LayerNorm, key_B: Array | None, branch: Callable
    ) -> Array:
        # The norms compute in float32. In pre-norm the first product of the branch casts back to
        # the compute dtype; in post-norm the residual stream itself must be cast.
        if self.post_norm:
            x_BLD = x_BLD + apply_dropout(branch(x_BLD), self.dropout, key_B)
            return rematerialise(norm)(x_BLD).astype(x_BLD.dtype)
        return x_BLD + apply_dropout(branch(rematerialise(norm)(x_BLD)), self.dropout, key_B)


# --- Many layers of the same shape in one compiled loop ---


class Stack(nnx.Module):
    """Transformer layers applied one after the other in a compiled loop.

    The layers' parameters are stacked along a new first dimension, so the compiler sees the code of
    one layer, whatever the depth.
    """

    def __init__(
        self,
        layers: Layers,
        compute: Compute,
        rngs: nnx.Rngs,
        causal: bool = False,
        post_norm: bool = False,
        **init: Any,
    ):
        self.layers = layers

        def build(rngs: nnx.Rngs) -> TransformerBlock:
            return TransformerBlock(layers, causal, post_norm, compute, rngs, **init)

        self.blocks = stack_blocks(layers.depth, build, rngs)

    def __call__(self, x_BLD: Array, mask_BL: Array | None, key_B: Array | None) -> Array:
        layers = self.layers
        keys = None if key_B is None else split_keys(key_B, layers.depth)

        def call(block: TransformerBlock, x_BLD: Array, key_B: Array | None) -> Array:
            return block(x_BLD, mask_BL, key_B)

        return scan_blocks(self.blocks, call, x_BLD, keys, layers.remat, layers.unroll)


def stack_blocks(depth: int, build: Callable, rngs: nnx.Rngs) -> Any:
    """One module with the arrays of `depth` modules, stacked along a new first dimension.

    Assign the result to an attribute called `blocks`: optimizers that treat each layer on its own,
    such as LAMB, recognise stacked arrays by this name.
    """
    return nnx.split_rngs(splits=depth)(nnx.vmap(build, in_axes=0, out_axes=0))(rngs)


def scan_blocks(
    blocks: Any, call: Callable, x: Array, each: Any, remat: str = 'none', unroll: int = 1
) -> Array:
    """Applies x = call(block i, x, each[i]) for all blocks in one compiled loop; returns x.

    Args:
      blocks: The result of `stack_blocks`. Its batch statistics are updated in place.
      call: Applies one block; its result has the shape and dtype of x.
      x: The input of the first block.
      each: A tree of arrays whose first dimension has one entry per block, or None.
      remat: A key of REMAT_POLICIES.
      unroll: Blocks per iteration of the loop.
    """
    graphdef, *states = nnx.split(blocks, nnx.Param, nnx.BatchStat)

    def run_block(x: Array, inputs: Any) -> tuple[Array, Any]:
        states, own = inputs
        block = nnx.merge(graphdef, *states)
        # Keep the examples on their devices. Otherwise the compiler may gather the examples instead
        # of the block's parameters.
        x = constrain_batch(call(block, constrain_batch(x), own))
        # Parameters do not change, so only the statistics leave the loop.
        return x, nnx.state(block, nnx.BatchStat)

    if REMAT_POLICIES[remat] is not None:
        # prevent_cse guards recomputed code against being merged with the forward pass. In a scan
        # the two are separate loops anyway, and the guard would only block other optimisations.
        run_block = jax.checkpoint(run_block, policy=REMAT_POLICIES[remat], prevent_cse=False)
    x, updated_statistics = jax.lax.scan(run_block, x, (states, each), unroll=unroll)
    nnx.update(blocks, updated_statistics)
    return x


# --- From tokens to one vector ---


def masked_mean(x_BLD: Array, mask_BL: Array | None) -> Array:
    """The mean over the real tokens, float32 [B, D]; zero for an example without real tokens."""
    if mask_BL is None:
        return x_BLD.astype(jnp.float32).mean(1)
    weight_BL1 = mask_BL[..., None].astype(jnp.float32)
    total_BD = (x_BLD.astype(jnp.float32) * weight_BL1).sum(1)
    # The maximum avoids 0 / 0.
    return total_BD / jnp.maximum(weight_BL1.sum(1), 1)
