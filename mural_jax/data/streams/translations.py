"""Translation pairs."""

import dataclasses

import tensorflow as tf

from mural_jax.data.fields.texts import hashed, join_texts
from mural_jax.data.sets import schema
from mural_jax.data.streams.base import Stream


@dataclasses.dataclass(frozen=True)
class Translations(Stream):
    """Two texts of one meaning: fields `source` and `target`, both int32 [B, L].

    A source is in one of `languages`, its target in one of `pivots`, all alike. Without pivots a
    target is in any other of the languages: of rows in many languages, any pair.
    shuffle_pairs: give each source the target of another example, always the same one. The
    control that shows whether a gain comes from the translations.
    """

    pivots: tuple[str, ...] = ('en',)
    shuffle_pairs: bool = False

    num_texts = 2

    def fields(
        self, serialized: list[tf.Tensor], number_BJ: list[tf.Tensor], random_BU: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        del random_BU
        parsed = schema.parse(serialized[0], 'id', 'text')
        other = schema.parse(serialized[1], 'text') if self.shuffle_pairs else parsed
        return {
            'source': join_texts(parsed['text'], number_BJ[0]),
            'target': join_texts(other['text'], number_BJ[1]),
            'id': hashed(parsed['id']),
        }

    @property
    def all_languages(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.languages + self.pivots))
