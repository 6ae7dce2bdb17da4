"""The batches of all streams of a run, where each stream stands, and what it gave so far."""

import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from mural_jax.types import Batch


class Stream(Protocol):
    """What training asks of a stream; `data.streams.OpenStream` is one."""

    batch_size: int
    labels: tuple[str, ...]

    @property
    def mixture(self) -> dict[str, Any]: ...

    def batches(self, position: int, count: int, host: int, num_hosts: int) -> Iterator[Batch]: ...

    def follow(self, mixture: Mapping[str, Any], position: int) -> str: ...

    def take_bad(self) -> list[dict[str, Any]]: ...


class Feed:
    """Reads the streams side by side, one batch of each for a step.

    All that it has to remember is in `progress`: for each stream its next position, how its
    sources are mixed, and the examples it gave of each source and language.
    """

    def __init__(
        self, streams: Mapping[str, Stream], progress: Mapping[str, Any] | None = None,
        quarantine: Path | None = None,
    ):  # fmt: skip
        """`progress` is what another feed had; None starts at the beginning.

        Broken examples are listed in the file `quarantine`. `changes` says which mixtures are
        others than in `progress`.
        """
        self.streams, self.changes = streams, list[str]()
        none = {name: [0] * len(stream.labels) for name, stream in streams.items()}
        start: dict[str, Any] = {'positions': dict.fromkeys(streams, 0), 'counts': none,
                 'bad': dict.fromkeys(streams, 0)}  # fmt: skip
        progress = progress or start
        self._positions = {name: int(progress['positions'][name]) for name in streams}
        self._counts = {name: np.array(progress['counts'][name], np.int64) for name in streams}
        self._bad = {name: int(progress['bad'][name]) for name in streams}
        for name, mixture in progress.get('mixtures', {}).items():
            change = streams[name].follow(mixture, self._positions[name])
            self.changes += [f'{name}: {change}'] if change else []
        self._recent = {name: np.zeros_like(count) for name, count in self._counts.items()}
        self._recent_bad = dict.fromkeys(streams, 0)
        self._quarantine = quarantine
        self._listed = _lines(quarantine)
        self.seconds_waited = 0.0
        self.began = dict(self._positions)  # where the batches that came last began

    def batches(self, num_steps: int) -> Iterator[dict[str, Batch]]:
        """This host's slices of the next batches of each stream, `num_steps` times."""
        host = jax.process_index(), jax.process_count()
        readers = {
            name: stream.batches(self._positions[name], num_steps, *host)
            for name, stream in self.streams.items()
        }
        for _ in range(num_steps):
            asked = time.perf_counter()
            try:
                batches = {name: next(reader) for name, reader in readers.items()}
            finally:
                self._list_bad()
            self.seconds_waited += time.perf_counter() - asked
            self.began = dict(self._positions)
            for name, batch in batches.items():
                recent = self._recent[name]
                recent += np.bincount(batch['origin'], minlength=len(recent))
                self._positions[name] += self.streams[name].batch_size
            yield batches

    @property
    def pairs_per_step(self) -> int:
        """Examples of all streams and hosts in one step."""
        return sum(stream.batch_size for stream in self.streams.values())

    def examples(self) -> dict[str, int]:
        """`examples/STREAM/SOURCE/LANGUAGE`: examples so far, of all hosts, and `bad/STREAM`.

        Every host has to ask.
        """
        values = {}
        for name, recent in self._recent.items():
            seen = np.append(recent, self._recent_bad[name])
            if jax.process_count() > 1:
                seen = multihost_utils.process_allgather(seen).sum(0)
            self._counts[name] += seen[:-1]
            self._bad[name] += int(seen[-1])
            recent[:] = self._recent_bad[name] = 0
            for label, total in zip(self.streams[name].labels, self._counts[name]):
                values[f'examples/{name}/{label}'] = int(total)
            values[f'bad/{name}'] = self._bad[name]
        return values

    @property
    def progress(self) -> dict[str, Any]:
        """For a checkpoint; counts are those of the last time `examples` was asked for."""
        return {
            'positions': dict(self._positions),
            'counts': {name: count.tolist() for name, count in self._counts.items()},
            'bad': dict(self._bad),
            'mixtures': {name: stream.mixture for name, stream in self.streams.items()},
        }

    def _list_bad(self) -> None:
        """Lists what the streams found broken, each once, also after a resume."""
        for name, stream in self.streams.items():
            for item in stream.take_bad():
                self._recent_bad[name] += 1
                line = json.dumps({'stream': name, **item}, ensure_ascii=False)
                if self._quarantine and line not in self._listed:
                    self._listed.add(line)
                    with self._quarantine.open('a', encoding='utf-8') as file:
                        file.write(line + '\n')


def _lines(path: Path | None) -> set[str]:
    if path is None or not path.exists():
        return set()
    return set(path.read_text(encoding='utf-8').splitlines())
