"""The training loop: streams in, checkpoints and metrics out."""

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mural_jax.checkpoints import Checkpoints
from mural_jax.metrics import Metrics
from mural_jax.sharding import Rules, check_batch, global_batch, tree_sharding
from mural_jax.tasks import Task
from mural_jax.training import step as training_step
from mural_jax.training.feed import Feed, Stream
from mural_jax.training.step import Fixed, State
from mural_jax.types import Batch, UserError


@dataclasses.dataclass(frozen=True)
class Schedule:
    """How long a run is and how often it reports and saves, in steps.

    A checkpoint is saved only where a line of metrics ends, so that a resumed run writes the
    same lines: checkpoint_every is a multiple of log_every.
    """

    num_steps: int
    log_every: int
    checkpoint_every: int
    keep: int = 2

    def __post_init__(self) -> None:
        if min(self.num_steps, self.log_every, self.checkpoint_every, self.keep) < 1:
            raise UserError('config.schedule: all its numbers must be at least 1.')
        if self.checkpoint_every % self.log_every:
            raise UserError(
                f'config.schedule.checkpoint_every={self.checkpoint_every} must be a multiple of '
                f'log_every={self.log_every}, so that a resumed run writes the same metrics.'
            )

    def logs(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.num_steps

    def saves(self, step: int) -> bool:
        return step % self.checkpoint_every == 0 or step == self.num_steps


@dataclasses.dataclass(frozen=True)
class Trainer:
    """What a run trains, all of it fixed before the first step."""

    fixed: Fixed
    schedule: Schedule
    seed: int
    mesh: Mesh
    rules: Rules

    @property
    def tasks(self) -> Mapping[str, Task]:
        return dict(self.fixed.tasks)

    def place(self, params: Any, statistics: Any) -> State:
        """The first state, on the mesh."""
        state = training_step.init(params, statistics, self.fixed.optimizer)
        return jax.device_put(state, tree_sharding(state, self.rules, self.mesh))

    def step(self, state: State, batches: Mapping[str, Batch]) -> tuple[State, dict[str, Any]]:
        """One step; `batches` are this host's slices, without what only the host reads."""
        placed = {
            name: global_batch({k: v for k, v in batch.items() if k != 'origin'}, self.mesh)
            for name, batch in batches.items()
        }
        return training_step.train_step(self.fixed, np.uint32(self.seed), state, placed)


def train(
    trainer: Trainer, state: State, streams: Mapping[str, Stream], workdir: Path, vocabulary: str,
    check: Callable[[str], None],
) -> State:  # fmt: skip
    """Trains to the last step, from the newest checkpoint in the workdir if there is one.

    `vocabulary` is the hash that checkpoints carry; `check` gets the one of the checkpoint that
    is resumed from and raises where it does not fit.
    """
    for name, stream in streams.items():
        check_batch(name, stream.batch_size, trainer.mesh)
    checkpoints = Checkpoints(workdir, trainer.schedule.keep)
    broken = workdir / f'quarantine-{jax.process_index()}.jsonl'
    first, feed = 0, Feed(streams, quarantine=broken)
    if checkpoints.steps:
        first = checkpoints.steps[-1]
        about = checkpoints.about(first)
        check(about['vocabulary'])
        state = State.of(checkpoints.restore(first, **state.trees()))
        feed = Feed(streams, about, broken)
    writer = jax.process_index() == 0
    with Metrics(workdir, first, trainer.schedule.num_steps, write=writer) as metrics:
        for line in _opening(trainer, streams, state.params, first):
            metrics.say(line)
        for line in feed.changes:
            metrics.say(line)

        def save(step: int, state: State) -> None:
            checkpoints.save(step, state.trees(), {'vocabulary': vocabulary, **feed.progress})

        state = _loop(trainer, state, feed, first, metrics, save)
    checkpoints.close()
    return state


def _loop(
    trainer: Trainer, state: State, feed: Feed, first: int, metrics: Metrics,
    save: Callable[[int, State], None],
) -> State:  # fmt: skip
    schedule = trainer.schedule
    logs: list[dict[str, Any]] = []
    waited, started = 0.0, time.perf_counter()
    for step, batches in enumerate(feed.batches(schedule.num_steps - first), first + 1):
        state, log = trainer.step(state, batches)
        logs.append(log)
        # At most two steps in flight: the host then waits for data only when the device does too.
        jax.block_until_ready(logs[-2:][0])
        metrics.advance(step)
        if schedule.logs(step):
            values = _means(logs) | feed.examples()
            seconds = time.perf_counter() - started
            timings = {
                'step_seconds': seconds / len(logs),
                'pairs_per_second': len(logs) * feed.pairs_per_step / seconds,
                'data_wait_share': (feed.seconds_waited - waited) / seconds,
            }
            metrics.write(step, values | timings)
            logs, waited, started = [], feed.seconds_waited, time.perf_counter()
        if schedule.saves(step):
            save(step, state)
    return state


def _means(logs: list[dict[str, Any]]) -> dict[str, float]:
    """Means over the steps since the last line. Raises UserError where the loss is not finite."""
    fetched = jax.device_get(logs)
    values = {key: float(np.mean([log[key] for log in fetched])) for key in fetched[0]}
    if not np.isfinite(values['loss']):
        raise UserError(
            'The loss is not finite, so the run cannot go on; its last checkpoint is good. '
            'Start again in a new workdir with a lower config.optimizer.learning_rate.'
        )
    return values


def _opening(
    trainer: Trainer, streams: Mapping[str, Stream], params: Any, first: int
) -> Iterator[str]:
    """What a user wants to know before the first step."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    yield f'{size / 1e6:.2f} M parameters on {jax.device_count()} {jax.default_backend()} device(s)'
    for name, task in trainer.tasks.items():
        batch = streams[task.stream].batch_size
        yield (
            f'{name}: global batch {batch}, {batch - 1} negatives per anchor (fewer where ids '
            f'repeat), weight {task.weight:g}'
        )
    if first:
        yield f'resuming from the checkpoint of step {first}'
