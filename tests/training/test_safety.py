"""Gradients that are not finite, spikes, signals, and checkpoints by the clock and by a metric."""

import dataclasses
import json
import os
import signal
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.batches import ArrayStream, run_loop, streams, trainer, without_timings

from mural_jax.training import loop
from mural_jax.training.safety import FIRST_STEPS, Safety, Usual
from mural_jax.types import Restart, UserError
from mural_jax.workdir import metrics
from mural_jax.workdir.checkpoints import Checkpoints

POISON = 10**6
OFTEN = ('--config.schedule.log_every=4', '--config.schedule.checkpoint_every=4')


@dataclasses.dataclass(frozen=True)
class Poisoned:
    """An objective whose gradient is not finite where a batch has a certain id."""

    objective: Any
    factor: float = float('nan')

    def __call__(self, query: jax.Array, result: jax.Array, ids: jax.Array, temperature: jax.Array):
        loss, logs = self.objective(query, result, ids, temperature)
        return loss * jnp.where((ids == POISON).any(), self.factor, 1.0), logs


def poisoned(*positions: int, batch_size: int = 16) -> dict[str, ArrayStream]:
    """Streams whose captions have the id in the batches that begin at these positions."""
    made = streams(batch_size)
    real = made['captions'].batches

    def batches(position: int, count: int, *rest: int):
        for number, batch in enumerate(real(position, count, *rest)):
            if position + number * batch_size in positions:
                batch['ids'][3, 0] = POISON
            yield batch

    made['captions'].batches = batches
    return made


def run(
    folder: Path, given: dict, *overrides: str, factor: float = float('nan'), **safety: Any
) -> Any:
    """A run of 12 steps whose image-text objective is poisoned."""
    built, state = trainer(*overrides)
    tasks = tuple(
        (name, dataclasses.replace(task, objective=Poisoned(task.objective, factor)))
        if name == 'image_text' else (name, task)
        for name, task in built.fixed.tasks
    )  # fmt: skip
    fixed = built.fixed._replace(tasks=tasks, safety=Safety(**safety))
    built = dataclasses.replace(built, fixed=fixed)
    schedule = loop.Schedule(12, 4, 4)
    folder.mkdir(exist_ok=True)
    place = loop.Place(folder, 'hash', lambda found: None)
    return loop.train(built, schedule, state, given, place)


def equal(one: Any, other: Any) -> bool:
    return jax.tree.all(jax.tree.map(np.array_equal, *jax.device_get((one, other))))


def test_a_gradient_that_is_not_finite_is_skipped(tmp_path: Path) -> None:
    """Counted, listed with its positions, and without any effect on the state."""
    built, state = trainer()
    fixed = built.fixed._replace(
        tasks=tuple(
            (name, dataclasses.replace(task, objective=Poisoned(task.objective)))
            for name, task in built.fixed.tasks
        )
    )
    built = dataclasses.replace(built, fixed=fixed)
    before = jax.device_get(state)
    batches = {name: next(iter(stream.batches(0, 1))) for name, stream in poisoned(0).items()}
    state, logs = built.step(state, batches)
    assert float(logs['skipped']) == 1
    assert int(state.step) == 1
    assert equal(state._replace(step=0), before._replace(step=0))
    run(tmp_path / 'run', poisoned(5 * 16))
    (line,) = map(json.loads, (tmp_path / 'run' / 'skipped.jsonl').read_text().splitlines())
    assert line['step'] == 6
    assert line['positions'] == {'captions': 80, 'translations': 80}
    assert line['loss'] == 'nan'
    lines = metrics.read(tmp_path / 'run')
    assert [line['skipped'] for line in lines] == [0, 1, 0]
    assert np.isfinite([line['loss'] for line in lines]).all()


