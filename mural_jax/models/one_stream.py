"""The model of one stream: one transformer for pairs, for a picture alone and for a text alone."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.models.fusion import Fusion
from mural_jax.models.layers import again
from mural_jax.models.text import EMBEDDING_INIT
from mural_jax.types import Array, Encoding

WAYS = ('joint', 'image', 'text')  # what an example is encoded as


class Transform(nnx.Module):
    """What BERT puts before a prediction: dense, GELU, norm; [..., D] -> float32 [..., D]."""

    def __init__(self, width: int, norm_eps: float, rngs: nnx.Rngs):
        self.dense = nnx.Linear(width, width, kernel_init=EMBEDDING_INIT, rngs=rngs)
        self.norm = nnx.LayerNorm(width, epsilon=norm_eps, rngs=rngs)

    def __call__(self, x: Array) -> Array:
        x = jax.nn.gelu(self.dense(x.astype(jnp.float32)), approximate=False)
        return again(self.norm)(x)


class OneStream(DualEncoder):
    """A dual encoder whose towers are one transformer, that takes a pair together too.

    Unicoder-VL's heads (Li et al. 2020, arXiv:1908.06066) predict what was hidden of a pair:
    words over the vocabulary, by the embeddings of the words; the class of a region; whether the
    two belong together, by BERT's pooler of the [CLS] of the pair.
    """

    def __init__(
        self, *, fusion: Fusion, num_classes: int, norm_eps: float, rngs: nnx.Rngs,
        teacher: Fusion | None = None, **more: Any,
    ):  # fmt: skip
        """`more`: the heads, temperatures and biases of a dual encoder; its towers are WAYS.

        teacher: the transformer as it was before it was decomposed, see `taught`.
        """
        towers: dict[str, nnx.Module] = {'fusion': fusion}
        super().__init__(towers=towers | ({'teacher': teacher} if teacher else {}), **more)
        width, vocab_size = fusion.width, len(fusion.token_VD[...]) - 1
        self.word = Transform(width, norm_eps, rngs)
        self.word_bias_V = nnx.Param(jnp.zeros(vocab_size))
        self.region = Transform(width, norm_eps, rngs)
        self.classes = nnx.Linear(width, num_classes, kernel_init=EMBEDDING_INIT, rngs=rngs)
        self.pooler = nnx.Linear(width, width, kernel_init=EMBEDDING_INIT, rngs=rngs)
        self.match = nnx.Linear(width, 1, kernel_init=EMBEDDING_INIT, rngs=rngs)

    def encode(self, tower: str, inputs: Any, key_B: Array | None = None) -> Encoding:
        """`inputs`: a text, int32 [B, L]; a picture; jointly (text, picture).

        A picture is its regions, [B, R, F], or tags, int32 [B, L], and regions.
        """
        if tower == 'text':
            return self._fusion(inputs, key_B=key_B)
        text_BL, picture = inputs if tower == 'joint' else (None, inputs)
        return _passed(self._fusion, text_BL, picture, key_B)

    def taught(self, text_BL: Array, picture: Any) -> Array:
        """What `matches` gives of joint passes through the teacher, float32 [B]."""
        return self.matches(_passed(self.towers['teacher'], text_BL, picture, None))

    @property
    def _fusion(self) -> Any:
        return self.towers['fusion']

    def words(self, encoding: Encoding, place_BM: Array) -> Array:
        """Scores of all words at places of the sequence, int32 [B, M] -> float32 [B, M, V]."""
        x_BMD = self.word(_at(encoding, place_BM))
        token_VD = self._fusion.token_VD[...][:-1]
        return x_BMD @ token_VD.T + self.word_bias_V[...][None, None]

    def region_classes(self, encoding: Encoding, place_BM: Array, count: int) -> Array:
        """Scores of all classes at places among `count` regions, [B, M] -> float32 [B, M, C]."""
        before = encoding.tokens_BLD.shape[1] - count  # Regions come last.
        return self.classes(self.region(_at(encoding, before + place_BM)))

    def matches(self, encoding: Encoding) -> Array:
        """The score, float32 [B], that text and picture of a pair belong together."""
        first_BD = encoding.tokens_BLD[:, 0].astype(jnp.float32)
        return self.match(jnp.tanh(self.pooler(first_BD)))[:, 0]


def _passed(fusion: Any, text_BL: Array | None, picture: Any, key_B: Array | None) -> Encoding:
    """Through a transformer: a picture is its regions, or tags and regions."""
    tags_BL, region_BRF = picture if isinstance(picture, tuple) else (None, picture)
    return fusion(text_BL, region_BRF, tags_BL, key_B=key_B)


def _at(encoding: Encoding, place_BM: Array) -> Array:
    return jnp.take_along_axis(encoding.tokens_BLD, place_BM[..., None], axis=1)
