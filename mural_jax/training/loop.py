"""The training loop: reads streams, runs steps, writes checkpoints and metrics."""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from jax.experimental import multihost_utils

from mural_jax.distributed import processes
from mural_jax.distributed.mesh import describe_mesh
from mural_jax.training.at_end import EndOfStage
from mural_jax.training.feed import BatchStream, Feed
from mural_jax.training.safety import RollbackNeeded, Safety, SkippedSteps
from mural_jax.training.schedule import Schedule
from mural_jax.training.stages import StageProgram, TrainingStage
from mural_jax.training.step import State
from mural_jax.training.trainer import Trainer
from mural_jax.training.watchdog import Watchdog
from mural_jax.types import Restart, UserError
from mural_jax.workdir.checkpoints import Checkpoints
from mural_jax.workdir.metrics import Metrics


class Validator(Protocol):
    """Scores a state between two steps."""

    @property
    def names(self) -> Collection[str]:
        """All evaluators that may run while training."""
        ...

    def due(self, step: int) -> list[str]:
        """The evaluators whose period ends with this step."""
        ...

    def __call__(self, step: int, state: State, names: Collection[str]) -> dict[str, float]:
        """Metrics by name, the same on every process; every process must call this."""
        ...


@dataclasses.dataclass(frozen=True)
class RunContext:
    """What the loop needs to know of the run around it.

    vocabulary: fingerprint of the run's vocabulary, which every checkpoint carries.
    check_vocabulary: gets the fingerprint in the checkpoint to resume from, and raises if it is
    another one.
    validator: scores the state on the way; None for no scores.
    """

    workdir: Path
    vocabulary: str
    check_vocabulary: Callable[[str], None]
    validator: Validator | None = None

    @property
    def skipped_path(self) -> Path | None:
        """The list of skipped steps, which are the same on every process; so one writes it."""
        return self.workdir / 'skipped.jsonl' if jax.process_index() == 0 else None

    @property
    def quarantine_path(self) -> Path:
        """This process's list of broken examples."""
        return self.workdir / f'quarantine-{jax.process_index()}.jsonl'


def train(
    programs: Sequence[StageProgram],
    schedule: Schedule,
    state: State,
    streams: Mapping[str, BatchStream],
    context: RunContext,
) -> State:
    """The state after the last step of the last stage.

    Starts from the newest checkpoint in the workdir, or from `state` if there is none. Raises
    Restart if a signal stopped the run, and UserError if it cannot continue.
    """
    for program in programs:
        sizes = {name: streams[name].batch_size for name in program.trainer.streams}
        program.trainer.check_batches(sizes)
    safety = programs[0].trainer.spec.safety
    best = schedule.best if schedule.best.metric else None
    pinned = [
        stage.end
        for stage, _ in programs
        if any(action.keeps_checkpoint for action in stage.end_actions)
    ]
    checkpoints = Checkpoints(context.workdir, schedule.keep, best, pinned)
    with (
        contextlib.closing(checkpoints),
        processes.Preemption() as preemption,
        Watchdog(context.workdir, 60 * safety.stall_minutes) as watchdog,
    ):
        attempt = Attempt(programs, schedule, streams, context, checkpoints, preemption, watchdog)
        ahead: dict[str, int] = {}
        for rollbacks in range(safety.max_rollbacks + 1):
            try:
                return attempt.run(state, ahead)
            except RollbackNeeded as reason:
                _require_rollback(reason, rollbacks, safety, checkpoints)
                # The same data would spoil the same steps again, so streams do not go back.
                ahead = attempt.feed.progress['positions']
                attempt.say(f'{reason}: going back to a checkpoint, on with the data after them')
    raise AssertionError('not reached')


def _require_rollback(
    reason: RollbackNeeded, rollbacks: int, safety: Safety, checkpoints: Checkpoints
) -> None:
    """Raises UserError if the run may not go back once more, or has nothing to go back to."""
    if rollbacks == safety.max_rollbacks:
        why = 'it has gone back as often as config.safety.max_rollbacks allows.'
    elif not checkpoints.steps:
        why = 'there is no checkpoint to go back to.'
    else:
        return
    raise UserError(
        f'The run cannot go on: {reason}, because the gradients were not finite or spikes, '
        f'and {why} '
        'Lower config.optimizer.learning_rate or raise warmup_steps, in a new workdir; '
        'skipped.jsonl says which data it met.'
    ) from reason


