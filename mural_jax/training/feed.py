"""The batches of all streams of a run, where each stream stands, and what it gave so far."""

import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from mural_jax.types import Batch


class Stream(Protocol):
    """What training asks of a stream; `data.streams.OpenStream` is one."""

    batch_size: int
    languages: tuple[str, ...]

    def batches(self, position: int, count: int, host: int, num_hosts: int) -> Iterator[Batch]: ...


class Feed:
    """Reads the streams side by side, one batch of each for a step.

    All that it has to remember is in `progress`: for each stream its next position and the
    examples it gave of each language.
    """

    def __init__(self, streams: Mapping[str, Stream], progress: Mapping[str, Any] | None = None):
        """`progress` is what another feed had; None starts at the beginning."""
        self.streams = streams
        none = {name: [0] * len(stream.languages) for name, stream in streams.items()}
        progress = progress or {'positions': dict.fromkeys(streams, 0), 'counts': none}
        self._positions = {name: int(progress['positions'][name]) for name in streams}
        self._counts = {name: np.array(progress['counts'][name], np.int64) for name in streams}
        self._recent = {name: np.zeros_like(count) for name, count in self._counts.items()}
        self.seconds_waited = 0.0

    def batches(self, num_steps: int) -> Iterator[dict[str, Batch]]:
        """This host's slices of the next batches of each stream, `num_steps` times."""
        host = jax.process_index(), jax.process_count()
        readers = {
            name: stream.batches(self._positions[name], num_steps, *host)
            for name, stream in self.streams.items()
        }
        for _ in range(num_steps):
            asked = time.perf_counter()
            batches = {name: next(reader) for name, reader in readers.items()}
            self.seconds_waited += time.perf_counter() - asked
            for name, batch in batches.items():
                recent = self._recent[name]
                recent += np.bincount(batch['language'], minlength=len(recent))
                self._positions[name] += self.streams[name].batch_size
            yield batches

    @property
    def pairs_per_step(self) -> int:
        """Examples of all streams and hosts in one step."""
        return sum(stream.batch_size for stream in self.streams.values())

    def examples(self) -> dict[str, int]:
        """`examples/STREAM/LANGUAGE`: examples so far, of all hosts. Every host has to ask."""
        values = {}
        for name, recent in self._recent.items():
            seen = recent.copy()
            if jax.process_count() > 1:
                seen = multihost_utils.process_allgather(seen).sum(0)
            self._counts[name] += seen
            recent[:] = 0
            for language, total in zip(self.streams[name].languages, self._counts[name]):
                values[f'examples/{name}/{language}'] = int(total)
        return values

    @property
    def progress(self) -> dict[str, Any]:
        """For a checkpoint; counts are those of the last time `examples` was asked for."""
        counts = {name: count.tolist() for name, count in self._counts.items()}
        return {'positions': dict(self._positions), 'counts': counts}
