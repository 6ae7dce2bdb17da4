"""A stream over prepared data, opened: gives its batches from any position on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mural_jax.data.fields import text_choice
from mural_jax.data.fields.texts import join_texts
from mural_jax.data.reading import partners
from mural_jax.data.reading.assemble import BatchAssembler
from mural_jax.data.reading.order import Mixture, uniform
from mural_jax.data.reading.pool import Pool
from mural_jax.data.reading.repair import Repairer
from mural_jax.data.reading.substitutes import Substitutes
from mural_jax.data.sets.schema import parse_examples
from mural_jax.data.streams.base import Stream
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.types import Batch, UserError

PREFETCH = 4  # batches
# Batches that are made at the same time. Two more than cores are busy leave no core idle when one
# ends; the images of a batch are decoded in parallel too, so many cores need few batches.
PARALLEL = 4
SAMPLE = 20_000  # positions whose texts say which words can replace each other


def open_stream(
    stream: Stream,
    data_dir: Path,
    tokenizer: Tokenizer,
    seed: int,
    fitted: Mapping[str, Any] | None = None,
) -> 'OpenStream':
    """A stream, ready to be read.

    `fitted` holds the artefacts that `Stream.fitted` names, as `fitted.catalog.load_fitted` loads
    them. Raises UserError where data is not prepared or does not fit the settings.
    """
    return OpenStream(stream, data_dir, tokenizer, seed, fitted or {})


class OpenStream:
    """A stream over prepared data: `batches` reads it from any position on.

    settings: the stream. pool: all that it draws from. assembler: makes arrays of stored examples.
    labels: SOURCE/LANGUAGE of each origin.
    """

    def __init__(
        self,
        settings: Stream,
        data_dir: Path,
        tokenizer: Tokenizer,
        seed: int,
        fitted: Mapping[str, Any],
    ):
        assert set(fitted) >= set(settings.fitted()), 'the caller loads what the stream needs'
        self.settings, self.batch_size = settings, settings.batch_size
        self.pool = Pool(settings, data_dir)
        settings.check_records(self.pool.records)
        self.labels = self.pool.labels
        self._fitted, self._seed = dict(fitted), seed
        self._mixture = Mixture(self.pool.sizes, self.pool.weights, seed)
        labels = [self.labels.index(draw.label) for draw in self.pool.draws]
        self._label_S = np.array(labels, np.int32)
        self._repairer = Repairer(settings, self)
        negatives = [field.role for field in settings.fields().values() if field.negative_of]
        substitutes = None
        # Reads many texts, which takes seconds: only for streams that need it.
        if 'text' in negatives:
            substitutes = Substitutes(self.read_texts(np.arange(SAMPLE))[0])
        self.assembler = BatchAssembler(
            settings, tokenizer, fitted, self.pool.num_joined, substitutes
        )
        # For repairs: it must compute exactly what tf.data's graph computes.
        self._assemble = tf.function(
            self.assembler.assemble, autograph=False, reduce_retracing=True
        )

    @property
    def mixture(self) -> dict[str, Any]:
        """How often each source was and is drawn, as JSON for a checkpoint."""
        return {'sources': self._names, 'segments': self._mixture.state, 'data': self._fingerprint}

    def follow(self, mixture: Mapping[str, Any], position: int) -> str:
        """Continues the mixture of a checkpoint; what changed in it, in words, or ''.

        Weights that differ apply from `position` on. Raises UserError where the sources or the
        data are not those of the checkpoint.
        """
        if list(mixture['sources']) != self._names:
            raise UserError(
                'The checkpoint was trained on other sources or languages: '
                f'{mixture["sources"]}, here are {self._names}. Only weights may change in a run.'
            )
        if mixture['data'] != self._fingerprint:
            raise UserError(
                'The prepared data is not what the checkpoint was trained on, so the order of the '
                'stream would be another. Give the --data_dir of that run, or a new --workdir.'
            )
        self._mixture = Mixture(
            self.pool.sizes, self.pool.weights, self._seed, mixture['segments'], position
        )
        if not self._mixture.changed:
            return ''
        before, after = (segment['quotas'] for segment in self._mixture.state[-2:])
        total = sum(after)
        changed = [
            f'{name} {100 * old / total:.2f}% -> {100 * new / total:.2f}%'
            for name, old, new in zip(self._names, before, after)
            if old != new
        ]
        return f'weights change at example {position}: {", ".join(changed)}'

    def batches(self, position: int, count: int, rows: np.ndarray | None = None) -> Iterator[Batch]:
        """`count` batches, the first from `position` on: of each some rows, all of them for None.

        A batch holds the stream's fields as numpy arrays, `ids` int32 [B, N] and `origin`
        int32 [B], an index into `labels`. Raises UserError where more than `max_bad` of the
        examples are broken.
        """
        row_B = np.arange(self.batch_size) if rows is None else rows
        end = position + count * self.batch_size
        firsts = tf.data.Dataset.range(position, end, self.batch_size)
        loaded = iter(self._load_batches(firsts, row_B))
        for first in range(position, end, self.batch_size):
            try:
                batch = next(loaded)
            # After an error tf.data goes on with the next batch, so the broken one is made here.
            # A message of TensorFlow that holds broken bytes raises UnicodeDecodeError instead.
            except (tf.errors.OpError, UnicodeDecodeError) as error:
                position_B = first + row_B
                draws = self._mixture.locate(position_B)
                batch = self._repairer.repair(*draws, position_B, error)
            self._repairer.count_read(len(row_B))
            # Without a copy, unlike `numpy()`.
            yield {key: np.asarray(value) for key, value in batch.items()}

    def take_bad(self) -> list[dict[str, Any]]:
        """What was broken since the last call: {position, dataset, shard, index, reason} each."""
        return self._repairer.take_listed()

    def members_at(self, position_B: np.ndarray) -> np.ndarray:
        """The members of the pool at positions, int64 [B]."""
        return self.find_members(*self._mixture.locate(position_B))

    def origins_at(self, position_B: np.ndarray) -> np.ndarray:
        """Indices into `labels` of the examples at positions, int32 [B]."""
        return self._label_S[self._mixture.locate(position_B)[0]]

    def partners_of(self, member_B: np.ndarray, position_B: np.ndarray) -> np.ndarray:
        """The other member that comes with each member, int64 [B]."""
        if not self.settings.has_partner:
            return partners.shuffle_members(self.pool, member_B)
        candidates = self.settings.candidates
        return partners.draw_partners(
            self.pool, self.members_at, member_B, position_B, candidates, self._seed
        )

    def read_texts(self, position_B: np.ndarray) -> list[list[str]]:
        """The texts of the examples at positions, before they become tokens: [num_texts][B].

        Raises OSError, ValueError or an error of TensorFlow where a record cannot be read.
        """
        member_B, *numbers, _, _ = self.draw_examples(position_B)
        serialized = self.read_records(member_B, position_B)
        found = []
        for side, number_BJ in enumerate(numbers[: self.settings.num_texts]):
            serialized_B = tf.constant(serialized[min(side, len(serialized) - 1)])
            stored = parse_examples(serialized_B, 'text')
            joined_B = join_texts(stored['text'], tf.constant(number_BJ)).numpy()
            found.append([text.decode(errors='replace') for text in joined_B])
        return found

    # The steps from positions to arrays; `data.pages.bench` measures each, `repair` repeats them.

    def draw_examples(self, position_B: np.ndarray) -> list[np.ndarray]:
        """The members at positions, then all of `BatchAssembler`'s arrays but the examples."""
        source_B, draw_B = self._mixture.locate(position_B)
        member_B = self.find_members(source_B, draw_B)
        return [member_B, *self._draw_texts(source_B, member_B, position_B)]

    def find_members(self, source_B: np.ndarray, draw_B: np.ndarray) -> np.ndarray:
        """The members that the draws of the mixture's sources give, int64 [B]."""
        return self.pool.base_S[source_B] + self._mixture.record(source_B, draw_B)

    def read_records(self, member_B: np.ndarray, position_B: np.ndarray) -> list[np.ndarray]:
        """Serialized examples of members, and those of their partners where these are needed."""
        owners = [member_B]
        if self.settings.shuffle_pairs or self.settings.has_partner:
            owners.append(self.partners_of(member_B, position_B))
        return [self.pool.read(owner_B) for owner_B in owners]

    def load_draws(
        self, source_B: np.ndarray, draw_B: np.ndarray, position_B: np.ndarray
    ) -> dict[str, tf.Tensor]:
        """The fields of some draws, computed as in a batch."""
        member_B = self.find_members(source_B, draw_B)
        arrays = [
            *self.read_records(member_B, position_B),
            *self._draw_texts(source_B, member_B, position_B),
        ]
        return self._assemble([tf.constant(array) for array in arrays])

    def _load_batches(self, firsts: tf.data.Dataset, row_B: np.ndarray) -> tf.data.Dataset:
        """Some rows of the batches that begin at the positions `firsts`.

        NumPy and the reader of records run in one Python function for a whole batch, since Python
        code holds its lock; decoding runs in TensorFlow's threads.
        """

        def read(first: np.ndarray) -> list[np.ndarray]:
            position_B = int(first) + row_B
            member_B, *others = self.draw_examples(position_B)
            return [*self.read_records(member_B, position_B), *others]

        # There is no control flow in Python to be converted, and looking for some takes seconds.
        @tf.autograph.experimental.do_not_convert
        def load(first: tf.Tensor) -> dict[str, tf.Tensor]:
            arrays = tf.numpy_function(read, [first], self.assembler.array_types())
            self.assembler.set_shapes(arrays, len(row_B))
            return self.assembler.assemble(arrays)

        loaded = firsts.map(load, num_parallel_calls=PARALLEL, deterministic=True)
        return loaded.prefetch(PREFETCH)

    def _draw_texts(
        self, source_B: np.ndarray, member_B: np.ndarray, position_B: np.ndarray
    ) -> list[np.ndarray]:
        """Numbers of the chosen texts, labels, and random numbers of members."""
        settings, count = self.settings, text_choice.NUM_RANDOM
        num_random = settings.num_texts * count + settings.num_random
        random_BU = uniform(self._seed, position_B, num_random)
        numbers = []
        for side in range(settings.num_texts):
            # Both texts of a pair share the number that chooses their kind.
            columns = [0, *range(side * count + 1, (side + 1) * count)]
            owner_B = member_B
            if side and settings.shuffle_pairs:
                owner_B = self.partners_of(member_B, position_B)
            numbers.append(self.pool.choose_texts(owner_B, side, random_BU[:, columns]))
        owners = [member_B]
        if settings.has_partner:
            owners.append(self.partners_of(member_B, position_B))
            numbers.append(self.pool.choose_texts(owners[1], 0, random_BU[:, :count]))
        if settings.tags:
            numbers += [self.pool.find_tags(owner_B) for owner_B in owners]
        return [*numbers, self._label_S[source_B], random_BU[:, settings.num_texts * count :]]

    @property
    def _names(self) -> list[str]:
        return [draw.name for draw in self.pool.draws]

    @property
    def _fingerprint(self) -> str:
        """A name of the data that the stream rests on."""
        fitted = [self._fitted[name].fingerprint for name in self.settings.fitted()]
        return '+'.join([self.pool.fingerprint, *fitted])
