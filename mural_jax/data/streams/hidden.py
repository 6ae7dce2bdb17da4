"""Pairs with hidden words and regions."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from mural_jax.data.fields.image_settings import NUM_IMAGE_RANDOM
from mural_jax.data.fields.masking_sizes import count_region_randoms, count_word_randoms, max_hidden
from mural_jax.data.streams.base import DrawnExamples, Field, ReadingContext, Tensor
from mural_jax.data.streams.regions import RegionPairs, count_region_classes
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class HiddenCaptions(RegionPairs):
    """Pairs with hidden words and regions, some of them an image with the text of another one.

    Fields besides `regions` and `text`, where M is the largest number of hidden places:
    `word_place`, `word_target`, `region_place` and `region_target`, int32 [M], and `match`, int32
    [], 1 where image and text belong together, 0 where they do not. A pair that does not match has
    only `match` to predict: its other targets are -1. Its text is that of its partner, one of the
    next 65,536 examples. Since image and text are drawn alike, it makes no difference whether a
    pair has another text or another image.

    hide_words, hide_regions: share of a text's words and of an image's regions that is hidden, in
    [0, 1) (15%: BERT, Unicoder-VL).
    mismatch: share of pairs that do not match, in [0, 1] (Unicoder-VL takes half).
    """

    hide_words: float = 0.15
    hide_regions: float = 0.15
    mismatch: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (
            0 <= self.hide_words < 1 and 0 <= self.hide_regions < 1 and 0 <= self.mismatch <= 1
        ):
            raise UserError(
                'hide_words and hide_regions must be in [0, 1), and mismatch in [0, 1].'
            )

    def fields(self) -> dict[str, Field]:
        words = Field((max_hidden(self.hide_words, self.max_length),), np.int32, 'target')
        regions = Field((max_hidden(self.hide_regions, self.regions.most),), np.int32, 'target')
        # Patches have no classes in any data set, only those that a codebook gives them.
        num_classes = self.regions.codebook or (0 if self.regions.by == 'patches' else None)
        return super().fields() | {
            'word_place': words,
            'word_target': words,
            'region_place': regions,
            'region_target': regions._replace(num_classes=num_classes),
            'match': Field((), np.int32, 'target', num_classes=2),
        }

    def make_fields(self, drawn: DrawnExamples) -> dict[str, Tensor]:
        import tensorflow as tf

        from mural_jax.data.fields import crops, masking
        from mural_jax.data.fields.texts import hash_ids

        assert drawn.partner is not None, 'reading gives what has_partner asks for'
        fields = super().make_fields(drawn)
        text_B, other_B = fields['text'], drawn.partner.texts[0]
        swapped_B = drawn.random_BU[:, 0] < self.mismatch
        # By chance the partner may show the same image, or have the same text.
        id_B, other_id_B = hash_ids(drawn.stored['id']), hash_ids(drawn.partner.stored['id'])
        same_B = (id_B == other_id_B) | (other_B == text_B)
        fields['match'] = tf.where(swapped_B, tf.where(same_B, masking.IGNORED, 0), 1)
        fields['text'] = tf.where(swapped_B, other_B, text_B)
        # `finish_fields` takes the classes out again, as targets of the hidden regions.
        fields['class'] = crops.read_classes(self.regions, drawn.stored)
        return fields

    def finish_fields(
        self, fields: dict[str, Tensor], random_BU: Tensor, context: ReadingContext
    ) -> dict[str, Tensor]:
        import tensorflow as tf

        from mural_jax.data.fields import masking

        counts = self._random_counts
        words_BU, regions_BU = tf.split(random_BU[:, 1 : 1 + sum(counts)], counts, axis=1)
        feature_size = self.regions.feature_size
        class_BR = fields.pop('class')
        if 'codebook' in context.fitted:
            codebook = context.fitted['codebook']
            class_BR = codebook.classify(fields['regions'], feature_size)
        fields |= masking.hide_words(
            fields['text'], context.special_ids, context.vocab_size, self.hide_words, words_BU
        )
        fields |= masking.hide_regions(
            fields['regions'], class_BR, feature_size, self.hide_regions, regions_BU
        )
        matches_B1 = fields['match'][:, None] == 1
        for name in ('word_target', 'region_target'):
            fields[name] = tf.where(matches_B1, fields[name], masking.IGNORED)
        return fields

    @property
    def has_partner(self) -> bool:
        return True

    @property
    def num_random(self) -> int:
        # The first number decides whether the pair matches.
        return 1 + sum(self._random_counts) + NUM_IMAGE_RANDOM

    @property
    def _random_counts(self) -> tuple[int, int]:
        """Random numbers that hiding the words and the regions of an example uses."""
        return (
            count_word_randoms(self.max_length, self.hide_words),
            count_region_randoms(self.regions.most, self.hide_regions),
        )

    def count_classes(self, records: Sequence[Any]) -> dict[str, int]:
        if self.fields()['region_target'].num_classes is not None:
            return {}
        return {'region_target': count_region_classes(records)}
