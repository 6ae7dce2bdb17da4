"""What a stream is: frozen settings that say which examples it draws and which arrays they become.

Nothing here imports TensorFlow at the top of a file: a config is checked, and the shapes of its
batches are known, where TensorFlow is not installed. `data.reading` opens a stream of any kind.

Position p of a stream is one example. A step takes the next `batch_size` positions, and each
process a slice of them. So a checkpoint stores one integer for each stream, the next position, and
the global batch does not depend on the number of processes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from mural_jax.config.changes import MIXTURE
from mural_jax.data.fields.image_settings import ImageSettings
from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.data.fields.text_choice import TextChoice
from mural_jax.data.sets.filter_settings import Filters
from mural_jax.types import UserError

Tensor = Any  # A tensor of TensorFlow, which this module must not import.

ROLES = {
    'image': 'pixels of an image, uint8 [H, W, 3]',
    'text': 'token ids of a text, int32 [L]',
    'tags': 'token ids of the words that name what is in an image and are a part of it, int32 [L]',
    'regions': 'parts of an image, each a feature and its place, float32 [R, F]',
    'features': 'a feature vector that the data set stores, float32 [F]',
    'target': 'what a task predicts, or where in an example it stands, int32',
}


class Field(NamedTuple):
    """One array of an example: a batch holds it under its name, with the batch dimension in front.

    shape, dtype: of the array for one example.
    role: a key of ROLES.
    negative_of: name of the field whose hard negative this is, '' for none.
    num_classes: number of classes of a target where the stream's settings fix it; 0 where no
    example can have a class; None where the data sets say it (see `Stream.count_classes`) or where
    the vocabulary does.
    """

    shape: tuple[int, ...]
    dtype: Any
    role: str
    negative_of: str = ''
    num_classes: int | None = None


@dataclasses.dataclass(frozen=True)
class StreamSource:
    """One split of one prepared data set, as a part of a stream.

    dataset: `NAME/CONFIG`, as `mural prepare` and `mural data ingest` make them.
    split: name of the split.
    weight: how often the source is drawn, relative to the stream's other sources; 0 pauses it.
    filters: which of its texts and images are left out.
    """

    dataset: str
    split: str = 'train'
    weight: Annotated[float, MIXTURE] = 1.0
    filters: Filters = Filters()

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise UserError(f'The weight of {self.dataset}, {self.weight}, must be 0 or more.')


class DrawnExamples(NamedTuple):
    """A batch of drawn examples as TensorFlow tensors, before they become fields.

    stored: the columns that `Stream.stored_columns` names, [B] or ragged [B, ?].
    texts: the chosen texts, string [B] each, `Stream.num_texts` of them.
    tags_B: the texts of the kind `Stream.tags`, string [B], '' where an example has none; None
    where the stream uses no tags.
    partner: the partners of the examples, with one text each; None where the stream draws none.
    random_BU: `Stream.num_random` numbers in [0, 1) for each example.
    """

    stored: dict[str, Tensor]
    texts: list[Tensor]
    random_BU: Tensor
    tags_B: Tensor | None = None
    partner: 'DrawnExamples | None' = None


class ReadingContext(NamedTuple):
    """What an open stream knows and its settings do not.

    special_ids: token ids that are no words.
    vocab_size: number of tokens.
    fitted: the artefacts that `Stream.fitted` names, by name.
    """

    special_ids: tuple[int, ...]
    vocab_size: int
    fitted: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Stream:
    """The settings that all kinds of streams share.

    sources: the data sets that are mixed, by name.
    languages: the languages whose shares are balanced in each source; empty takes all languages
    of the sources.
    alpha: n examples of a language are drawn as n^alpha; 1 draws languages as frequent as they
    are, 0 draws all equally often. In [0, 1].
    cap: largest share of a source's examples that one language may take, in (0, 1].
    batch_size: examples in a step, over all processes.
    max_length: tokens of a text; the rest of a longer text is cut off.
    text: which text of an example is drawn.
    max_bad: largest share of examples that may turn out broken, in [0, 1]; more end the run.
    """

    sources: Mapping[str, StreamSource]
    languages: tuple[str, ...]
    batch_size: int
    alpha: Annotated[float, MIXTURE] = 1.0
    cap: Annotated[float, MIXTURE] = 1.0
    max_length: int = 64
    text: TextChoice = TextChoice()
    max_bad: float = 0.01

    def __post_init__(self) -> None:
        # Weight 0 pauses a source, and something must be left to draw.
        if not self.sources or not any(source.weight for source in self.sources.values()):
            raise UserError('A stream needs sources, and one of them a weight of more than 0.')
        if not 0 < self.cap <= 1:
            raise UserError(f'cap={self.cap} must be more than 0 and at most 1.')
        if not 0 <= self.alpha <= 1:
            raise UserError(f'alpha={self.alpha} must be in [0, 1].')
        if self.batch_size < 1 or self.max_length < 1:
            raise UserError('batch_size and max_length must be at least 1.')

    # What a kind of stream must answer: which arrays an example becomes.

    def fields(self) -> dict[str, Field]:
        """The arrays of one example, by name."""
        raise NotImplementedError

    def make_fields(self, drawn: DrawnExamples) -> dict[str, Tensor]:
        """Drawn examples as arrays by field; texts are still strings. Runs inside tf.data.

        May leave out fields that `finish_fields` adds, and hold others that it removes.
        """
        raise NotImplementedError

    def finish_fields(
        self, fields: dict[str, Tensor], random_BU: Tensor, context: ReadingContext
    ) -> dict[str, Tensor]:
        """The fields once texts are token ids. Runs inside tf.data."""
        del random_BU, context
        return fields

    # What a kind of stream draws. Most kinds keep these defaults.

    @property
    def num_texts(self) -> int:
        """Number of texts drawn for an example."""
        return 1

    @property
    def num_random(self) -> int:
        """Random numbers in [0, 1) that an example uses, besides those that choose its texts."""
        return 0

    @property
    def stored_columns(self) -> tuple[str, ...]:
        """The columns of a stored example that are read; `id` and `text` must be among them."""
        return ('id', 'text')

    @property
    def partner_columns(self) -> tuple[str, ...]:
        """The columns that are read of an example's partner."""
        return ('id', 'text')

    @property
    def has_partner(self) -> bool:
        """Whether each example comes with another one, from a position soon after it."""
        return False

    @property
    def candidates(self) -> int:
        """Number of examples among which the partner is the one with the most similar text."""
        return 1

    @property
    def shuffle_pairs(self) -> bool:
        """Whether the second text of an example is taken from another example."""
        return False

    @property
    def pivots(self) -> tuple[str, ...] | None:
        """Languages of an example's second text, empty for any; None where it has one text."""
        return None

    @property
    def all_languages(self) -> tuple[str, ...]:
        """All languages that the config names for this stream."""
        return self.languages

    # How images are read. A stream without images keeps these defaults.

    @property
    def images(self) -> ImageSettings | None:
        """How images become pixels; None for a stream without images."""
        return None

    @property
    def regions(self) -> RegionSettings | None:
        """How an image becomes regions; None where a model takes it whole."""
        return None

    @property
    def tags(self) -> str:
        """The kind of text that names what is in an image and is a part of it, '' for none."""
        return ''

    # What a stream needs besides its data sets.

    def fitted(self) -> tuple[str, ...]:
        """Names in `data.fitted.catalog.FITTED` of the artefacts that the stream reads with."""
        return ()

    def check_records(self, records: Sequence[Any]) -> None:
        """Raises UserError where the opened data sets do not fit the settings."""
        del records

    def count_classes(self, records: Sequence[Any]) -> dict[str, int]:
        """Number of classes of the target fields whose classes the data sets give, by field."""
        del records
        return {}

    def prepare_data(self, open_pool: Callable[[], Any]) -> list[str]:
        """Computes what training reads besides examples, and returns one line about each result.

        `open_pool` opens the stream's `reading.pool.Pool`, which takes a while for large data.
        """
        del open_pool
        return []

    @property
    def num_ids(self) -> int:
        """Ids of an example: one of the stored example, and one of each text that is its own."""
        # Neither the same tags nor the same negative make two examples one: they get no id.
        own = [field for field in self.fields().values() if field.role == 'text']
        return 1 + sum(not field.negative_of for field in own)
