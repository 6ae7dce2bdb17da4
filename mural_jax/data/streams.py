"""Endless streams of batches, each a pure function of (seed, position).

Position p of a stream is one example. A step takes the next `batch_size` positions, a host its
slice of them. So a checkpoint holds one integer a stream, the next position, and the global batch
does not depend on the number of hosts.
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from mural_jax.data import choice, images, schema
from mural_jax.data.choice import TextChoice
from mural_jax.data.images import Augment
from mural_jax.data.order import Mixture, index_shuffle, uniform
from mural_jax.data.records import Records
from mural_jax.data.tokenizer import Tokenizer, text_ids
from mural_jax.types import Batch, UserError

PREFETCH = 4  # batches


class Source(NamedTuple):
    """What a mixture draws from: the records that have texts in all of some languages."""

    languages: tuple[int, ...]  # columns of Records.presence_RL, one for each text of an example
    members: np.ndarray  # record numbers
    weight: float


@dataclasses.dataclass(frozen=True)
class Stream:
    """What all streams have: where examples come from, how often each language, how many.

    dataset, split: a prepared data set `NAME/CONFIG` and one of its splits.
    languages: the languages that are balanced, n examples of one drawn as n^alpha.
    alpha: 1 draws languages as they come, 0 draws all alike, in [0, 1].
    batch_size: examples in a step, over all hosts.
    max_length: tokens of a text; what is longer is cut.
    text: which text of an example is taken.
    """

    dataset: str
    languages: tuple[str, ...]
    batch_size: int
    split: str = 'train'
    alpha: float = 1.0
    max_length: int = 64
    text: TextChoice = TextChoice()

    has_image = False
    num_random = 0  # numbers in [0, 1) that one example takes

    def sources(self, records: Records) -> list[Source]:
        raise NotImplementedError

    def fields(
        self, serialized: list[tf.Tensor], language_BS: tf.Tensor, random_BU: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Serialized examples -> fields; texts are still strings. Runs inside tf.data."""
        raise NotImplementedError

    def partner(self, drawn_B: np.ndarray, size_B: np.ndarray, source_B: np.ndarray) -> list:
        """Which members an example is made of besides the drawn one, a list of int64 [B]."""
        return []

    def open(self, data_dir: Path, tokenizer: Tokenizer, seed: int) -> 'OpenStream':
        """Ready to be read. Raises UserError where the data is not prepared or does not fit."""
        return OpenStream(self, Records(self.dataset, self.split, data_dir), tokenizer, seed)

    def texts(self, data_dir: Path) -> Iterator[str]:
        """Every text that the stream can draw, for the vocabulary."""
        records = Records(self.dataset, self.split, data_dir)
        languages = self.all_languages
        records.language_ids(list(languages))
        for example in records.examples(image=False):
            for language, kinds in example['texts'].items():
                if language in languages:
                    for texts in kinds.values():
                        yield from texts

    @property
    def all_languages(self) -> tuple[str, ...]:
        return self.languages


