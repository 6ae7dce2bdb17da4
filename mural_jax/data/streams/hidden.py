"""Pairs with hidden words and regions."""

import dataclasses

import tensorflow as tf

from mural_jax.data.fields import masking
from mural_jax.data.fields.texts import hashed, join_texts
from mural_jax.data.sets import schema
from mural_jax.data.streams.base import Given
from mural_jax.data.streams.captions import Captions
from mural_jax.data.streams.regions import RegionPairs
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class HiddenCaptions(RegionPairs):
    """Pairs of which words and regions are hidden, and some of which do not belong together.

    Besides `regions` and `text`: `word_place`, `word_target`, `region_place`, `region_target`,
    int32 [B, M], and `match`, int32 [B], 1 where the two belong together. Of pairs that do not,
    nothing is to be predicted but that. Their text is that of another example, of the next
    65,536; as both of a pair are drawn alike, it is the same whether its text is another one or
    its picture is.

    hide_words, hide_regions: the share of a text's words and a picture's regions, in [0, 1)
    (15%: BERT, Unicoder-VL). mismatch: the share of pairs that do not belong together, in [0, 1]
    (Unicoder-VL takes as many as of those that do).
    """

    hide_words: float = 0.15
    hide_regions: float = 0.15
    mismatch: float = 0.5

    has_partner = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (
            0 <= self.hide_words < 1 and 0 <= self.hide_regions < 1 and 0 <= self.mismatch <= 1
        ):
            raise UserError(
                'hide_words and hide_regions must be in [0, 1), and mismatch in [0, 1].'
            )

    @property
    def num_random(self) -> int:  # type: ignore[override]
        """Numbers in [0, 1) of an example: one for the match, those of words, regions, picture."""
        return 1 + sum(self._parts) + Captions.num_random

    @property
    def _parts(self) -> tuple[int, int]:
        return (
            masking.random_words(self.max_length, self.hide_words),
            masking.random_regions(self.regions.most, self.hide_regions),
        )

    def fields(
        self, serialized: list[tf.Tensor], number_BJ: list[tf.Tensor], random_BU: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        fields = super().fields(serialized, number_BJ, random_BU)
        other = schema.parse(serialized[1], 'id', 'text')
        other_B = join_texts(other['text'], number_BJ[1])
        swapped_B = random_BU[:, 0] < self.mismatch
        # By chance the other example may be of the same picture, or have the same text.
        same_B = (hashed(other['id']) == fields['id']) | (other_B == fields['text'])
        match_B = tf.where(swapped_B, tf.where(same_B, masking.NONE, 0), 1)
        text_B = tf.where(swapped_B, other_B, fields['text'])
        return fields | {'text': text_B, 'match': match_B}

    def finished(
        self, fields: dict[str, tf.Tensor], random_BU: tf.Tensor, given: Given
    ) -> dict[str, tf.Tensor]:
        words_BU, regions_BU = tf.split(random_BU[:, 1 : 1 + sum(self._parts)], self._parts, axis=1)
        class_BR = fields.pop('class')
        if given.codebook:
            class_BR = given.codebook.classes(fields['regions'], self.regions.feature_size)
        fields |= masking.words(
            fields['text'], given.marks, given.vocab_size, self.hide_words, words_BU
        )
        fields |= masking.regions(
            fields['regions'], class_BR, self.regions.feature_size, self.hide_regions, regions_BU
        )
        matched_B1 = fields['match'][:, None] == 1
        for name in ('word_target', 'region_target'):
            fields[name] = tf.where(matched_B1, fields[name], masking.NONE)
        return fields