def test_a_spike_is_skipped() -> None:
    """More than so many times the usual norm, once it is known."""
    usual = Usual.none()
    for _ in range(FIRST_STEPS):
        assert usual.accepts(jnp.float32(1e6), jnp.float32(1), 10.0)
        usual = usual.seen(jnp.float32(2.0))
    np.testing.assert_allclose(usual.norm, 2.0, rtol=1e-5)
    assert usual.accepts(jnp.float32(19), jnp.float32(1), 10.0)
    assert not usual.accepts(jnp.float32(21), jnp.float32(1), 10.0)
    assert usual.accepts(jnp.float32(21), jnp.float32(1), 0.0)
    assert not usual.accepts(jnp.float32(1), jnp.float32(np.inf), 0.0)
    with pytest.raises(UserError, match='would skip usual gradients'):
        Safety(spike=0.5)


def test_it_goes_back_and_on_with_the_data_after(tmp_path: Path) -> None:
    """Steps 6, 7 and 8 are skipped: back to step 4, and on with the ninth batch. The same as a run
    that never had the four between."""
    state = run(tmp_path / 'bad', poisoned(80, 96, 112), rollback_after=3)
    jumped = _about(tmp_path / 'bad', 12)['positions']['captions'] - 12 * 16
    assert jumped == 4 * 16
    without = streams()
    for stream in without.values():
        stream.batches = _without(stream.batches, 4 * 16, jumped)
    good = run(tmp_path / 'good', without)
    assert equal(state.params, good.params)
    lines = [json.loads(x) for x in (tmp_path / 'bad' / 'skipped.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [6, 7, 8]
    assert [line['step'] for line in metrics.read(tmp_path / 'bad')] == [4, 8, 12]


def _about(workdir: Path, step: int) -> dict:
    checkpoints = Checkpoints(workdir)
    about = checkpoints.about(step)
    checkpoints.close()
    return about


def _without(real: Any, start: int, size: int) -> Any:
    """Batches without the `size` positions from `start` on."""

    def batches(position: int, count: int, *rest: int):
        for number in range(count):
            at = position + number * 16
            yield from real(at if at < start else at + size, 1, *rest)

    return batches


def test_it_does_not_go_back_for_ever(tmp_path: Path) -> None:
    everything = poisoned(*range(4 * 16, 400 * 16, 16))
    with pytest.raises(UserError, match='max_rollbacks'):
        run(tmp_path / 'run', everything, rollback_after=2, max_rollbacks=2)
    assert _about(tmp_path / 'run', 4)['positions']['captions'] == 64
    with pytest.raises(UserError, match='no checkpoint to go back to'):
        run(tmp_path / 'new', poisoned(*range(0, 6400, 16)), rollback_after=2)


def test_a_signal_saves_at_once_and_the_run_ends_the_same(tmp_path: Path) -> None:
    """In the middle of a line of metrics; the line then is that of a run that was not stopped."""
    whole = run_loop(tmp_path / 'whole', *OFTEN)
    stopped = streams()
    real = stopped['captions'].batches

    def batches(position: int, *rest: int):
        for number, batch in enumerate(real(position, *rest)):
            if position + 16 * number == 6 * 16:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    stopped['captions'].batches = batches
    with pytest.raises(Restart, match='saved'):
        run_loop(tmp_path / 'parts', *OFTEN, given=stopped)
    step = max(int(path.name) for path in (tmp_path / 'parts' / 'checkpoints').iterdir())
    assert step % 4
    again = run_loop(tmp_path / 'parts', *OFTEN)
    assert equal(whole, again)
    assert without_timings(tmp_path / 'whole') == without_timings(tmp_path / 'parts')


def test_checkpoints_by_the_clock_and_by_a_metric(tmp_path: Path) -> None:
    state = run_loop(
        tmp_path, '--config.schedule.checkpoint_every=100', '--config.schedule.log_every=3',
        '--config.schedule.checkpoint_minutes=0.0000001', '--config.schedule.keep=1',
        '--config.schedule.best.metric=loss', '--config.schedule.best.mode=max',
    )  # fmt: skip
    assert int(state.step) == 12
    lines = metrics.read(tmp_path)
    assert [line['step'] for line in lines] == [3, 6, 9, 12]
    best = max(lines, key=lambda line: line['loss'])['step']
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps == sorted({best, 12})
    checkpoints.close()