class Attempt:
    """One way from a checkpoint to the end of the run, or to a rollback."""

    def __init__(
        self,
        programs: Sequence[StageProgram],
        schedule: Schedule,
        streams: Mapping[str, BatchStream],
        context: RunContext,
        checkpoints: Checkpoints,
        preemption: processes.Preemption,
        watchdog: Watchdog,
    ):
        self.programs, self.schedule, self.streams = programs, schedule, streams
        self.context, self.checkpoints = context, checkpoints
        self.preemption, self.watchdog = preemption, watchdog

    def run(self, state: State, ahead: Mapping[str, int]) -> State:
        """Trains from the newest checkpoint, or from `state`, to the end.

        A stream in `ahead` begins there, unless the checkpoint is even further.
        """
        notes: list[str] = []
        resumed = self.checkpoints.resume(
            lambda about: self.context.check_vocabulary(about['vocabulary']),
            notes.append,
            **state.trees(),
        )
        first, about, trees = resumed or (0, {}, state.trees())
        state = State.from_trees(trees)
        if ahead:
            saved = about['positions']
            about['positions'] = {name: max(saved[name], at) for name, at in ahead.items()}
        self.feed = Feed(
            self.streams,
            about if resumed else None,
            self.context.quarantine_path,
            self.programs[0].trainer.mesh,
        )
        rollback_after = self.programs[0].trainer.spec.safety.rollback_after
        self.skipped = SkippedSteps(self.context.skipped_path, rollback_after)
        # Logs of the steps since the last line of metrics. A checkpoint between two lines carries
        # them, so that the next line is the same as in a run that was never stopped.
        self.window: list[dict[str, Any]] = list(about.get('window', []))
        self.line: dict[str, float] = {}
        self.scored: tuple[int, dict[str, float]] = (0, {})
        self.saved_at, self.step_saved = time.monotonic(), first
        with Metrics(
            self.context.workdir, first, self.schedule.num_steps, write=processes.is_first()
        ) as self.metrics:
            for line in [*notes, *self._describe_run(state, first), *self.feed.changes]:
                self.metrics.say(line)
            for program in self.programs:
                if first < program.stage.end:
                    state = self._run_stage(program, state, first)
                    first = program.stage.end
        return state

    def say(self, line: str) -> None:
        self.metrics.say(line)

    def _run_stage(self, program: StageProgram, state: State, first: int) -> State:
        """Trains from step `first` of the run to the end of a stage."""
        stage, trainer = program
        # The checkpoint of a boundary is that of the stage before, so a run that resumes from it
        # begins the stage too.
        if first == stage.start and stage.start:
            state = trainer.begin_stage(state)
            self.say(f'step {first}: stage {stage.name} begins')
        # Steps that were started, with where their batches begin.
        in_flight: list[tuple[int, dict[str, Any], dict[str, int]]] = []
        self._restart_clock()
        self.watchdog.beat(first + 1, 'data')
        batches_of_steps = self.feed.batches(stage.end - first, trainer.streams)
        for step, batches in enumerate(batches_of_steps, first + 1):
            self.watchdog.beat(step, 'step' if step > first + 1 else 'compile')
            state, log = trainer.step(state, batches)
            in_flight.append((step, log, self.feed.batch_starts))
            self.timed += 1
            ends = step == stage.end
            # Steps of two stages have other metrics, so a line covers one stage alone.
            writes = self.schedule.is_log_step(step) or ends
            signalled = self.preemption.reached(step)
            due = self._list_due(step, stage)
            drain = writes or signalled or self.schedule.is_save_step(step) or bool(due)
            # At most two steps in flight: the host waits for data only when the device does too.
            while len(in_flight) > (0 if drain else 1):
                self._finish_step(*in_flight.pop(0))
            self.metrics.advance(step)
            if writes:
                self._write_metrics(step)
            if due:
                self._validate(step, state, due)
            if ends:
                self._act_at_end(program, state)
            if ends or signalled or self._is_save_due(step, writes):
                self._save(step, state)
            if signalled and step < self.schedule.num_steps:
                raise Restart(
                    f'stopped by a signal after step {step}, which is saved. '
                    'The same command goes on from there.'
                )
            self.watchdog.beat(step + 1, 'data')
        return state

    def _list_due(self, step: int, stage: TrainingStage) -> list[str]:
        """The evaluators that score the state after a step."""
        if not self.context.validator:
            return []
        if step == stage.end and any(action.scores for action in stage.end_actions):
            return list(self.context.validator.names)
        return self.context.validator.due(step)

    def _act_at_end(self, program: StageProgram, state: State) -> None:
        """Runs the actions of a stage's end that have work of their own."""
        stage, trainer = program
        for action in stage.end_actions:
            if action.run:
                workdir = self.context.workdir
                action.run(EndOfStage(stage.name, stage.end, trainer, state, self.streams, workdir))

    def _finish_step(self, step: int, log: dict[str, Any], starts: dict[str, int]) -> None:
        """Waits for a step and records whether it was skipped."""
        skipped = bool(log['skipped'])
        self.window.append(log)
        # The logs of other steps are fetched all at once, for their line of metrics.
        self.skipped.record(step, jax.device_get(log) if skipped else {'skipped': 0.0}, starts)

    def _write_metrics(self, step: int) -> None:
        """Writes a line of metrics: means over the steps since the last line."""
        seconds = time.perf_counter() - self.started
        self.line = _average_logs(self._fetch_window()) | self.feed.count_examples()
        timings = {
            'step_seconds': seconds / self.timed,
            'pairs_per_second': self.timed * self.feed.pairs_per_step / seconds,
            'data_wait_share': (self.feed.seconds_waited - self.waited) / seconds,
        }
        self.metrics.write(step, self.line | timings)
        self.window = []
        self._restart_clock()

    def _validate(self, step: int, state: State, due: list[str]) -> None:
        """Scores the state with the evaluators that are due."""
        assert self.context.validator
        self.watchdog.beat(step, 'evaluate')
        started = time.perf_counter()
        values = self.context.validator(step, state, due)
        self.scored = step, values
        self.metrics.add(step, values)
        seconds = time.perf_counter() - started
        self.say(f'step {step}: scored {", ".join(due)} in {seconds:.1f} s')
        self.started += seconds  # `step_seconds` measures training alone.

    def _fetch_window(self) -> list[dict[str, float]]:
        """The logs of the window as Python numbers."""
        self.window = [
            {name: float(value) for name, value in log.items()}
            for log in jax.device_get(self.window)
        ]
        return self.window

    def _restart_clock(self) -> None:
        self.timed, self.waited, self.started = 0, self.feed.seconds_waited, time.perf_counter()

    def _is_save_due(self, step: int, writes: bool) -> bool:
        """Whether a period of saving ends with this step."""
        minutes = self.schedule.checkpoint_minutes
        late = bool(minutes) and writes and time.monotonic() - self.saved_at > 60 * minutes
        if minutes and writes and jax.process_count() > 1:
            # Clocks differ, and all processes have to save together: the first one decides.
            late = bool(multihost_utils.broadcast_one_to_all(np.bool_(late)))
        # While steps are skipped the state does not change, and the run may have to go back to
        # the data before them.
        return (self.schedule.is_save_step(step) or late) and not self.skipped.in_a_row

    def _save(self, step: int, state: State) -> None:
        if step == self.step_saved:
            return
        self.watchdog.beat(step, 'save')
        self.feed.count_examples()  # adds up the processes, so that `progress` has all counts
        about = {'vocabulary': self.context.vocabulary, 'window': self._fetch_window()}
        about |= self.feed.progress
        scores = self.scored[1] if self.scored[0] == step else {}
        self.checkpoints.save(step, state.trees(), about, self.line | scores)
        self.saved_at, self.step_saved = time.monotonic(), step

    def _describe_run(self, state: State, first: int) -> Iterator[str]:
        """Lines about the run for the user, before the first step."""
        trainer = self.programs[0].trainer
        size = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        yield f'{size / 1e6:.2f} M parameters on {describe_mesh(trainer.mesh)}'
        each = ' of each process' if jax.process_count() > 1 else ''
        yield f'{processes.count_cpus()} CPUs read the data{each}'
        for stage, trainer in self.programs:
            if stage.name:
                at_end = f', then {", ".join(stage.at_end)}' if stage.at_end else ''
                yield f'stage {stage.name}: steps {stage.start + 1} to {stage.end}{at_end}'
            yield from self._describe_tasks(trainer)
        if first:
            yield f'resuming from the checkpoint of step {first}'

    def _describe_tasks(self, trainer: Trainer) -> Iterator[str]:
        parts = trainer.spec.microbatches
        for name, task in trainer.tasks.items():
            batch = self.streams[task.stream].batch_size
            split = f' in {parts} microbatches' if parts > 1 else ''
            negatives = task.num_negatives(batch)
            about = f', {negatives} negatives per anchor (fewer where ids repeat)'
            about = about if negatives else ''
            yield f'{name}: global batch {batch}{split}{about}, weight {task.weight:g}'


def _average_logs(logs: list[dict[str, float]]) -> dict[str, float]:
    """Means over the steps that were not skipped, and the number of skipped steps."""
    finite = [log for log in logs if not log['skipped']]
    values = (
        {key: float(np.mean([log[key] for log in finite])) for key in finite[0]} if finite else {}
    )
    return values | {'skipped': len(logs) - len(finite)}
