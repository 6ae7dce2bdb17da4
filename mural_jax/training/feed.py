"""The batches of all streams of a run, and the position and counts of each stream."""

import json
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from mural_jax.distributed.mesh import find_rows, is_first_holder
from mural_jax.types import Batch


class BatchStream(Protocol):
    """What training needs from a stream; `data.reading.stream.OpenStream` is one.

    labels: names of the kinds of examples; a batch's `origin` indexes them.
    """

    batch_size: int
    labels: tuple[str, ...]

    @property
    def mixture(self) -> dict[str, Any]: ...

    def batches(
        self, position: int, count: int, rows: np.ndarray | None = None
    ) -> Iterator[Batch]: ...

    def follow(self, mixture: Mapping[str, Any], position: int) -> str: ...

    def take_bad(self) -> list[dict[str, Any]]: ...


class Feed:
    """Reads the streams side by side: one batch of each per step.

    `progress` is all that a resume needs: for each stream its next position, how its sources are
    mixed, and how many examples of each source and language it has given.
    """

    def __init__(
        self,
        streams: Mapping[str, BatchStream],
        progress: Mapping[str, Any] | None = None,
        quarantine: Path | None = None,
        mesh: Mesh | None = None,
    ):
        """Args:
        streams: the streams by name.
        progress: the `progress` of another feed to continue from; None starts at the beginning.
        quarantine: the file that lists broken examples.
        mesh: the devices that the batches go to; None if all of them are this process's.

        `changes` then has one line for each stream whose mixture differs from `progress`.
        """
        self.streams, self.changes, self._mesh = streams, list[str](), mesh
        progress = progress or {
            'positions': dict.fromkeys(streams, 0),
            'counts': {name: [0] * len(stream.labels) for name, stream in streams.items()},
            'bad': dict.fromkeys(streams, 0),
        }
        self._positions = {name: int(progress['positions'][name]) for name in streams}
        self._counts = {name: np.array(progress['counts'][name], np.int64) for name in streams}
        self._bad = {name: int(progress['bad'][name]) for name in streams}
        for name, mixture in progress.get('mixtures', {}).items():
            change = streams[name].follow(mixture, self._positions[name])
            self.changes += [f'{name}: {change}'] if change else []
        # Counts of this process since the last `count_examples`, which adds up all processes.
        self._recent = {name: np.zeros_like(count) for name, count in self._counts.items()}
        self._recent_bad = dict.fromkeys(streams, 0)
        self._quarantine = quarantine
        self._listed = _read_lines(quarantine)
        self.seconds_waited = 0.0
        self.pairs_per_step = 0  # examples of all streams and processes in the newest step
        self.batch_starts = dict(self._positions)  # positions where the newest batches begin

    def batches(
        self, num_steps: int, names: Collection[str] | None = None
    ) -> Iterator[dict[str, Batch]]:
        """Yields `num_steps` times this process's rows of the next batch of each stream.

        Reads only the streams in `names`, all for None. The others keep their position.
        """
        active = {
            name: stream for name, stream in self.streams.items() if names is None or name in names
        }
        self.pairs_per_step = sum(stream.batch_size for stream in active.values())
        readers = {
            name: stream.batches(self._positions[name], num_steps, self._find_rows(stream))
            for name, stream in active.items()
        }
        for _ in range(num_steps):
            asked = time.perf_counter()
            try:
                batches = {name: next(reader) for name, reader in readers.items()}
            finally:
                # Also after an error: the list of broken examples then says why.
                self._record_broken()
            self.seconds_waited += time.perf_counter() - asked
            self.batch_starts = dict(self._positions)
            for name, batch in batches.items():
                recent = self._recent[name]
                origin_B = batch['origin'][self._is_counted(active[name])]
                recent += np.bincount(origin_B, minlength=len(recent))
                # Only when the batch is handed over: a stream may have read far ahead.
                self._positions[name] += active[name].batch_size
            yield batches

    def count_examples(self) -> dict[str, int]:
        """Counts so far, over all processes: `examples/STREAM/SOURCE/LANGUAGE`, `bad/STREAM`.

        Every process must call this at the same step.
        """
        values = {}
        for name, recent in self._recent.items():
            added = np.append(recent, self._recent_bad[name])
            if jax.process_count() > 1:
                added = multihost_utils.process_allgather(added).sum(0)
            self._counts[name] += added[:-1]
            self._bad[name] += int(added[-1])
            recent[:] = self._recent_bad[name] = 0
            for label, total in zip(self.streams[name].labels, self._counts[name]):
                values[f'examples/{name}/{label}'] = int(total)
            values[f'bad/{name}'] = self._bad[name]
        return values

    @property
    def progress(self) -> dict[str, Any]:
        """The JSON for a checkpoint; its counts are those of the last `count_examples`."""
        return {
            'positions': dict(self._positions),
            'counts': {name: count.tolist() for name, count in self._counts.items()},
            'bad': dict(self._bad),
            'mixtures': {name: stream.mixture for name, stream in self.streams.items()},
        }

    def _find_rows(self, stream: BatchStream) -> np.ndarray:
        """The rows of each batch of a stream that this process reads."""
        if self._mesh is None:
            return np.arange(stream.batch_size)
        return find_rows(self._mesh, stream.batch_size)

    def _is_counted(self, stream: BatchStream) -> np.ndarray:
        """Whether this process counts each of the rows that it reads, bool [rows]."""
        if self._mesh is None:
            return np.ones(stream.batch_size, bool)
        return is_first_holder(self._mesh, stream.batch_size)

    def _record_broken(self) -> None:
        """Counts newly found broken examples and lists each in the quarantine file.

        A resumed run meets some of them again; the file lists each only once.
        """
        for name, stream in self.streams.items():
            counted = self._find_rows(stream)[self._is_counted(stream)]
            for item in stream.take_bad():
                # Another process reads it, too, and lists it.
                if (item['position'] - self._positions[name]) % stream.batch_size not in counted:
                    continue
                self._recent_bad[name] += 1
                line = json.dumps({'stream': name, **item}, ensure_ascii=False)
                if self._quarantine and line not in self._listed:
                    self._listed.add(line)
                    with self._quarantine.open('a', encoding='utf-8') as file:
                        file.write(line + '\n')


def _read_lines(path: Path | None) -> set[str]:
    if path is None or not path.exists():
        return set()
    return set(path.read_text(encoding='utf-8').splitlines())
