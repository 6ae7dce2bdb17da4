"""Notices that training stands still, and says which process waits for what."""

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

PERIOD = 5.0  # largest time between two publications, in seconds (ours)
FOLDER = 'mural/beats'  # keys in the coordination service
# By phase: words for one process and for several.
PHASES = {
    'start': ('starts', 'start'),
    'data': ('waits for data at step {}', 'wait for data at step {}'),
    'compile': ('compiles step {}', 'compile step {}'),
    'step': ('waits in step {}', 'wait in step {}'),
    'evaluate': ('scores after step {}', 'score after step {}'),
    'save': ('saves after step {}', 'save after step {}'),
}


class Beat(NamedTuple):
    """The newest sign of progress of a process. `at` is its own monotonic clock, in seconds."""

    step: int
    phase: str
    at: float


class Exchange(NamedTuple):
    """How processes tell each other where they are.

    publish: stores a text for a process number, in place of an older one.
    read_all: returns the texts of all processes by number.
    """

    publish: Callable[[int, str], None]
    read_all: Callable[[], Mapping[int, str]]


class Watchdog:
    """Reports a stall once: the phase of every process, and the stacks of all threads.

    It never stops training, which may still go on; then it reports that too.
    """

    def __init__(
        self,
        folder: Path,
        seconds: float,
        exchange: Exchange | None = None,
        say: Callable[[str], None] | None = None,
    ):
        """Args:
        folder: where stacks go, as stall-PROCESS-STEP.txt; they also go to stderr.
        seconds: time without progress that counts as a stall; 0 turns the watchdog off.
        exchange: how to reach the other processes; None for jax's coordination service.
        say: gets the reports; None prints them to stderr.

        Raises UserError if `seconds` is negative.
        """
        if seconds < 0:
            raise UserError(f'A stall of {seconds} seconds cannot be; give more, or 0 for never.')
        self._folder, self._seconds = folder, seconds
        self._process = jax.process_index()
        self._exchange = exchange or connect_coordination_service()
        self._say = say or (lambda text: print(text, file=sys.stderr, flush=True))
        self._period = min(PERIOD, seconds / 10)
        self._last = Beat(0, 'start', time.monotonic())
        self._heard: dict[int, dict[str, Any]] = {}
        self._trouble = ''
        self._done = threading.Event()
        # Two threads, because a question to a coordinator that hangs would hang the watching too.
        self._threads = [
            threading.Thread(target=target, daemon=True, name=f'watchdog {target.__name__}')
            for target in (self._watch, self._share)
        ]

    def beat(self, step: int, phase: str) -> None:
        """Records progress: `step` has come to `phase`, a key of PHASES."""
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
                self._report_stall(last)

    def _report_stall(self, last: Beat) -> None:
        """Writes the stacks, and says what is known of all processes."""
        path = self._folder / f'stall-{self._process}-{last.step}.txt'
        waited = time.monotonic() - last.at
        beats = self._list_beats(last)
        text = f'no progress for {waited:.0f} s: {describe_stall(beats)}{self._trouble}'
        try:
            with path.open('w', encoding='utf-8') as file:
                file.write(text + '\n\n')
                file.flush()
                faulthandler.dump_traceback(file)
            print(path.read_text(encoding='utf-8'), file=sys.stderr, flush=True)
            text += f'; stacks are in {path}'
        except OSError as error:
            # A full disk may be the very reason of the stall.
            text += f'; stacks could not be written to {path} ({error.strerror})'
            with contextlib.suppress(OSError, ValueError):
                faulthandler.dump_traceback(2)
        self._say(text)

    def _list_beats(self, last: Beat) -> list[dict[str, Any]]:
        """What is known of every process: 'process', 'host', 'step', 'phase', 'silent' seconds."""
        now = time.monotonic()
        known = {
            number: beat | {'silent': now - beat['heard']} for number, beat in self._heard.items()
        }
        known[self._process] = self._describe_self(last) | {'silent': 0.0}
        for beat in known.values():
            # Half of the time that this process has listened, and many periods of publishing: a
            # shorter silence means nothing.
            if beat['silent'] < self._seconds / 4:
                beat['silent'] = 0.0
        return [known[number] for number in sorted(known)]

    def _describe_self(self, last: Beat) -> dict[str, Any]:
        return {
            'process': self._process,
            'host': socket.gethostname(),
            'step': last.step,
            'phase': last.phase,
        }

    def _share(self) -> None:
        """Publishes where this process is, and reads the others after half the time of a stall."""
        if self._exchange is None:
            return
        count = 0
        while not self._done.wait(self._period):
            count += 1
            last = self._last
            beat = self._describe_self(last) | {'count': count, 'pid': os.getpid()}
            try:
                self._exchange.publish(self._process, json.dumps(beat))
                if time.monotonic() - last.at > self._seconds / 2:
                    self._record_beats(self._exchange.read_all())
                self._trouble = ''
            except Exception as error:  # An exchange of the caller may raise anything.
                line = str(error).splitlines()[:1]
                self._trouble = f'; other processes cannot be asked ({line})'

    def _record_beats(self, texts: Mapping[int, str]) -> None:
        """Records the beats of all processes, and when each last changed its count.

        Times are those of this process: clocks of two hosts cannot be compared.
        """
        now = time.monotonic()
        heard = {}
        for number, text in texts.items():
            beat, before = json.loads(text), self._heard.get(number)
            same = before is not None and before['count'] == beat['count']
            heard[number] = beat | {'heard': before['heard'] if before and same else now}
        self._heard = heard


def describe_stall(beats: Sequence[Mapping[str, Any]]) -> str:
    """Words for which process waits for what; the processes that hold up the others come first.

    A process holds up the others if it is silent, if it is at an earlier step, or if it has not
    entered a step that others wait in.
    """
    newest = max(beat['step'] for beat in beats)
    entered = any(beat['step'] == newest and beat['phase'] == 'step' for beat in beats)

    def is_late(beat: Mapping[str, Any]) -> bool:
        slow = beat['step'] < newest or (entered and beat['phase'] != 'step')
        return bool(beat['silent'] or slow)

    late = [beat for beat in beats if is_late(beat)]
    groups: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for beat in (beat for beat in beats if not is_late(beat)):
        groups.setdefault((beat['phase'], beat['step']), []).append(beat)
    words = [_describe_process(beat) for beat in late]
    for (phase, step), group in groups.items():
        if len(group) == 1:
            words.append(_describe_process(group[0]))
        else:
            numbers = ', '.join(str(beat['process']) for beat in group)
            words.append(f'processes {numbers} {PHASES[phase][1].format(step)}')
        if late and phase == 'step':
            words[-1] += ' for the others'
    return '; '.join(words)


def _describe_process(beat: Mapping[str, Any]) -> str:
    text = f'process {beat["process"]} ({beat["host"]}) '
    if beat['silent']:
        text += f'is silent for {beat["silent"]:.0f} s, it is gone or frozen; it '
    return text + PHASES[beat['phase']][0].format(beat['step'])


def connect_coordination_service() -> Exchange | None:
    """An exchange through the store that all processes of a run share; None for a single one."""
    if processes.count() == 1:
        return None
    return Exchange(
        publish=lambda number, text: processes.publish(f'{FOLDER}/{number}', text),
        read_all=lambda: {int(number): text for number, text in processes.read_all(FOLDER).items()},
    )
