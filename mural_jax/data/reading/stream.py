"""A stream over prepared data: reads, decodes, tokenises, replaces what is broken."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mural_jax.data.fields import text_choice
from mural_jax.data.fields.texts import join_texts
from mural_jax.data.reading.draws import Pool
from mural_jax.data.reading.order import Mixture, index_shuffle, uniform
from mural_jax.data.reading.substitutes import Substitutes
from mural_jax.data.sets import checks, schema
from mural_jax.data.streams.base import Given, Stream
from mural_jax.data.tokenizer import Tokenizer, text_ids
from mural_jax.types import Batch, UserError

NEGATIVE = 'text_negative'  # the field of a text that is nearly right
OF_PICTURE = ('tags', 'tags_negative')  # fields of words that are a part of the picture
PREFETCH = 4  # batches
# Batches that are made side by side: two more than cores take up leave none idle at their ends;
# pictures of one batch are decoded side by side too, so that many cores need few batches.
PARALLEL = 4
PARTNERS = 2**16  # positions ahead that a partner may come from
SAMPLE = 20_000  # positions whose texts say which words stand in the same place
MAX_TRIES = 100  # examples in a row that may be broken, before something else must be wrong
GRACE = 1000  # examples before the share of broken ones says anything


class OpenStream:
    """A stream over prepared data: `batches` reads it from any position on."""

    def __init__(
        self, spec: Stream, data_dir: Path, tokenizer: Tokenizer, seed: int, codebook: Any
    ):  # fmt: skip
        self.spec = spec
        self.batch_size = spec.batch_size
        self._pool = Pool(spec, data_dir)
        self.labels = self._pool.labels
        self._tokenizer, self._codebook = tokenizer, codebook
        self._seed = seed
        self._mixture = Mixture(self._pool.sizes, self._pool.weights, seed)
        label_S = [self.labels.index(draw.label) for draw in self._pool.draws]
        self._label_S = np.array(label_S, np.int32)
        self._bad: list[dict[str, Any]] = []
        self._num_bad, self._num_read = 0, 0
        self._graph = tf.function(self.decoded, autograph=False, reduce_retracing=True)
        if spec.hard_negatives:
            self._substitutes = Substitutes(self.texts(np.arange(SAMPLE))[0])

    @property
    def pool(self) -> Pool:
        """All that is drawn from."""
        return self._pool

    @property
    def mixture(self) -> dict[str, Any]:
        """How often each source was and is drawn, for a checkpoint."""
        return {
            'sources': self._names, 'segments': self._mixture.state,
            'data': self._fingerprint,
        }  # fmt: skip

    def follow(self, mixture: Mapping[str, Any], position: int) -> str:
        """Goes on from the mixture of a checkpoint; what changed in it, or ''.

        Weights that are others now are in force from `position` on. Raises UserError where the
        sources themselves are others.
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
            self._pool.sizes, self._pool.weights, self._seed, mixture['segments'], position
        )
        if not self._mixture.changed:
            return ''
        before, after = (segment['quotas'] for segment in self._mixture.state[-2:])
        total = sum(after)
        changed = [
            f'{name} {100 * old / total:.2f}% -> {100 * new / total:.2f}%'
            for name, old, new in zip(self._names, before, after) if old != new
        ]  # fmt: skip
        return f'weights change at example {position}: {", ".join(changed)}'

    def members(self, position_B: np.ndarray) -> np.ndarray:
        """Which members of the pool stand at positions."""
        return self._member(*self._mixture.locate(position_B))

    def texts(self, position_B: np.ndarray) -> list[list[str]]:
        """The texts of the examples at positions, before they are tokens; [num_texts][B].

        Raises OSError, ValueError or an error of TensorFlow where a record cannot be read.
        """
        member_B, *numbers, _, _ = self.find(position_B)
        serialized = self.read(member_B, position_B)
        found = []
        for side, number_BJ in enumerate(numbers[: self.spec.num_texts]):
            text = schema.parse(tf.constant(serialized[min(side, len(serialized) - 1)]), 'text')
            joined_B = join_texts(text['text'], tf.constant(number_BJ)).numpy()
            found.append([text.decode(errors='replace') for text in joined_B])
        return found

    def take_bad(self) -> list[dict[str, Any]]:
        """What was found broken since the last call: {position, dataset, shard, index, reason}."""
        bad, self._bad = self._bad, []
        return bad

    def batches(
        self, position: int, count: int, host: int = 0, num_hosts: int = 1
    ) -> Iterator[Batch]:
        """`count` batches, the first one from `position` on, the host's slice of each.

        A batch holds the stream's fields as numpy arrays, `ids` int32 [B, N] and `origin`
        int32 [B], an index into `labels`. Raises UserError where more than `max_bad` is broken.
        """
        assert self.batch_size % num_hosts == 0, 'checked where the mesh is made'
        size = self.batch_size // num_hosts
        end = position + count * self.batch_size
        firsts = tf.data.Dataset.range(position + host * size, end, self.batch_size)
        batches = iter(self._dataset(firsts, size))
        for first in range(position + host * size, end, self.batch_size):
            try:
                batch = next(batches)
            # Of messages with broken bytes TensorFlow raises that they are not UTF-8.
            except (tf.errors.OpError, UnicodeDecodeError) as error:
                batch = self._repaired(first, size, error)
            self._num_read += size
            # Without a copy, unlike `numpy()`.
            yield {key: np.asarray(value) for key, value in batch.items()}

    def _dataset(self, firsts: tf.data.Dataset, size: int) -> tf.data.Dataset:
        spec = self.spec
        kinds = [tf.string] * self._num_records + [tf.int64] * self._num_numbers
        kinds += [tf.int32, tf.float32]

        # Graphs are written out here, so that nothing is to be turned into them: that took seconds.
        @tf.autograph.experimental.do_not_convert
        def load(first: tf.Tensor) -> dict[str, tf.Tensor]:
            def read(first: np.ndarray) -> list[np.ndarray]:
                position_B = int(first) + np.arange(size)
                member_B, *others = self.find(position_B)
                return [*self.read(member_B, position_B), *others]

            arrays = tf.numpy_function(read, [first], kinds)
            widths = [self._num_joined] * self._num_numbers
            shapes = [[size]] * self._num_records + [[size, width] for width in widths]
            shapes += [[size], [size, spec.num_random]]
            for array, shape in zip(arrays, shapes):
                array.set_shape(shape)
            return self.decoded(arrays)

        loaded = firsts.map(load, num_parallel_calls=PARALLEL, deterministic=True)
        return loaded.prefetch(PREFETCH)

    def find(self, position_B: np.ndarray) -> list[np.ndarray]:
        """(members, the texts taken of each, origins, random numbers) at positions."""
        source_B, draw_B = self._mixture.locate(position_B)
        member_B = self._member(source_B, draw_B)
        return [member_B, *self._chosen(source_B, member_B, position_B)]

    def _member(self, source_B: np.ndarray, draw_B: np.ndarray) -> np.ndarray:
        return self._pool.base_S[source_B] + self._mixture.record(source_B, draw_B)

    def _chosen(
        self, source_B: np.ndarray, member_B: np.ndarray, position_B: np.ndarray
    ) -> list[np.ndarray]:
        spec, count = self.spec, text_choice.NUM_RANDOM
        random_BU = uniform(self._seed, position_B, spec.num_texts * count + spec.num_random)
        numbers = []
        for side in range(spec.num_texts):
            # Both texts of a pair share the number that says which kind.
            columns = [0, *range(side * count + 1, (side + 1) * count)]
            owner_B = member_B
            if side and spec.shuffle_pairs:
                owner_B = self._partner(member_B, position_B)
            numbers.append(self._pool.choose(owner_B, side, random_BU[:, columns]))
        if spec.has_partner:
            partner_B = self._partner(member_B, position_B)
            numbers.append(self._pool.choose(partner_B, 0, random_BU[:, :count]))
        if spec.tags:
            owners = [member_B, partner_B] if spec.has_partner else [member_B]
            numbers += [self._pool.tags(owner_B, self._num_joined) for owner_B in owners]
        return [*numbers, self._label_S[source_B], random_BU[:, spec.num_texts * count :]]

    def read(self, member_B: np.ndarray, position_B: np.ndarray) -> list[np.ndarray]:
        """The examples of a batch, still serialized, and those that their pairs come from."""
        owners = [member_B]
        if self._num_records > 1:
            owners.append(self._partner(member_B, position_B))
        return [self._pool.read(owner_B) for owner_B in owners]

    def _partner(self, member_B: np.ndarray, position_B: np.ndarray) -> np.ndarray:
        """Another member: of the same draw, always the same one; or of a position soon after."""
        if self.spec.has_partner:
            away_BC = uniform(self._seed + 1, position_B, self.spec.candidates)
            ahead_BC = position_B[:, None] + 1 + (away_BC * PARTNERS).astype(np.int64)
            member_BC = self.members(ahead_BC.ravel()).reshape(ahead_BC.shape)
            return self._pool.most_alike(member_B, member_BC)
        source_B = np.searchsorted(self._pool.base_S, member_B, side='right') - 1
        base_B = self._pool.base_S[source_B]
        size_B = self._pool.sizes[source_B]
        return base_B + index_shuffle(member_B - base_B, size_B, 0, source_B)

    def decoded(self, arrays: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """What `read` and `find` give -> fields, texts as tokens."""
        fields = self.tokenised(self.strings(arrays))
        fields = self.spec.finished(fields, arrays[-1], self._given)
        return fields | {'origin': arrays[-2]}

    def strings(self, arrays: list[tf.Tensor]) -> dict[str, tf.Tensor]:
        """What `read` and `find` give -> fields, texts as strings."""
        records = self._num_records
        numbers = arrays[records : records + self._num_numbers]
        fields = self.spec.fields(arrays[:records], numbers, arrays[-1])
        if self.spec.hard_negatives:
            given = [fields['text'], arrays[-1][:, 0]]
            swapped_B = tf.numpy_function(self._substitutes.batch, given, tf.string)
            fields[NEGATIVE] = tf.ensure_shape(swapped_B, fields['text'].shape)
        return fields

    def tokenised(self, fields: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        """Strings -> tokens, and the ids of examples and texts in one array."""

        def tokens(text_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            texts = [text.decode(errors='replace') for text in text_B]
            return self._tokenizer(texts, self.spec.max_length), text_ids(texts)

        ids = [fields.pop('id')]
        for name, value in fields.items():
            if value.dtype == tf.string:
                fields[name], text_id_B = tf.numpy_function(tokens, [value], [tf.int32, tf.int32])
                fields[name].set_shape([value.shape[0], self.spec.max_length])
                if name not in (NEGATIVE, *OF_PICTURE):  # These are no texts of an example.
                    ids.append(text_id_B)
        return fields | {'ids': tf.stack(ids, axis=1)}

    def _repaired(self, first: int, size: int, error: Exception) -> dict[str, tf.Tensor]:
        """A batch with each broken example replaced by the next good one of its source.

        Which one that is depends on the position alone. Raises `error` again where no example
        is at fault.
        """
        position_B = first + np.arange(size)
        source_B, draw_B = self._mixture.locate(position_B)
        before, broken = len(self._bad), np.arange(size)
        for tries in range(MAX_TRIES):
            broken = self._broken(source_B, draw_B, position_B, broken)
            # A replacement that is broken too is listed where it stands itself.
            for place in [] if tries else broken.tolist():
                member = self._member(source_B[[place]], draw_B[[place]])
                reason = self._reason(member, position_B[[place]])
                bad = {'position': int(position_B[place]), 'reason': reason}
                self._bad.append(bad | self._pool.place(int(member[0])))
            if not tries:
                self._num_bad += len(self._bad) - before
                self._check_share()
            if not len(broken):
                break
            draw_B[broken] += 1
        else:
            member = self._member(source_B[broken[:1]], draw_B[broken[:1]] - 1)
            reason = self._reason(member, position_B[broken[:1]])
            raise UserError(
                f'{MAX_TRIES} examples in a row are broken, the last one: {reason}, '
                f'{self._pool.place(int(member[0]))}. Ingest this data set again.'
            )
        if len(self._bad) == before:
            raise error
        return self._loaded(source_B, draw_B, position_B)

    def _loaded(
        self, source_B: np.ndarray, draw_B: np.ndarray, position_B: np.ndarray
    ) -> dict[str, tf.Tensor]:
        """The fields of some draws, as in a batch."""
        member_B = self._member(source_B, draw_B)
        arrays = [
            *self.read(member_B, position_B), *self._chosen(source_B, member_B, position_B)
        ]  # fmt: skip
        return self._graph([tf.constant(array) for array in arrays])

    def _broken(
        self, source_B: np.ndarray, draw_B: np.ndarray, position_B: np.ndarray, place_P: np.ndarray
    ) -> np.ndarray:
        """Those places of a batch whose examples cannot be used; found by halving.

        They are read just as in a batch: whether one is broken must not depend on those beside it.
        """
        try:
            self._loaded(source_B[place_P], draw_B[place_P], position_B[place_P])
            return place_P[:0]
        except (tf.errors.OpError, ValueError, OSError, RuntimeError):
            if len(place_P) == 1:
                return place_P
        halves = np.array_split(place_P, 2)
        return np.concatenate([self._broken(source_B, draw_B, position_B, x) for x in halves])

    def _reason(self, member: np.ndarray, position: np.ndarray) -> str:
        """What is wrong with a broken example, as `ingest` would say it where it can."""
        try:
            for serialized in self.read(member, position):
                names = ['id', 'text', *(['image'] if self.spec.has_image else [])]
                parsed = schema.parse(tf.constant(serialized), *names)
                if self.spec.has_image:
                    checks.decode(parsed['image'].numpy()[0])
        except checks.BadRecord as error:
            return str(error)
        except (tf.errors.OpError, ValueError, OSError, RuntimeError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            return f'record cannot be read: {line.split("}} ", 1)[-1][:100]}'
        return 'record cannot be used'

    def _check_share(self) -> None:
        seen = max(self._num_read, GRACE)
        if self._num_bad > self.spec.max_bad * seen:
            listed = '\n  '.join(str(item) for item in self._bad[:20])
            raise UserError(
                f'{self._num_bad} of {self._num_read} examples are broken, more than '
                f'max_bad={self.spec.max_bad}:\n  {listed}\nIngest the data again or raise max_bad.'
            )

    @property
    def _names(self) -> list[str]:
        return [draw.name for draw in self._pool.draws]

    @property
    def _given(self) -> Given:
        tokenizer = self._tokenizer
        marks = tuple(sorted({tokenizer.pad_id, *tokenizer.marks}))
        return Given(marks, tokenizer.vocab_size, self._codebook)

    @property
    def _fingerprint(self) -> str:
        """Names the data that the stream rests on."""
        codebook = f'+{self._codebook.fingerprint}' if self._codebook else ''
        return self._pool.fingerprint + codebook

    @property
    def _num_records(self) -> int:
        return 2 if self.spec.shuffle_pairs or self.spec.has_partner else 1

    @property
    def _num_numbers(self) -> int:
        """Texts that are chosen for an example."""
        texts = self.spec.num_texts + self.spec.has_partner
        return texts + bool(self.spec.tags) * (1 + self.spec.has_partner)

    @property
    def _num_joined(self) -> int:
        """Texts that one text of an example is joined of, at most."""
        return int(self.spec.text.most(self._pool.kinds).max())
