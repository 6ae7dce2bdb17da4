"""Which text of an example is taken."""

import dataclasses
from typing import Any

import tensorflow as tf

from mural_jax.data import schema

NUM_RANDOM = 3  # numbers in [0, 1) that one choice takes


@dataclasses.dataclass(frozen=True)
class TextChoice:
    """An example's name, or some of its keywords.

    name_share: how often the name is taken where there are keywords too, in [0, 1].
    max_keywords: at most so many keywords are joined, at least 1.
    """

    name_share: float = 1.0
    max_keywords: int = 1

    def __call__(
        self, parsed: dict[str, Any], language_B: tf.Tensor, random_B3: tf.Tensor
    ) -> tf.Tensor:
        """One text for each example in its language, string [B].

        `parsed` is what `schema.parse` returns; `random_B3` is in [0, 1).
        """
        rows = parsed['language'].value_rowids()
        here = tf.where(parsed['language'].values == tf.gather(language_B, rows))[:, 0]
        kind, text = (tf.gather(parsed[key].values, here) for key in ('kind', 'text'))
        rows, size = tf.gather(rows, here), tf.shape(language_B, tf.int64)[0]

        def of_kind(wanted: int) -> tf.RaggedTensor:
            place = tf.where(kind == wanted)[:, 0]
            return tf.RaggedTensor.from_value_rowids(
                tf.gather(text, place), tf.gather(rows, place), size, validate=False
            )

        names, words = of_kind(schema.NAME), of_kind(schema.KEYWORD)
        name_B = tf.strings.reduce_join(names[:, :1], axis=1)
        words_B = tf.strings.reduce_join(self._some(words, random_B3), axis=1, separator=', ')
        use_name_B = (random_B3[:, 0] < self.name_share) | (words.row_lengths() == 0)
        return tf.where(use_name_B & (names.row_lengths() > 0), name_B, words_B)

    def _some(self, words: tf.RaggedTensor, random_B3: tf.Tensor) -> tf.RaggedTensor:
        """A run of 1 to max_keywords words from a random start, wrapping round."""
        total_B = words.row_lengths()
        most_B = tf.minimum(total_B, self.max_keywords)
        first_B = _scale(random_B3[:, 1], total_B)
        count_B = tf.minimum(_scale(random_B3[:, 2], most_B) + 1, total_B)
        place = tf.ragged.range(first_B, first_B + count_B)
        total = tf.gather(total_B, place.value_rowids())
        return tf.gather(words, place.with_values(place.values % total), batch_dims=1)


def _scale(random_B: tf.Tensor, number_B: tf.Tensor) -> tf.Tensor:
    """[0, 1) -> {0, ..., number - 1}, int64."""
    return tf.cast(tf.floor(random_B * tf.cast(number_B, tf.float32)), tf.int64)
