"""One transformer over the words of a text and the regions of an image, together or alone."""

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
from mural_jax.models.text import EMBEDDING_INIT
from mural_jax.types import PAD, Array, Encoding, UserError

# Numbers that describe the box of a region, after its features: left, top, right and bottom as
# shares of the image, then its area (5, Unicoder-VL) or its width and height (6, VinVL).
GEOMETRY = (5, 6)
TEXT, VISUAL = 0, 1  # rows of the segment table
POOLINGS = {
    'mean': 'mean of the real tokens',
    'mean_with_padding': 'mean of all tokens, as VLDeformer was published',
    'first': 'the first token: [CLS] of a text, [IMG] of an image',
}


class Fusion(nnx.Module):
    """A post-norm transformer over `[CLS] words [SEP] tags [IMG] regions`, with one set of weights.

    The input follows Unicoder-VL (Li et al. 2020, arXiv:1908.06066): a region is the normalised sum
    of a dense layer of its features, a dense layer of its geometry, and the visual segment. Its
    position in the sequence has no influence.

    The same weights also encode a text alone or an image alone (VLDeformer, Zhang et al. 2022,
    arXiv:2110.11338). An input that is left out and an input that is all padding give the same
    result.

    Tags are words that name the contents of the image, and belong to it as in VinVL
    (arXiv:2101.00529). Their positions count from 0, so that they do not depend on the text (ours).

    vocab_size: Number of token ids.
    layers: The transformer layers.
    max_length: The longest text, or list of tags, in tokens.
    feature_size: Numbers per region without its geometry.
    geometry: Numbers of the geometry, one of GEOMETRY.
    pool: A key of POOLINGS; the pooled vector then passes through tanh.
    pad_id: The id of padding.

    Raises UserError for an unknown `geometry` and for a `feature_size` below 1.
    """

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        vocab_size: int,
        layers: Layers,
        max_length: int,
        feature_size: int,
        geometry: int = 5,
        pool: str = 'mean',
        pad_id: int = PAD,
        compute: Compute = DEFAULT_COMPUTE,
    ):
        look_up('pool', pool, POOLINGS)
        if geometry not in GEOMETRY or feature_size < 1:
            raise UserError(
                f'geometry={geometry} must be one of {GEOMETRY}, and feature_size={feature_size} '
                'at least 1.'
            )
        width = layers.width
        init: dict[str, Any] = dict(kernel_init=EMBEDDING_INIT)
        self.width, self.dropout, self.dtype = width, layers.dropout, compute.dtype
        self.feature_size, self.geometry = feature_size, geometry
        self.pool, self.pad_id = pool, pad_id

        def build_table(size: int) -> nnx.Param:
            return nnx.Param(EMBEDDING_INIT(rngs.params(), (size, width)))

        def build_dense(size: int) -> nnx.Linear:
            return nnx.Linear(size, width, dtype=compute.dtype, rngs=rngs, **init)

        # The last row, beyond the vocabulary, is the [MASK] token that replaces hidden words.
        self.token_VD, self.position_LD = build_table(vocab_size + 1), build_table(max_length)
        # The order of these lines decides which random numbers each table starts from.
        self.segment_SD, self.image_1D = build_table(2), build_table(1)
        self.embedding_norm = nnx.LayerNorm(width, epsilon=layers.norm_eps, rngs=rngs)
        self.feature, self.box = build_dense(feature_size), build_dense(geometry)
        self.region_norm = nnx.LayerNorm(width, epsilon=layers.norm_eps, rngs=rngs)
        self.stack = Stack(layers, compute, rngs, post_norm=True, **init)

    def __call__(
        self,
        text_BL: Array | None = None,
        region_BRF: Array | None = None,
        tags_BL: Array | None = None,
        key_B: Array | None = None,
    ) -> Encoding:
        """The encoding of all given inputs in one sequence: text, then tags, then regions.

        Args:
          text_BL: int32, L at most max_length.
          region_BRF: [B, R, feature_size + geometry], zeros where there is no region. It takes
            1 + R places of the sequence: [IMG] comes before the regions.
          tags_BL: int32, L at most max_length.
          key_B: Keys of a training pass, which applies dropout.
        """
        input_key_B, stack_key_B, pool_key_B = split_keys(key_B, 3)
        # The text comes first, so that the first real token is [CLS] whenever there is a text.
        parts = []
        if text_BL is not None:
            parts.append(self._embed_words(text_BL, TEXT))
        if tags_BL is not None:
            parts.append(self._embed_words(tags_BL, VISUAL))
        if region_BRF is not None:
            parts.append(self._embed_regions(region_BRF))
        x_BLD = jnp.concatenate([x for x, _ in parts], axis=1)
        mask_BL = jnp.concatenate([mask for _, mask in parts], axis=1)
        with jax.named_scope('stack'):
            x_BLD = apply_dropout(x_BLD, self.dropout, input_key_B)
            x_BLD = self.stack(x_BLD, mask_BL, stack_key_B)
        return Encoding(self._pool(x_BLD, mask_BL, pool_key_B), x_BLD, mask_BL)

    def _embed_words(self, text_BL: Array, segment: int) -> tuple[Array, Array]:
        """(embeddings [B, L, D], mask of the real tokens [B, L])."""
        x_BLD = self.token_VD[...][text_BL] + self.position_LD[...][: text_BL.shape[1]][None]
        x_BLD = self.embedding_norm(x_BLD + self.segment_SD[...][segment][None, None])
        return x_BLD.astype(self.dtype), text_BL != self.pad_id

    def _embed_regions(self, region_BRF: Array) -> tuple[Array, Array]:
        """(embeddings [B, 1 + R, D], mask of [IMG] and the real regions [B, 1 + R])."""
        feature_BRF, box_BRF = jnp.split(region_BRF, [self.feature_size], axis=-1)
        segment_D = self.segment_SD[...][VISUAL]
        x_BRD = self.feature(feature_BRF) + self.box(box_BRF) + segment_D[None, None]
        x_BRD = self.region_norm(x_BRD)
        image_1D = self.embedding_norm(self.image_1D[...] + segment_D[None])
        image_B1D = jnp.tile(image_1D[None], (x_BRD.shape[0], 1, 1))
        # A real region has a positive width: right > left. Padding is all zeros.
        real_BR = box_BRF[..., 2] > box_BRF[..., 0]
        # [IMG] counts only if there is a region; so an empty image leaves a text as it is alone.
        mask_BL = jnp.concatenate([real_BR.any(1, keepdims=True), real_BR], axis=1)
        return jnp.concatenate([image_B1D, x_BRD], axis=1).astype(self.dtype), mask_BL

    def _pool(self, x_BLD: Array, mask_BL: Array, key_B: Array | None) -> Array:
        """float32 [B, D], in (-1, 1)."""
        if self.pool == 'mean_with_padding':
            pooled_BD = x_BLD.astype(jnp.float32).mean(1)
        elif self.pool == 'mean':
            pooled_BD = masked_mean(x_BLD, mask_BL)
        else:
            # The first real token: [CLS], or [IMG] if there is no text.
            first_B = jnp.argmax(mask_BL, axis=1)
            first_BD = jnp.take_along_axis(x_BLD, first_B[:, None, None], axis=1)[:, 0]
            pooled_BD = first_BD.astype(jnp.float32)
        return jnp.tanh(apply_dropout(pooled_BD, self.dropout, key_B))
