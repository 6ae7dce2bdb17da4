"""The training loop: streams in, checkpoints and metrics out."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from mural_jax.distributed import processes
from mural_jax.tasks.contrast import Contrast
from mural_jax.training.feed import Feed, Stream
from mural_jax.training.safety import RollBack, Skipped
from mural_jax.training.step import State
from mural_jax.training.trainer import Trainer
from mural_jax.training.watchdog import Watchdog
from mural_jax.types import Restart, UserError
from mural_jax.workdir.checkpoints import Best, Checkpoints
from mural_jax.workdir.metrics import Metrics


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a run is and how often it reports and saves, in steps.

    checkpoint_minutes: also saves at the first line of metrics after so many minutes without;
    0 never does. A signal to stop saves too. keep: so many of the newest checkpoints stay. best:
    and those with the best values of a metric of `metrics.jsonl`.
    """

    num_steps: int
    log_every: int
    checkpoint_every: int
    checkpoint_minutes: float = 0.0
    keep: int = 2
    best: Best = Best()

    def __post_init__(self) -> None:
        if min(self.num_steps, self.log_every, self.checkpoint_every, self.keep) < 1:
            raise UserError('config.schedule: its numbers of steps and keep must be at least 1.')
        if self.checkpoint_minutes < 0:
            raise UserError('config.schedule.checkpoint_minutes must not be negative; 0 is never.')

    def logs(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.num_steps

    def saves(self, step: int) -> bool:
        return step % self.checkpoint_every == 0 or step == self.num_steps


class Validation(Protocol):
    """Scores a state between two steps: metrics by name, on all hosts alike."""

    def due(self, step: int) -> list[str]: ...

    def __call__(self, step: int, state: State) -> dict[str, float]: ...


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a run lives: its folder, and the hash of its vocabulary, which checkpoints carry.

    check: gets the hash of the checkpoint that is resumed from and raises where it does not fit.
    validation: what is scored on the way.
    """

    workdir: Path
    vocabulary: str
    check: Callable[[str], None]
    validation: Validation | None = None

    @property
    def lists(self) -> tuple[Path | None, Path]:
        """(the list of skipped steps, on one host; the list of broken examples, on each)."""
        number = jax.process_index()
        skipped = self.workdir / 'skipped.jsonl' if number == 0 else None
        return skipped, self.workdir / f'quarantine-{number}.jsonl'


def train(
    trainer: Trainer, schedule: Schedule, state: State, streams: Mapping[str, Stream], place: Place
) -> State:
    """Trains to the last step, from the newest checkpoint in the workdir if there is one.

    Raises Restart where a signal stopped it, UserError where it cannot go on.
    """
    trainer.check_batches({name: stream.batch_size for name, stream in streams.items()})
    safety, best = trainer.fixed.safety, schedule.best if schedule.best.metric else None
    with (
        contextlib.closing(Checkpoints(place.workdir, schedule.keep, best)) as checkpoints,
        processes.Preemption() as preemption,
        Watchdog(place.workdir, 60 * safety.stall_minutes) as watchdog,
    ):
        passage = Passage(trainer, schedule, streams, place, checkpoints, preemption, watchdog)
        ahead: dict[str, int] = {}
        for rollbacks in range(safety.max_rollbacks + 1):
            try:
                return passage.run(state, ahead)
            except RollBack as reason:
                left = safety.max_rollbacks - rollbacks
                if not left or not checkpoints.steps:
                    raise UserError(
                        f'The run cannot go on: {reason}, as the gradients were not finite or '
                        'spikes, '
                        + ('it has gone back as often as config.safety.max_rollbacks allows.'
                           if not left else 'and there is no checkpoint to go back to.')
                        + ' Lower config.optimizer.learning_rate or raise warmup_steps, in a new '
                        'workdir; skipped.jsonl says which data it met.'
                    ) from reason  # fmt: skip
                ahead = passage.feed.progress['positions']
                passage.say(f'{reason}: going back to a checkpoint, on with the data after them')
    raise AssertionError('not reached')


class Passage:
    """From a checkpoint to the end, or to where the run has to go back."""

    def __init__(
        self, trainer: Trainer, schedule: Schedule, streams: Mapping[str, Stream], place: Place,
        checkpoints: Checkpoints, preemption: processes.Preemption, watchdog: Watchdog,
    ):  # fmt: skip
        self.trainer, self.schedule, self.streams = trainer, schedule, streams
        self.place, self.checkpoints = place, checkpoints
        self.preemption, self.watchdog = preemption, watchdog

    def run(self, state: State, ahead: Mapping[str, int]) -> State:
        """Trains from the newest checkpoint, or from `state`; streams begin no earlier than
        `ahead`."""
        self._said: list[str] = []
        resumed = self.checkpoints.resume(
            lambda about: self.place.check(about['vocabulary']), self._said.append, **state.trees()
        )
        first, about, trees = resumed or (0, {}, state.trees())
        state = State.of(trees)
        if ahead:
            kept = about['positions']
            about['positions'] = {name: max(kept[name], at) for name, at in ahead.items()}
        skipped, broken = self.place.lists
        self.feed = Feed(self.streams, about if resumed else None, broken)
        self.skipped = Skipped(skipped, self.trainer.fixed.safety.rollback_after)
        self.window = list(about.get('window', []))
        self.line: dict[str, float] = {}
        self.scored: tuple[int, dict[str, float]] = (0, {})
        with Metrics(
            self.place.workdir, first, self.schedule.num_steps, write=processes.is_first()
        ) as self.metrics:
            for line in [*self._said, *self._opening(state, first), *self.feed.changes]:
                self.metrics.say(line)
            return self._steps(state, first)

    def say(self, line: str) -> None:
        self.metrics.say(line)

    def _steps(self, state: State, first: int) -> State:
        schedule = self.schedule
        waiting: list[tuple[int, dict[str, Any], dict[str, int]]] = []
        self.saved_at, self.step_saved = time.monotonic(), first
        self._restart_clock()
        self.watchdog.beat(first + 1, 'data')
        for step, batches in enumerate(self.feed.batches(schedule.num_steps - first), first + 1):
            self.watchdog.beat(step, 'step' if step > first + 1 else 'compile')
            state, log = self.trainer.step(state, batches)
            waiting.append((step, log, self.feed.began))
            self.timed += 1
            logs, signalled = schedule.logs(step), self.preemption.reached(step)
            due = self.place.validation.due(step) if self.place.validation else []
            ends = logs or signalled or schedule.saves(step) or bool(due)
            # At most two steps in flight: the host waits for data only when the device does too.
            while len(waiting) > (0 if ends else 1):
                self._settle(*waiting.pop(0))
            self.metrics.advance(step)
            if logs:
                self._write(step)
            if due:
                self._validate(step, state, due)
            if signalled or self._should_save(step, logs):
                self._save(step, state)
            if signalled and step < schedule.num_steps:
                raise Restart(
                    f'stopped by a signal after step {step}, which is saved. '
                    'The same command goes on from there.'
                )
            self.watchdog.beat(step + 1, 'data')
        return state

    def _settle(self, step: int, log: dict[str, Any], began: dict[str, int]) -> None:
        """Waits for a step and looks whether it was skipped."""
        skipped = bool(log['skipped'])
        self.window.append(log)
        self.skipped.look(step, jax.device_get(log) if skipped else {'skipped': 0.0}, began)

    def _write(self, step: int) -> None:
        """A line of metrics: means over the steps since the last one."""
        seconds = time.perf_counter() - self.started
        self.line = _means(self._fetched()) | self.feed.examples()
        timings = {
            'step_seconds': seconds / self.timed,
            'pairs_per_second': self.timed * self.feed.pairs_per_step / seconds,
            'data_wait_share': (self.feed.seconds_waited - self.waited) / seconds,
        }
        self.metrics.write(step, self.line | timings)
        self.window = []
        self._restart_clock()

    def _validate(self, step: int, state: State, due: list[str]) -> None:
        """Scores the state; the seconds that takes are not those of steps."""
        assert self.place.validation
        self.watchdog.beat(step, 'evaluate')
        started = time.perf_counter()
        values = self.place.validation(step, state)
        self.scored = step, values
        self.metrics.add(step, values)
        spent = time.perf_counter() - started
        self.say(f'step {step}: scored {", ".join(due)} in {spent:.1f} s')
        self.started += spent

    def _fetched(self) -> list[dict[str, float]]:
        self.window = [
            {name: float(value) for name, value in log.items()}
            for log in jax.device_get(self.window)
        ]
        return self.window

    def _restart_clock(self) -> None:
        self.timed, self.waited, self.started = 0, self.feed.seconds_waited, time.perf_counter()

    def _should_save(self, step: int, logs: bool) -> bool:
        minutes = self.schedule.checkpoint_minutes
        late = bool(minutes) and logs and time.monotonic() - self.saved_at > 60 * minutes
        if minutes and logs and jax.process_count() > 1:
            late = bool(multihost_utils.broadcast_one_to_all(np.bool_(late)))
        # While steps are skipped there is nothing new, and the run may have to go back.
        ends = step == self.schedule.num_steps
        return ends or ((self.schedule.saves(step) or late) and not self.skipped.in_a_row)

    def _save(self, step: int, state: State) -> None:
        if step == self.step_saved:
            return
        self.watchdog.beat(step, 'save')
        self.feed.examples()  # brings the counts of all hosts up to date
        about = {'vocabulary': self.place.vocabulary, 'window': self._fetched()}
        about |= self.feed.progress
        scored = self.scored[1] if self.scored[0] == step else {}
        self.checkpoints.save(step, state.trees(), about, self.line | scored)
        self.saved_at, self.step_saved = time.monotonic(), step

    def _opening(self, state: State, first: int) -> Iterator[str]:
        """What a user wants to know before the first step."""
        size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        shape = ', '.join(f'{axis}={n}' for axis, n in self.trainer.mesh.shape.items() if n > 1)
        on = f'{jax.device_count()} {jax.default_backend()} device(s)'
        on += f' of {jax.process_count()} processes' if jax.process_count() > 1 else ''
        yield f'{size / 1e6:.2f} M parameters on {on}' + (f', {shape}' if shape else '')
        parts = self.trainer.fixed.microbatches
        for name, task in self.trainer.tasks.items():
            batch = self.streams[task.stream].batch_size
            cut = f' in {parts} microbatches' if parts > 1 else ''
            compared = f', {batch - 1} negatives per anchor (fewer where ids repeat)'
            about = compared if isinstance(task, Contrast) else ''
            yield f'{name}: global batch {batch}{cut}{about}, weight {task.weight:g}'
        if first:
            yield f'resuming from the checkpoint of step {first}'


def _means(logs: list[dict[str, float]]) -> dict[str, float]:
    """Means over the steps that were not skipped, and how many were."""
    fine = [log for log in logs if not log['skipped']]
    values = {key: float(np.mean([log[key] for log in fine])) for key in fine[0]} if fine else {}
    return values | {'skipped': len(logs) - len(fine)}
