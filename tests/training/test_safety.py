"""Gradients that are not finite, spikes, and rollbacks."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.batches import ArrayStream, are_equal, first_batches, make_streams, make_trainer

from mural_jax.config.load import load_config
from mural_jax.runs.run import Run
from mural_jax.training import loop
from mural_jax.training.safety import FIRST_STEPS, Safety, UsualNorm
from mural_jax.training.schedule import Schedule
from mural_jax.training.stages import StageProgram
from mural_jax.training.trainer import Trainer
from mural_jax.types import UserError
from mural_jax.workdir import metrics
from mural_jax.workdir.checkpoints import Checkpoints

POISON = 10**6


@dataclasses.dataclass(frozen=True)
class PoisonedObjective:
    """An objective whose gradient is not finite if the batch has a certain id."""

    objective: Any

    def __call__(self, similarity: Any, query: Any, result: Any, ids: jax.Array, *more: Any):
        loss, logs = self.objective(similarity, query, result, ids, *more)
        return loss * jnp.where((ids == POISON).any(), float('nan'), 1.0), logs


def make_poisoned_streams(*positions: int, batch_size: int = 16) -> dict[str, ArrayStream]:
    """Streams whose captions have the id in the batches that begin at these positions."""
    streams = make_streams(batch_size)
    real = streams['captions'].batches

    def poison_batches(position: int, count: int, *rest: int):
        for number, batch in enumerate(real(position, count, *rest)):
            if position + number * batch_size in positions:
                batch['ids'][3, 0] = POISON
            yield batch

    streams['captions'].batches = poison_batches
    return streams


def poison_trainer(trainer: Trainer, **safety: Any) -> Trainer:
    """The trainer with a poisoned image-text objective."""
    tasks = tuple(
        (name, dataclasses.replace(task, objective=PoisonedObjective(task.objective)))
        if name == 'image_text'
        else (name, task)
        for name, task in trainer.spec.tasks
    )
    spec = trainer.spec._replace(tasks=tasks, safety=Safety(**safety))
    return dataclasses.replace(trainer, spec=spec)


def run_poisoned(folder: Path, streams: dict, **safety: Any) -> Any:
    """The last state of a run of 12 steps whose image-text objective is poisoned."""
    trainer, state = make_trainer()
    (stage,) = Run.of(load_config('emoji:tiny', [])).build_stages()
    programs = [StageProgram(stage, poison_trainer(trainer, **safety))]
    folder.mkdir(exist_ok=True)
    context = loop.RunContext(folder, 'hash', lambda found: None)
    return loop.train(programs, Schedule(12, 4, 4), state, streams, context)


def read_about(workdir: Path, step: int) -> dict:
    checkpoints = Checkpoints(workdir)
    about = checkpoints.about(step)
    checkpoints.close()
    return about


def test_step_with_a_nan_gradient_changes_only_the_step_count() -> None:
    trainer, state = make_trainer()
    before = jax.device_get(state)
    state, logs = poison_trainer(trainer).step(state, first_batches(make_poisoned_streams(0)))
    assert float(logs['skipped']) == 1
    assert int(state.step) == 1
    assert are_equal(state._replace(step=0), before._replace(step=0))


def test_skipped_step_is_listed_and_counted(tmp_path: Path) -> None:
    run_poisoned(tmp_path, make_poisoned_streams(5 * 16))
    (line,) = map(json.loads, (tmp_path / 'skipped.jsonl').read_text().splitlines())
    assert line['step'] == 6
    assert line['positions'] == {'captions': 80, 'translations': 80}
    assert line['loss'] == 'nan'
    lines = metrics.read(tmp_path)
    assert [line['skipped'] for line in lines] == [0, 1, 0]
    assert np.isfinite([line['loss'] for line in lines]).all()


def test_spike_is_rejected_once_the_usual_norm_is_known() -> None:
    usual = UsualNorm.zero()
    for _ in range(FIRST_STEPS):
        assert usual.accepts(jnp.float32(1e6), jnp.float32(1), 10.0)
        usual = usual.update(jnp.float32(2.0))
    np.testing.assert_allclose(usual.norm, 2.0, rtol=1e-5)
    assert usual.accepts(jnp.float32(19), jnp.float32(1), 10.0)
    assert not usual.accepts(jnp.float32(21), jnp.float32(1), 10.0)
    assert usual.accepts(jnp.float32(21), jnp.float32(1), 0.0)
    assert not usual.accepts(jnp.float32(1), jnp.float32(np.inf), 0.0)


def test_spike_setting_that_skips_usual_gradients_is_refused() -> None:
    with pytest.raises(UserError, match='would skip usual gradients'):
        Safety(spike=0.5)


def test_rollback_continues_with_the_data_after_the_skipped_steps(tmp_path: Path) -> None:
    """Steps 6, 7 and 8 are skipped: back to step 4, and on with the ninth batch. The end is that
    of a run whose streams never had the four batches between."""
    state = run_poisoned(tmp_path / 'bad', make_poisoned_streams(80, 96, 112), rollback_after=3)
    jumped = read_about(tmp_path / 'bad', 12)['positions']['captions'] - 12 * 16
    assert jumped == 4 * 16
    streams = make_streams()
    for stream in streams.values():
        stream.batches = leave_out(stream.batches, 4 * 16, jumped)
    assert are_equal(state.params, run_poisoned(tmp_path / 'good', streams).params)
    lines = [json.loads(x) for x in (tmp_path / 'bad' / 'skipped.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == [6, 7, 8]
    assert [line['step'] for line in metrics.read(tmp_path / 'bad')] == [4, 8, 12]


def leave_out(real: Any, start: int, size: int) -> Any:
    """Batches without the `size` positions from `start` on."""

    def batches(position: int, count: int, *rest: int):
        for number in range(count):
            at = position + number * 16
            yield from real(at if at < start else at + size, 1, *rest)

    return batches


def test_run_stops_after_too_many_rollbacks(tmp_path: Path) -> None:
    streams = make_poisoned_streams(*range(4 * 16, 400 * 16, 16))
    with pytest.raises(UserError, match='max_rollbacks'):
        run_poisoned(tmp_path, streams, rollback_after=2, max_rollbacks=2)
    assert read_about(tmp_path, 4)['positions']['captions'] == 64


def test_run_without_a_checkpoint_cannot_go_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no checkpoint to go back to'):
        run_poisoned(tmp_path, make_poisoned_streams(*range(0, 6400, 16)), rollback_after=2)