@dataclasses.dataclass(frozen=True)
class Captions(Stream):
    """A picture and one text of it: fields `image`, uint8 [B, H, W, 3], and `text`, [B, L].

    image_size: the side of a picture in pixels.
    resize: the side that a picture is brought to before image_size is cut out of it; 0 for
    image_size, so that nothing is cut off.
    augment: how pictures are changed.
    """

    image_size: int = 64
    resize: int = 0
    augment: Augment = Augment()

    has_image = True
    num_random = choice.NUM_RANDOM + Augment.NUM_RANDOM

    def __post_init__(self) -> None:
        if self.resize and self.resize < self.image_size:
            raise UserError(
                f'resize={self.resize} is smaller than image_size={self.image_size}, which is cut '
                'out of it. Give 0 or something larger.'
            )

    def sources(self, records: Records) -> list[Source]:
        sources = []
        for column in records.language_ids(list(self.languages)):
            members = np.flatnonzero(records.presence_RL[:, column])
            sources.append(Source((int(column),), members, len(members) ** self.alpha))
        return sources

    def fields(
        self, serialized: list[tf.Tensor], language_BS: tf.Tensor, random_BU: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        parsed = schema.parse(serialized[0], image=True)
        text_B = self.text(parsed, language_BS[:, 0], random_BU[:, : choice.NUM_RANDOM])
        image_BHWC = images.decode(parsed['image'], self.resize or self.image_size)
        random_BU = random_BU[:, choice.NUM_RANDOM :]
        image_BHWC = self.augment(image_BHWC, random_BU, self.image_size)
        return {'image': image_BHWC, 'text': text_B, 'id': _hash(parsed['id'])}


@dataclasses.dataclass(frozen=True)
class Translations(Stream):
    """Two texts of one meaning: fields `source` and `target`, both int32 [B, L].

    A source is in one of `languages`, its target in one of `pivots`, all alike.
    shuffle_pairs: give each source the target of another example, always the same one. The
    control that shows whether a gain comes from the translations.
    """

    pivots: tuple[str, ...] = ('en',)
    shuffle_pairs: bool = False

    num_random = 2 * choice.NUM_RANDOM

    def sources(self, records: Records) -> list[Source]:
        columns = records.language_ids(list(self.languages))
        pivots = records.language_ids(list(self.pivots))
        present_RL = records.presence_RL
        sources = []
        for column in columns:
            weight = float(present_RL[:, column].sum() ** self.alpha)
            pairs = []
            for pivot in pivots:
                members = np.flatnonzero(present_RL[:, column] & present_RL[:, pivot])
                if pivot != column and len(members):
                    pairs.append(((int(column), int(pivot)), members))
            if not pairs:
                name = records.languages[column]
                raise UserError(f'{self.dataset} has no pairs of {name} with {self.pivots}.')
            sources += [Source(*pair, weight=weight / len(pairs)) for pair in pairs]
        return sources

    def partner(self, drawn_B: np.ndarray, size_B: np.ndarray, source_B: np.ndarray) -> list:
        if not self.shuffle_pairs:
            return []
        return [index_shuffle(drawn_B, size_B, 0, source_B)]

    def fields(
        self, serialized: list[tf.Tensor], language_BS: tf.Tensor, random_BU: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        parsed = schema.parse(serialized[0], image=False)
        other = schema.parse(serialized[1], image=False) if self.shuffle_pairs else parsed
        # Both sides take a name or both take keywords: the first random number is shared.
        second_B3 = tf.concat([random_BU[:, :1], random_BU[:, 4:]], axis=1)
        return {
            'source': self.text(parsed, language_BS[:, 0], random_BU[:, :3]),
            'target': self.text(other, language_BS[:, 1], second_B3),
            'id': _hash(parsed['id']),
        }

    @property
    def all_languages(self) -> tuple[str, ...]:
        return self.languages + self.pivots


class OpenStream:
    """A stream over prepared data: `batches` reads it from any step on."""

    def __init__(self, spec: Stream, records: Records, tokenizer: Tokenizer, seed: int):
        self.spec = spec
        self.batch_size, self.languages = spec.batch_size, spec.languages
        self._records = records
        self._tokenizer = tokenizer
        self._seed = seed
        self._sources = spec.sources(records)
        sizes = np.array([len(source.members) for source in self._sources])
        weights = np.array([source.weight for source in self._sources])
        self._mixture = Mixture(sizes, weights, seed)
        self._languages_SL = np.array([source.languages for source in self._sources])
        columns = list(records.language_ids(list(spec.languages)))
        self._language_S = np.array([columns.index(s.languages[0]) for s in self._sources])

    def batches(
        self, position: int, count: int, host: int = 0, num_hosts: int = 1
    ) -> Iterator[Batch]:
        """`count` batches, the first one from `position` on, the host's slice of each.

        A batch holds the stream's fields as numpy arrays, `ids` int32 [B, N] and `language`
        int32 [B], an index into the stream's `languages`.
        """
        assert self.batch_size % num_hosts == 0, 'checked where the mesh is made'
        num_inputs = 1 + len(self.spec.partner(*np.zeros((3, 0), np.int64)))
        kinds = [tf.string] * num_inputs + [tf.int64, tf.int32, tf.float32]

        def read(first: np.ndarray) -> list[np.ndarray]:
            return self._read(int(first), host, num_hosts)

        def decode(first: tf.Tensor) -> dict[str, tf.Tensor]:
            *serialized, languages, language, random = tf.numpy_function(read, [first], kinds)
            for column in serialized:
                column.set_shape([None])
            languages.set_shape([None, self._languages_SL.shape[1]])
            random.set_shape([None, self.spec.num_random])
            return self._tokenise(self.spec.fields(serialized, languages, random), language)

        end = position + count * self.batch_size
        firsts = tf.data.Dataset.range(position, end, self.batch_size)
        dataset = firsts.map(decode, num_parallel_calls=2, deterministic=True).prefetch(PREFETCH)
        yield from dataset.as_numpy_iterator()

    def _read(self, first: int, host: int, num_hosts: int) -> list[np.ndarray]:
        """The examples of the batch that starts at position `first`, still serialized."""
        size = self.batch_size // num_hosts
        position_B = first + host * size + np.arange(size)
        source_B, drawn_B = self._mixture.locate(position_B)
        size_B = self._mixture.sizes[source_B]
        columns = [drawn_B, *self.spec.partner(drawn_B, size_B, source_B)]
        serialized = []
        for column_B in columns:
            index_B = [self._sources[s].members[i] for s, i in zip(source_B, column_B)]
            serialized.append(self._records.read(np.array(index_B)))
        random_BU = uniform(self._seed, position_B, self.spec.num_random)
        language_B = self._language_S[source_B].astype(np.int32)
        return [*serialized, self._languages_SL[source_B], language_B, random_BU]

    def _tokenise(
        self, fields: dict[str, tf.Tensor], language_B: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        """Strings -> tokens, and the ids of examples and texts in one array."""

        def tokens(text_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            texts = [text.decode() for text in text_B]
            return self._tokenizer(texts, self.spec.max_length), text_ids(texts)

        ids = [fields.pop('id')]
        for name, value in fields.items():
            if value.dtype == tf.string:
                fields[name], text_id_B = tf.numpy_function(tokens, [value], [tf.int32, tf.int32])
                ids.append(text_id_B)
        return fields | {'ids': tf.stack(ids, axis=1), 'language': language_B}


def _hash(text_B: tf.Tensor) -> tf.Tensor:
    """string [B] -> int32 [B], not negative."""
    return tf.cast(tf.strings.to_hash_bucket_fast(text_B, 2**31 - 1), tf.int32)
