"""One transformer over the words of a text and the regions of a picture, together or alone."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.models.layers import DEFAULT, Compute, Layers, Stack, choose, drop, split_keys
from mural_jax.models.text import EMBEDDING_INIT, POOLS
from mural_jax.types import PAD, Array, Encoding, UserError

# Numbers behind the features of a region: left, top, right, bottom in shares of the picture, then
# its area (Unicoder-VL) or its width and height (VinVL).
GEOMETRY = (5, 6)
TEXT, VISUAL = 0, 1  # segments
POOLINGS = {
    'mean': 'mean of the real tokens',
    'mean_with_padding': 'mean of all tokens, as VLDeformer was published',
    'first': 'the first token, [CLS] of a text, [IMG] of a picture',
}


class Fusion(nnx.Module):
    """A post-norm transformer over `[CLS] words [SEP] tags [IMG] regions`, one set of weights.

    Unicoder-VL (Li et al. 2020, arXiv:1908.06066): a region is a dense layer of its features plus
    one of its geometry, normalised; where it stands in the sequence says nothing. Given a text or
    a picture alone, the same weights encode it alone (VLDeformer, Zhang et al. 2022,
    arXiv:2110.11338); what is not given and what is all padding are the same. Tags are words that
    name what is in the picture: a part of the picture, as in VinVL (arXiv:2101.00529), whose
    positions count from 0 of their own, a choice of ours, so that they do not depend on the text.

    feature_size: numbers of a region without its geometry. geometry: of GEOMETRY. pool: of
    POOLINGS; tanh follows.
    """

    def __init__(
        self, *, rngs: nnx.Rngs, vocab_size: int, layers: Layers, max_length: int,
        feature_size: int, geometry: int = 5, pool: str = 'mean', pad_id: int = PAD,
        compute: Compute = DEFAULT,
    ):  # fmt: skip
        choose('pool', pool, POOLINGS)
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

        def table(size: int) -> nnx.Param:
            return nnx.Param(EMBEDDING_INIT(rngs.params(), (size, width)))

        def dense(size: int) -> nnx.Linear:
            return nnx.Linear(size, width, dtype=compute.dtype, rngs=rngs, **init)

        # One more than the vocabulary has: the mask that stands for a hidden word.
        self.token_VD, self.position_LD = table(vocab_size + 1), table(max_length)
        self.segment_SD, self.image_1D = table(2), table(1)
        self.embedding_norm = nnx.LayerNorm(width, epsilon=layers.norm_eps, rngs=rngs)
        self.feature, self.box = dense(feature_size), dense(geometry)
        self.region_norm = nnx.LayerNorm(width, epsilon=layers.norm_eps, rngs=rngs)
        self.stack = Stack(layers, compute, rngs, post_norm=True, **init)

    def __call__(
        self, text_BL: Array | None = None, region_BRF: Array | None = None,
        tags_BL: Array | None = None, key_B: Array | None = None,
    ) -> Encoding:  # fmt: skip
        """The tokens of what is given, in the order of the parameters, and their vector.

        text_BL, tags_BL: int32, at most max_length. region_BRF: [B, R, feature_size + geometry],
        zeros where there is no region; one position more, [IMG], stands before them.
        key_B: turn dropout on.
        """
        keys = split_keys(key_B, 3)
        parts = []
        if text_BL is not None:
            parts.append(self._words(text_BL, TEXT))
        if tags_BL is not None:
            parts.append(self._words(tags_BL, VISUAL))
        if region_BRF is not None:
            parts.append(self._regions(region_BRF))
        x_BLD = jnp.concatenate([x for x, _ in parts], axis=1)
        mask_BL = jnp.concatenate([mask for _, mask in parts], axis=1)
        with jax.named_scope('stack'):
            x_BLD = self.stack(drop(x_BLD, self.dropout, keys[0]), mask_BL, keys[1])
        return Encoding(self._pooled(x_BLD, mask_BL, keys[2]), x_BLD, mask_BL)

    def _words(self, text_BL: Array, segment: int) -> tuple[Array, Array]:
        """(embedded [B, L, D], which are real)."""
        x_BLD = self.token_VD[...][text_BL] + self.position_LD[...][: text_BL.shape[1]][None]
        x_BLD = self.embedding_norm(x_BLD + self.segment_SD[...][segment][None, None])
        return x_BLD.astype(self.dtype), text_BL != self.pad_id

    def _regions(self, region_BRF: Array) -> tuple[Array, Array]:
        """(embedded [B, 1 + R, D], which are real); [IMG] is where a region is."""
        feature_BRF, box_BRF = jnp.split(region_BRF, [self.feature_size], axis=-1)
        segment_D = self.segment_SD[...][VISUAL]
        x_BRD = self.feature(feature_BRF) + self.box(box_BRF) + segment_D[None, None]
        x_BRD = self.region_norm(x_BRD)
        image_1D = self.embedding_norm(self.image_1D[...] + segment_D[None])
        image_B1D = jnp.tile(image_1D[None], (x_BRD.shape[0], 1, 1))
        real_BR = box_BRF[..., 2] > box_BRF[..., 0]
        mask_BL = jnp.concatenate([real_BR.any(1, keepdims=True), real_BR], axis=1)
        return jnp.concatenate([image_B1D, x_BRD], axis=1).astype(self.dtype), mask_BL

    def _pooled(self, x_BLD: Array, mask_BL: Array, key_B: Array | None) -> Array:
        """float32 [B, D], in (-1, 1)."""
        if self.pool == 'mean_with_padding':
            pooled_BD = x_BLD.astype(jnp.float32).mean(1)
        elif self.pool == 'mean':
            pooled_BD = POOLS['mean'](x_BLD, mask_BL)
        else:
            first_B = jnp.argmax(mask_BL, axis=1)  # [IMG] where there is no text
            first_BD = jnp.take_along_axis(x_BLD, first_B[:, None, None], axis=1)[:, 0]
            pooled_BD = first_BD.astype(jnp.float32)
        return jnp.tanh(drop(pooled_BD, self.dropout, key_B))
