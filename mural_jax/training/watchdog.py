"""Notices that training stands still, and says which host waits for what."""

import contextlib
import faulthandler
import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax

from mural_jax.distributed import processes
from mural_jax.types import UserError

PERIOD = 5.0  # seconds between two publications, at most; ours
FOLDER = 'mural/beats'
PHASES = {
    'start': ('starts', 'start'),
    'data': ('waits for data at step {}', 'wait for data at step {}'),
    'compile': ('compiles step {}', 'compile step {}'),
    'step': ('waits in step {}', 'wait in step {}'),
    'evaluate': ('scores after step {}', 'score after step {}'),
    'save': ('saves after step {}', 'save after step {}'),
}


class Beat(NamedTuple):
    """Where a host was when it was last heard of. `at` is its own monotonic clock, in seconds."""

    step: int
    phase: str
    at: float


class Exchange(NamedTuple):
    """How hosts hear of each other: `publish(host, text)` replaces what a host said before."""

    publish: Callable[[int, str], None]
    read_all: Callable[[], Mapping[int, str]]


class Watchdog:
    """Says, once a stall, that nothing happened for `seconds`, and where all threads are.

    It stops nothing, as training may go on; then it says so. 0 seconds turn it off.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        exchange: Exchange | None = None,
        say: Callable[[str], None] | None = None,
    ):
        """Stacks go to folder/stall-HOST-STEP.txt and stderr; so does what is said, without `say`.

        Without an `exchange` the hosts of a jax.distributed run use its coordination service.
        Raises UserError where `seconds` are negative.
        """
        if seconds < 0:
            raise UserError(f'A stall of {seconds} seconds cannot be; give more, or 0 for never.')
        self._folder, self._seconds = folder, seconds
        self._host = jax.process_index()
        self._exchange = exchange or coordination_service()
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._period = min(PERIOD, seconds / 10)
        self._last = Beat(0, 'start', time.monotonic())
        self._heard: dict[int, dict[str, Any]] = {}
        self._trouble = ''
        self._done = threading.Event()
        # Two, because asking a coordinator that hangs would hang the watching too.
        self._threads = [
            threading.Thread(target=target, daemon=True, name=f'watchdog {target.__name__}')
            for target in (self._watch, self._share)
        ]

    def beat(self, step: int, phase: str) -> None:
        """Takes note that `step` has come to `phase`, a word of DOING."""
        assert phase in PHASES, phase
        self._last = Beat(step, phase, time.monotonic())

    def __enter__(self) -> 'Watchdog':
        self.beat(self._last.step, self._last.phase)
        for thread in self._threads if self._seconds else ():
            thread.start()
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        for thread in self._threads if self._seconds else ():
            thread.join(timeout=1)

    def _watch(self) -> None:
        stalled: Beat | None = None
        while not self._done.wait(self._period):
            last = self._last
            if stalled and last is not stalled:
                self._say(f'going on after {last.at - stalled.at:.0f} s, with step {last.step}')
                stalled = None
            if stalled is None and time.monotonic() - last.at > self._seconds:
                stalled = last
                self._report(last)

    def _report(self, last: Beat) -> None:
        """The stacks, and what is known of all hosts."""
        path = self._folder / f'stall-{self._host}-{last.step}.txt'
        waited = time.monotonic() - last.at
        text = f'no progress for {waited:.0f} s: {describe_stall(self._beats(last))}{self._trouble}'
        try:
            with path.open('w', encoding='utf-8') as file:
                file.write(text + '\n\n')
                file.flush()
                faulthandler.dump_traceback(file)
            print(path.read_text(encoding='utf-8'), file=sys.stderr, flush=True)
            text += f'; stacks are in {path}'
        except OSError as error:  # a full disk may be why nothing goes on
            text += f'; stacks could not be written to {path} ({error.strerror})'
            with contextlib.suppress(OSError, ValueError):
                faulthandler.dump_traceback(2)
        self._say(text)

    def _beats(self, last: Beat) -> list[dict[str, Any]]:
        """What is known of every host: 'host', 'name', 'step', 'phase', 'silent' seconds."""
        now = time.monotonic()
        mine = self._mine(last) | {'silent': 0.0}
        known = {host: said | {'silent': now - said['heard']} for host, said in self._heard.items()}
        known[self._host] = mine
        for said in known.values():
            # Many times the period of publishing, and half the time that hosts are heard.
            if said['silent'] < self._seconds / 4:
                said['silent'] = 0.0
        return [known[host] for host in sorted(known)]

    def _mine(self, last: Beat) -> dict[str, Any]:
        name = socket.gethostname()
        return {'host': self._host, 'name': name, 'step': last.step, 'phase': last.phase}

    def _share(self) -> None:
        """Publishes where this host is; hears the others once it has waited half the time."""
        if self._exchange is None:
            return
        count = 0
        while not self._done.wait(self._period):
            count += 1
            last = self._last
            try:
                self._exchange.publish(
                    self._host, json.dumps(self._mine(last) | {'count': count, 'pid': os.getpid()})
                )
                if time.monotonic() - last.at > self._seconds / 2:
                    self._hear(self._exchange.read_all())
                self._trouble = ''
            except Exception as error:  # what the caller's exchange raises is not known here
                self._trouble = f'; other hosts cannot be asked ({str(error).splitlines()[:1]})'

    def _hear(self, texts: Mapping[int, str]) -> None:
        """A host is silent since its count last changed: clocks of hosts are never compared."""
        now = time.monotonic()
        heard = {}
        for host, text in texts.items():
            said, before = json.loads(text), self._heard.get(host)
            same = before is not None and before['count'] == said['count']
            heard[host] = said | {'heard': before['heard'] if before and same else now}
        self._heard = heard


def describe_stall(beats: Sequence[Mapping[str, Any]]) -> str:
    """Words for who waits for what: those who hold up the others first.

    A host is behind that is silent, at an earlier step than others, or still waits for data of a
    step that others are in.
    """
    newest = max(beat['step'] for beat in beats)
    inside = any(beat['step'] == newest and beat['phase'] == 'step' for beat in beats)

    def behind(beat: Mapping[str, Any]) -> bool:
        slow = beat['step'] < newest or (inside and beat['phase'] != 'step')
        return bool(beat['silent'] or slow)

    late = [beat for beat in beats if behind(beat)]
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for beat in (beat for beat in beats if not behind(beat)):
        groups.setdefault((beat['phase'], beat['step']), []).append(beat)
    words = [_one(beat) for beat in late]
    for (phase, step), group in groups.items():
        if len(group) == 1:
            words.append(_one(group[0]))
        else:
            numbers = ', '.join(str(beat['host']) for beat in group)
            words.append(f'hosts {numbers} {PHASES[phase][1].format(step)}')
        if late and phase == 'step':
            words[-1] += ' for the others'
    return '; '.join(words)


def _one(beat: Mapping[str, Any]) -> str:
    text = f'host {beat["host"]} ({beat["name"]}) '
    if beat['silent']:
        text += f'is silent for {beat["silent"]:.0f} s, its process is gone or frozen; it '
    return text + PHASES[beat['phase']][0].format(beat['step'])


def coordination_service() -> Exchange | None:
    """The store that all processes of a run share; None for one alone."""
    if processes.count() == 1:
        return None
    return Exchange(
        publish=lambda host, text: processes.publish(f'{FOLDER}/{host}', text),
        read_all=lambda: {int(host): text for host, text in processes.read_all(FOLDER).items()},
    )
