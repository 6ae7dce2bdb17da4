"""Text towers made of transformer layers."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.models.layers import (
    DEFAULT_COMPUTE,
    Compute,
    Layers,
    Stack,
    apply_dropout,
    look_up,
    masked_mean,
    split_keys,
)
from mural_jax.types import PAD, Array, Encoding, UserError

EMBEDDING_INIT = nnx.initializers.normal(0.02)  # as in BERT (Devlin et al. 2019) and CLIP


class Transformer(nnx.Module):
    """A pre-norm transformer over token ids.

    vocab_size: Number of token ids.
    layers: The transformer layers.
    max_length: The longest text in tokens.
    pool: 'mean' of the real tokens; the 'first' token; the 'last' real token (SigLIP); or 'eot',
      the first token with the id `eot_id`, after which everything is padding (CLIP,
      arXiv:2103.00020).
    causal: Whether a token sees only itself and the tokens before it (CLIP).
    eot_id: The id of the end-of-text token, for pool='eot' alone.
    pad_id: The id of padding.
    attend_padding: Whether padding is read as text, as in the training of SigLIP
      (arXiv:2303.15343). Texts must then always have their full length.

    The final norm comes after pooling. So the token vectors keep their lengths in the mean, and
    informative words can outweigh filler (ours). When one token is pooled the order makes no
    difference.

    Raises UserError if only one of `eot_id` and pool='eot' is set.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        vocab_size: int,
        layers: Layers,
        max_length: int,
        pool: str = 'mean',
        causal: bool = False,
        eot_id: int = -1,
        pad_id: int = PAD,
        attend_padding: bool = False,
        compute: Compute = DEFAULT_COMPUTE,
    ):
        look_up('pool', pool, POOLINGS)
        if (pool == 'eot') != (eot_id >= 0):
            raise UserError("eot_id goes with pool='eot': set both or neither.")
        self.width, self.dropout, self.dtype = layers.width, layers.dropout, compute.dtype
        self.pool, self.eot_id, self.causal = pool, eot_id, causal
        # None means that no id is padding. For 'eot' the mask follows from the end-of-text token.
        self.pad_id = None if attend_padding or pool == 'eot' else pad_id
        self.token_VD = nnx.Param(EMBEDDING_INIT(rngs.params(), (vocab_size, layers.width)))
        self.position_LD = nnx.Param(EMBEDDING_INIT(rngs.params(), (max_length, layers.width)))
        self.stack = Stack(layers, compute, rngs, causal=causal)
        self.norm = nnx.LayerNorm(layers.width, epsilon=layers.norm_eps, rngs=rngs)

    def __call__(self, text_BL: Array, key_B: Array | None = None) -> Encoding:
        """int32 [B, L], L at most max_length -> Encoding. With `key_B` dropout is on."""
        dropout_key_B, stack_key_B = split_keys(key_B, 2)
        position_LD = self.position_LD[...][: text_BL.shape[1]]
        # The sum is float32; only its result is cast.
        x_BLD = (self.token_VD[...][text_BL] + position_LD[None]).astype(self.dtype)
        mask_BL = self._mask_padding(text_BL)
        # Padding comes last, and the tokens of a causal tower look back only: no mask is needed.
        attention_mask_BL = None if self.causal else mask_BL
        with jax.named_scope('stack'):
            x_BLD = apply_dropout(x_BLD, self.dropout, dropout_key_B)
            x_BLD = self.stack(x_BLD, attention_mask_BL, stack_key_B)
        real_BL = jnp.ones(text_BL.shape, bool) if mask_BL is None else mask_BL
        pooled_BD = self.norm(POOLINGS[self.pool](x_BLD, real_BL))
        return Encoding(pooled_BD, self.norm(x_BLD), real_BL)

    def _mask_padding(self, text_BL: Array) -> Array | None:
        """bool [B, L], True for real tokens; None if all tokens count as real."""
        if self.pool == 'eot':
            # True up to the first end-of-text token, including it: CLIP's padding may have any id.
            ends_BL = text_BL == self.eot_id
            return jnp.cumsum(ends_BL, axis=1) - ends_BL == 0
        return None if self.pad_id is None else text_BL != self.pad_id


class Bert(nnx.Module):
    """BERT (Devlin et al. 2019, arXiv:1810.04805), post-norm, as in Hugging Face's `BertModel`.

    vocab_size: Number of token ids.
    layers: The transformer layers.
    max_length: The longest text in tokens.
    pool: 'first', the [CLS] token (ALIGN); 'pooler', the tanh of a dense layer of the [CLS] token;
      or 'mean' of the real tokens.
    pad_id: The id of padding.
    num_segments: Rows of the segment table: 2 for BERT, 1 for XLM-R. All tokens use row 0.
    position_offset: Row of the first token in the position table: 0 for BERT; 2 for XLM-R (Conneau
      et al. 2020, arXiv:1911.02116), which numbers positions from its padding id, 1, plus one.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        vocab_size: int,
        layers: Layers,
        max_length: int,
        pool: str = 'first',
        pad_id: int = PAD,
        num_segments: int = 2,
        position_offset: int = 0,
        compute: Compute = DEFAULT_COMPUTE,
    ):
        look_up('pool', pool, {'pooler': None, **{k: POOLINGS[k] for k in ('first', 'mean')}})
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
        """int32 [B, L], L at most max_length -> Encoding. With `key_B` dropout is on."""
        dropout_key_B, stack_key_B = split_keys(key_B, 2)
        position_LD = self.position_LD[...][self.offset :][: text_BL.shape[1]]
        # A tower reads one text at a time, so all tokens are in the first segment.
        x_BLD = self.token_VD[...][text_BL] + (position_LD + self.segment_SD[...][:1])[None]
        x_BLD = self.embedding_norm(x_BLD).astype(self.dtype)
        mask_BL = text_BL != self.pad_id
        with jax.named_scope('stack'):
            x_BLD = apply_dropout(x_BLD, self.dropout, dropout_key_B)
            x_BLD = self.stack(x_BLD, mask_BL, stack_key_B)
        if self.pool == 'pooler':
            with jax.named_scope('pooler'):
                pooled_BD = jnp.tanh(self.pooler(x_BLD[:, 0]).astype(jnp.float32))
        else:
            pooled_BD = POOLINGS[self.pool](x_BLD, mask_BL)
        return Encoding(pooled_BD, x_BLD, mask_BL)


def _take_last(x_BLD: Array, mask_BL: Array) -> Array:
    """The last real token of each text, float32 [B, D]; the first token of an empty text."""
    # Searching from the end finds the right token even if padding stands inside a text.
    last_B = mask_BL.shape[1] - 1 - jnp.argmax(mask_BL[:, ::-1], axis=1)
    last_B = jnp.where(mask_BL.any(1), last_B, 0)
    return jnp.take_along_axis(x_BLD, last_B[:, None, None], axis=1)[:, 0].astype(jnp.float32)


def _take_first(x_BLD: Array, mask_BL: Array) -> Array:
    return x_BLD[:, 0].astype(jnp.float32)


# With 'eot' the mask already ends at the end-of-text token, so that is the last real one.
POOLINGS = {'mean': masked_mean, 'first': _take_first, 'last': _take_last, 'eot': _take_last}
