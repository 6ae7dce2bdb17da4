"""Replaces examples that turn out broken while a stream is read, and lists them."""

from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from mural_jax.data.reading.pool import Pool
from mural_jax.data.sets import checks
from mural_jax.data.sets.schema import parse_examples
from mural_jax.data.streams.base import Stream
from mural_jax.types import UserError

MAX_TRIES = 100  # broken examples in a row after which something else must be wrong
GRACE = 1000  # examples below which the share of broken ones says nothing yet
SHOWN = 20  # broken examples that a message lists
# What reading or decoding a broken example raises.
ERRORS = (tf.errors.OpError, ValueError, OSError, RuntimeError)


class DrawLoader(Protocol):
    """What repairing asks of an open stream."""

    @property
    def pool(self) -> Pool: ...

    def find_members(self, source_B: np.ndarray, draw_B: np.ndarray) -> np.ndarray: ...

    def read_records(self, member_B: np.ndarray, position_B: np.ndarray) -> list[np.ndarray]: ...

    def load_draws(
        self, source_B: np.ndarray, draw_B: np.ndarray, position_B: np.ndarray
    ) -> dict[str, tf.Tensor]: ...


class Repairer:
    """Replaces broken examples of one stream, and counts and lists them."""

    def __init__(self, stream: Stream, reader: DrawLoader):
        self._stream, self._reader = stream, reader
        self._listed: list[dict[str, Any]] = []
        self._num_bad, self._num_read = 0, 0

    def count_read(self, size: int) -> None:
        """Counts examples that were read, broken or not."""
        self._num_read += size

    def take_listed(self) -> list[dict[str, Any]]:
        """What was broken since the last call: {position, dataset, shard, index, reason} each."""
        listed, self._listed = self._listed, []
        return listed

    def repair(
        self, source_B: np.ndarray, draw_B: np.ndarray, position_B: np.ndarray, error: Exception
    ) -> dict[str, tf.Tensor]:
        """The fields of a batch, each broken example replaced by the next good one of its source.

        A replacement depends on its position alone. Raises `error` again where no example is
        broken, and UserError where too many are.
        """
        draw_B = draw_B.copy()
        before, broken_P = len(self._listed), np.arange(len(position_B))
        for tries in range(MAX_TRIES):
            broken_P = self._find_broken(source_B, draw_B, position_B, broken_P)
            if not tries:
                # A replacement that is broken too is listed at its own position.
                for place in broken_P.tolist():
                    self._list(source_B[[place]], draw_B[[place]], position_B[[place]])
                self._num_bad += len(self._listed) - before
                self._check_share()
            if not len(broken_P):
                break
            # The next draw of the same source: shares and languages stay as they are.
            draw_B[broken_P] += 1
        else:
            first = broken_P[:1]
            member = self._reader.find_members(source_B[first], draw_B[first] - 1)
            reason = self._find_reason(member, position_B[first])
            raise UserError(
                f'{MAX_TRIES} examples in a row are broken, the last one: {reason}, '
                f'{self._reader.pool.locate(int(member[0]))}. Ingest this data set again.'
            )
        # No example is at fault, so another one in its place would hide a real error.
        if len(self._listed) == before:
            raise error
        return self._reader.load_draws(source_B, draw_B, position_B)

    def _find_broken(
        self, source_B: np.ndarray, draw_B: np.ndarray, position_B: np.ndarray, place_P: np.ndarray
    ) -> np.ndarray:
        """Those places of a batch whose examples cannot be used; found by halving.

        They are read just as in a batch: whether an example is broken must not depend on the
        examples beside it.
        """
        try:
            self._reader.load_draws(source_B[place_P], draw_B[place_P], position_B[place_P])
            return place_P[:0]
        except ERRORS:
            if len(place_P) == 1:
                return place_P
        halves = np.array_split(place_P, 2)
        return np.concatenate(
            [self._find_broken(source_B, draw_B, position_B, half_P) for half_P in halves]
        )

    def _list(self, source_1: np.ndarray, draw_1: np.ndarray, position_1: np.ndarray) -> None:
        """Lists one broken example."""
        member_1 = self._reader.find_members(source_1, draw_1)
        reason = self._find_reason(member_1, position_1)
        entry = {'position': int(position_1[0]), 'reason': reason}
        self._listed.append(entry | self._reader.pool.locate(int(member_1[0])))

    def _find_reason(self, member_1: np.ndarray, position_1: np.ndarray) -> str:
        """What is wrong with a broken example, in the words of `ingest` where it has some."""
        has_image = self._stream.images is not None
        try:
            for serialized_1 in self._reader.read_records(member_1, position_1):
                names = ['id', 'text', *(['image'] if has_image else [])]
                parsed = parse_examples(tf.constant(serialized_1), *names)
                if has_image:
                    checks.decode_image(parsed['image'].numpy()[0])
        except checks.BadRecord as error:
            return str(error)
        except ERRORS as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            # TensorFlow puts the name of the operation in front, {{node ...}}.
            return f'record cannot be read: {line.split("}} ", 1)[-1][:100]}'
        return 'record cannot be used'

    def _check_share(self) -> None:
        """Raises UserError where more examples are broken than the stream allows."""
        if self._num_bad <= self._stream.max_bad * max(self._num_read, GRACE):
            return
        listed = '\n  '.join(str(entry) for entry in self._listed[:SHOWN])
        raise UserError(
            f'{self._num_bad} of {self._num_read} examples are broken, more than '
            f'max_bad={self._stream.max_bad}:\n  {listed}\nIngest the data again or raise max_bad.'
        )
