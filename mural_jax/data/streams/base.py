"""Endless streams of batches, each a pure function of (seed, position).

Position p of a stream is one example. A step takes the next `batch_size` positions, a host its
slice of them. So a checkpoint holds one integer a stream, the next position, and the global batch
does not depend on the number of hosts.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import tensorflow as tf

from mural_jax.data.fields.text_choice import TextChoice
from mural_jax.data.sets.filters import Filters
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.types import UserError

if TYPE_CHECKING:
    from mural_jax.data.reading.draws import Pool
    from mural_jax.data.reading.stream import OpenStream


@dataclasses.dataclass(frozen=True)
class Source:
    """One split of one prepared data set.

    dataset: `NAME/CONFIG`, as `mural prepare` and `mural data ingest` make them.
    weight: how often the source is drawn, in proportion to the stream's others; 0 rests.
    filters: what is left out of it.
    """

    dataset: str
    split: str = 'train'
    weight: float = 1.0
    filters: Filters = Filters()

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise UserError(f'The weight of {self.dataset}, {self.weight}, must be 0 or more.')


class Given(NamedTuple):
    """What an open stream knows and its settings do not.

    marks: tokens that are no words. vocab_size: tokens. codebook: of regions, None where their
    classes are those of the data set.
    """

    marks: tuple[int, ...]
    vocab_size: int
    codebook: Any = None


@dataclasses.dataclass(frozen=True)
class Stream:
    """What all streams have: where examples come from, how often each language, how many.

    sources: by name, what is mixed.
    languages: the languages that are balanced in each source, n examples of one drawn as n^alpha;
    empty takes all that the sources have.
    alpha: 1 draws languages as they come, 0 draws all alike, in [0, 1].
    cap: the largest share of a source's examples that one language may take, in (0, 1].
    batch_size: examples in a step, over all hosts.
    max_length: tokens of a text; what is longer is cut.
    text: which text of an example is taken.
    max_bad: the largest share of examples that may turn out broken, in [0, 1]; more end the run.
    """

    sources: Mapping[str, Source]
    languages: tuple[str, ...]
    batch_size: int
    alpha: float = 1.0
    cap: float = 1.0
    max_length: int = 64
    text: TextChoice = TextChoice()
    max_bad: float = 0.01

    has_image = False
    num_random = 0  # numbers in [0, 1) that an example takes besides those for its texts
    num_texts = 1
    shuffle_pairs = False
    has_partner = False  # whether an example comes with another one, of another position
    candidates = 1  # of so many other examples the partner is the one whose text is most alike
    hard_negatives = False  # whether a text comes with another that is nearly right
    tags = ''  # the kind of text that names what is in a picture, as a part of it

    def __post_init__(self) -> None:
        if not self.sources or not any(source.weight for source in self.sources.values()):
            raise UserError('A stream needs sources, and one of them a weight of more than 0.')
        if not 0 < self.cap <= 1:
            raise UserError(f'cap={self.cap} must be more than 0 and at most 1.')
        if not 0 <= self.alpha <= 1:
            raise UserError(f'alpha={self.alpha} must be in [0, 1].')
        if self.batch_size < 1 or self.max_length < 1:
            raise UserError('batch_size and max_length must be at least 1.')

    def fields(
        self, serialized: list[tf.Tensor], number_BJ: list[tf.Tensor], random_BU: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Serialized examples -> fields; texts are still strings. Runs inside tf.data.

        `number_BJ` says for each text of the example which of the stored ones are joined to it.
        """
        raise NotImplementedError

    def finished(
        self, fields: dict[str, tf.Tensor], random_BU: tf.Tensor, given: Given
    ) -> dict[str, tf.Tensor]:
        """The fields once texts are tokens. Runs inside tf.data."""
        del random_BU, given
        return fields

    def complete(self, data_dir: Path) -> list[str]:
        """Makes what the stream needs besides its data and its filters; each thing in words."""
        del data_dir
        return []

    def codebook(self, data_dir: Path) -> Any:
        """Of regions, None where the stream has none. Raises UserError where it is not made."""
        del data_dir
        return None

    def open(
        self, data_dir: Path, tokenizer: Tokenizer, seed: int, codebook: Any = None
    ) -> 'OpenStream':
        """Ready to be read. Raises UserError where the data is not prepared or does not fit.

        codebook: that of another stream, for other data; None takes the stream's own.
        """
        from mural_jax.data.reading.stream import OpenStream

        return OpenStream(self, data_dir, tokenizer, seed, codebook or self.codebook(data_dir))

    def pool(self, data_dir: Path) -> 'Pool':
        """All that the stream can draw."""
        from mural_jax.data.reading.draws import Pool

        return Pool(self, data_dir)

    def filter(self, data_dir: Path) -> dict[str, Any]:
        """Works out the filters of the sources that have some; by source, {counts, leaks}."""
        from mural_jax.data.sets import filters as selection
        from mural_jax.data.sets.records import Records, named

        return {
            name: selection.ensure(
                Records(source.dataset, source.split, data_dir), source.filters, data_dir,
                lambda test: named(test, data_dir),
            )
            for name, source in self.sources.items() if source.filters.active
        }  # fmt: skip

    @property
    def all_languages(self) -> tuple[str, ...]:
        return self.languages
