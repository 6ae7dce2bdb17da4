"""The model of one stream: one transformer for pairs, for an image alone and for a text alone."""

from collections.abc import Mapping
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.config.build import build
from mural_jax.config.changes import MEANS
from mural_jax.models.catalog import TOWERS
from mural_jax.models.compute import choose_compute
from mural_jax.models.dual_encoder import DualEncoder, build_spaces
from mural_jax.models.fusion import Fusion
from mural_jax.models.layers import rematerialise
from mural_jax.models.spaces import SpaceModel, Spaces
from mural_jax.models.text import EMBEDDING_INIT
from mural_jax.types import Array, Encoding, UserError

ENCODERS = ('joint', 'image', 'text')


class Transform(nnx.Module):
    """BERT's layers before a prediction: dense, GELU, norm; [..., D] -> float32 [..., D]."""

    def __init__(self, width: int, norm_eps: float, rngs: nnx.Rngs):
        self.dense = nnx.Linear(width, width, kernel_init=EMBEDDING_INIT, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=norm_eps, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = jax.nn.gelu(self.dense(x.astype(jnp.float32)), approximate=False)
        return rematerialise(self.norm)(x)


class OneStream(DualEncoder):
    """A dual encoder whose two towers are one transformer, which also takes a pair together.

    Unicoder-VL's heads (Li et al. 2020, arXiv:1908.06066) predict what was hidden of a pair:
    words over the vocabulary, by the embeddings of the words; the class of a region; whether text
    and image belong together, by BERT's pooler of the [CLS] of the pair.
    """

    def __init__(
        self,
        *,
        fusion: Fusion,
        spaces: dict[str, SpaceModel],
        num_classes: int,
        norm_eps: float,
        rngs: nnx.Rngs,
    ):
        """num_classes: Classes of regions. norm_eps: Epsilon of the norms before predictions."""
        super().__init__(towers={'fusion': fusion}, spaces=spaces)
        # The last embedding is the one of the mask, which is never predicted.
        width, vocab_size = fusion.width, len(fusion.token_VD[...]) - 1
        self.word = Transform(width, norm_eps, rngs)
        self.word_bias_V = nnx.Param(jnp.zeros(vocab_size))
        self.region = Transform(width, norm_eps, rngs)
        self.classes = nnx.Linear(width, num_classes, kernel_init=EMBEDDING_INIT, rngs=rngs)
        self.pooler = nnx.Linear(width, width, kernel_init=EMBEDDING_INIT, rngs=rngs)
        self.match = nnx.Linear(width, 1, kernel_init=EMBEDDING_INIT, rngs=rngs)

    @classmethod
    def from_config(  # type: ignore[override]
        cls,
        *,
        spaces: Spaces,
        rngs: nnx.Rngs,
        vocab_size: int,
        towers: dict[str, Any],
        num_classes: int,
        dtype: str = 'float32',
        attention: Annotated[str, MEANS] = 'xla',
    ) -> 'OneStream':
        """The model of a config node, whose only tower is `fusion`.

        num_classes: Classes of regions. dtype, attention: See `DualEncoder.from_config`.
        """
        if set(towers) != {'fusion'}:
            raise UserError(
                f'config.model.towers of one stream is dict(fusion=...), not {sorted(towers)}.'
            )
        given = {'rngs': rngs, 'compute': choose_compute(dtype, attention)}
        where = 'model.towers.fusion'
        fusion = build(TOWERS, towers['fusion'], where, vocab_size=vocab_size, **given)
        return cls(
            fusion=fusion,
            spaces=build_spaces(spaces, dict.fromkeys(ENCODERS, fusion.width), rngs),
            num_classes=num_classes,
            norm_eps=towers['fusion']['layers'].get('norm_eps', 1e-6),
            rngs=rngs,
        )

    @staticmethod
    def encoders(node: Mapping[str, Any]) -> tuple[str, ...]:
        """A pair, an image alone, a text alone: all by the same transformer."""
        return ENCODERS

    def encode(self, encoder: str, inputs: Any, key_B: Array | None = None) -> Encoding:
        """Encodes a text, int32 [B, L]; an image; or, jointly, (text, image).

        An image is its regions, float32 [B, R, F], or tags, int32 [B, L], and regions.
        """
        fusion = self.towers['fusion']
        if encoder == 'text':
            return fusion(inputs, key_B=key_B)
        text_BL, image = inputs if encoder == 'joint' else (None, inputs)
        # Tags are a part of the image: an image with tags is a tuple.
        tags_BL, region_BRF = image if isinstance(image, tuple) else (None, image)
        return fusion(text_BL, region_BRF, tags_BL, key_B=key_B)

    def words(self, encoding: Encoding, place_BM: Array) -> Array:
        """Scores of all words at places of the sequence, int32 [B, M] -> float32 [B, M, V]."""
        x_BMD = self.word(_take_tokens(encoding, place_BM))
        fusion: Any = self.towers['fusion']
        # The output layer shares the word embeddings, without [MASK], which is never the answer.
        token_VD = fusion.token_VD[...][:-1]
        return x_BMD @ token_VD.T + self.word_bias_V[...][None, None]

    def region_classes(self, encoding: Encoding, place_BM: Array, count: int) -> Array:
        """Scores of all classes at places among `count` regions, [B, M] -> float32 [B, M, C]."""
        before = encoding.tokens_BLD.shape[1] - count  # Regions come last.
        return self.classes(self.region(_take_tokens(encoding, before + place_BM)))

    def matches(self, encoding: Encoding) -> Array:
        """Log-odds, float32 [B], that text and image of a pair belong together."""
        # The first token of a pair is the [CLS] of its text.
        first_BD = encoding.tokens_BLD[:, 0].astype(jnp.float32)
        return self.match(jnp.tanh(self.pooler(first_BD)))[:, 0]


def _take_tokens(encoding: Encoding, place_BM: Array) -> Array:
    return jnp.take_along_axis(encoding.tokens_BLD, place_BM[..., None], axis=1)
