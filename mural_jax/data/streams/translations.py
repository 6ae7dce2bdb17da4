"""Translation pairs."""

import dataclasses

import numpy as np

from mural_jax.data.streams.base import DrawnExamples, Field, Stream, Tensor


@dataclasses.dataclass(frozen=True)
class Translations(Stream):
    """Two texts of one meaning: fields `source` and `target`, both int32 [L].

    A source text is in one of `languages`, its target text in one of `pivots`.

    pivots: languages of the targets, each drawn equally often; empty allows any other language of
    `languages`, so that a row in many languages gives any pair of them.
    shuffle_pairs: gives each source the target of another example, always the same one. This
    control experiment shows whether a gain comes from the translations.
    """

    pivots: tuple[str, ...] = ('en',)
    shuffle_pairs: bool = False

    def fields(self) -> dict[str, Field]:
        text = Field((self.max_length,), np.int32, 'text')
        return {'source': text, 'target': text}

    def make_fields(self, drawn: DrawnExamples) -> dict[str, Tensor]:
        source_B, target_B = drawn.texts
        return {'source': source_B, 'target': target_B}

    @property
    def num_texts(self) -> int:
        return 2

    @property
    def all_languages(self) -> tuple[str, ...]:
        # A pivot such as English need not be a language of the sources.
        return tuple(dict.fromkeys(self.languages + self.pivots))
