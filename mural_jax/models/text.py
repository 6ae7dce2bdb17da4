"""Text towers of transformer layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.models.layers import (
    DEFAULT,
    Compute,
    Layers,
    Stack,
    choose,
    drop,
    masked_mean,
    split_keys,
)
from mural_jax.types import PAD, Array, Encoding, UserError

EMBEDDING_INIT = nnx.initializers.normal(0.02)  # BERT's (Devlin et al. 2019), CLIP's too


class Transformer(nnx.Module):
    """A pre-norm transformer over token ids.

    pool: 'mean' of the real tokens; 'first'; 'last' real token (SigLIP); or 'eot', the first
    token `eot_id`, after which all is padding (CLIP, arXiv:2103.00020).
    causal: a token sees those before it alone (CLIP). attend_padding: padding is read as text, as
    SigLIP (arXiv:2303.15343) was trained; texts then need their full length.

    The norm follows the pooling: after the mean a token has kept its length, so that telling
    words can outweigh filler (a choice of ours); for one token the order does not matter.
    """

    def __init__(
        self, *, rngs: nnx.Rngs, vocab_size: int, layers: Layers, max_length: int,
        pool: str = 'mean', causal: bool = False, eot_id: int = -1, pad_id: int = PAD,
        attend_padding: bool = False, compute: Compute = DEFAULT,
    ):  # fmt: skip
        choose('pool', pool, POOLS)
        if (pool == 'eot') != (eot_id >= 0):
            raise UserError("eot_id goes with pool='eot': set both or neither.")
        self.width, self.dropout, self.dtype = layers.width, layers.dropout, compute.dtype
        self.pool, self.eot_id, self.causal = pool, eot_id, causal
        self.pad_id = None if attend_padding or pool == 'eot' else pad_id
        self.token_VD = nnx.Param(EMBEDDING_INIT(rngs.params(), (vocab_size, layers.width)))
        self.position_LD = nnx.Param(EMBEDDING_INIT(rngs.params(), (max_length, layers.width)))
        self.stack = Stack(layers, compute, rngs, causal=causal)
        self.norm = nnx.LayerNorm(layers.width, epsilon=layers.norm_eps, rngs=rngs)

    def __call__(self, text_BL: Array, key_B: Array | None = None) -> Encoding:
        """int32 [B, L], L at most max_length -> Encoding; `key_B` turn dropout on."""
        first, second = split_keys(key_B, 2)
        position_LD = self.position_LD[...][: text_BL.shape[1]]
        x_BLD = (self.token_VD[...][text_BL] + position_LD[None]).astype(self.dtype)
        mask_BL = self._mask(text_BL)
        # Padding is at the end, where no real token of a causal tower looks.
        seen_BL = None if self.causal else mask_BL
        with jax.named_scope('stack'):
            x_BLD = self.stack(drop(x_BLD, self.dropout, first), seen_BL, second)
        real_BL = jnp.ones(text_BL.shape, bool) if mask_BL is None else mask_BL
        return Encoding(self.norm(POOLS[self.pool](x_BLD, real_BL)), self.norm(x_BLD), real_BL)

    def _mask(self, text_BL: Array) -> Array | None:
        """Which tokens are real; None where all are."""
        if self.pool == 'eot':
            ends_BL = text_BL == self.eot_id
            return jnp.cumsum(ends_BL, axis=1) - ends_BL == 0
        return None if self.pad_id is None else text_BL != self.pad_id


class Bert(nnx.Module):
    """BERT (Devlin et al. 2019, arXiv:1810.04805), post-norm, as Hugging Face's `BertModel`.

    pool: 'first', the [CLS] token, as ALIGN takes it; 'pooler', the tanh of a dense layer of it;
    or 'mean'. num_segments, position_offset: 2 and 0 for BERT, 1 and 2 for XLM-R (Conneau et al.
    2020, arXiv:1911.02116), whose positions count from the id of its padding on.
    """

    def __init__(
        self, *, rngs: nnx.Rngs, vocab_size: int, layers: Layers, max_length: int,
        pool: str = 'first', pad_id: int = PAD, num_segments: int = 2, position_offset: int = 0,
        compute: Compute = DEFAULT,
    ):  # fmt: skip
        choose('pool', pool, {'pooler': None, **{k: POOLS[k] for k in ('first', 'mean')}})
        width = layers.width
        init: dict[str, Any] = dict(kernel_init=EMBEDDING_INIT)
        self.width, self.dropout, self.dtype = width, layers.dropout, compute.dtype
        self.pool, self.pad_id, self.offset = pool, pad_id, position_offset
        num_positions = max_length + position_offset
        self.token_VD = nnx.Param(EMBEDDING_INIT(rngs.params(), (vocab_size, width)))
        self.position_LD = nnx.Param(EMBEDDING_INIT(rngs.params(), (num_positions, width)))
        self.segment_SD = nnx.Param(EMBEDDING_INIT(rngs.params(), (num_segments, width)))
        self.embedding_norm = nnx.LayerNorm(width, epsilon=layers.norm_eps, rngs=rngs)
        self.stack = Stack(layers, compute, rngs, post_norm=True, **init)
        if pool == 'pooler':
            self.pooler = nnx.Linear(width, width, dtype=compute.dtype, rngs=rngs, **init)

    def __call__(self, text_BL: Array, key_B: Array | None = None) -> Encoding:
        """int32 [B, L], L at most max_length -> Encoding; `key_B` turn dropout on."""
        first, second = split_keys(key_B, 2)
        position_LD = self.position_LD[...][self.offset :][: text_BL.shape[1]]
        x_BLD = self.token_VD[...][text_BL] + (position_LD + self.segment_SD[...][:1])[None]
        x_BLD = self.embedding_norm(x_BLD).astype(self.dtype)
        mask_BL = text_BL != self.pad_id
        with jax.named_scope('stack'):
            x_BLD = self.stack(drop(x_BLD, self.dropout, first), mask_BL, second)
        if self.pool == 'pooler':
            with jax.named_scope('pooler'):
                pooled_BD = jnp.tanh(self.pooler(x_BLD[:, 0]).astype(jnp.float32))
        else:
            pooled_BD = POOLS[self.pool](x_BLD, mask_BL)
        return Encoding(pooled_BD, x_BLD, mask_BL)


def _last(x_BLD: Array, mask_BL: Array) -> Array:
    """The last real token; the first one of an empty text."""
    # Counted from the end, so that a gap inside a text would not matter.
    last_B = mask_BL.shape[1] - 1 - jnp.argmax(mask_BL[:, ::-1], axis=1)
    last_B = jnp.where(mask_BL.any(1), last_B, 0)
    return jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1)[:, 0].astype(jnp.float32)


def _first(x_BLD: Array, mask_BL: Array) -> Array:
    return x_BLD[:, 0].astype(jnp.float32)


POOLS = {'mean': masked_mean, 'first': _first, 'last': _last, 'eot': _last}
