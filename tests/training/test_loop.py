"""The loop: exact resume, what checkpoints hold, signals, checkpoints by clock and by metric."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from training.batches import are_equal, make_streams, read_metrics, run_loop

from mural_jax.types import Batch, Restart, UserError
from mural_jax.workdir import metrics
from mural_jax.workdir.checkpoints import Checkpoints

OFTEN = ('--config.schedule.log_every=4', '--config.schedule.checkpoint_every=4')


def test_resume_is_bit_identical(tmp_path: Path) -> None:
    """Stopped after 8 of 12 steps, with dropout on, and started again."""
    whole = run_loop(tmp_path / 'whole')
    streams = make_streams()
    real = streams['captions'].batches

    def stop_early(first: int, *rest: int) -> Iterator[Batch]:
        for step, batch in enumerate(real(first, *rest), first):
            if step == 9:
                raise KeyboardInterrupt
            yield batch

    streams['captions'].batches = stop_early
    with pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path / 'parts', streams=streams)
    assert are_equal(whole, run_loop(tmp_path / 'parts'))
    assert read_metrics(tmp_path / 'whole') == read_metrics(tmp_path / 'parts')
    assert [line['step'] for line in metrics.read(tmp_path / 'parts')] == [2, 4, 6, 8, 10, 12]


def test_checkpoint_holds_the_position_of_each_stream(tmp_path: Path) -> None:
    run_loop(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps == [8, 12]
    about = checkpoints.about(12)
    assert about['positions'] == {'captions': 192, 'translations': 192}
    assert sum(about['counts']['captions']) == 192
    with pytest.raises(UserError, match='step 5'):
        checkpoints.choose(5)
    checkpoints.close()


def test_signal_saves_at_once_and_the_run_ends_the_same(tmp_path: Path) -> None:
    """The signal comes between two lines of metrics; the next line is as if it had not come."""
    whole = run_loop(tmp_path / 'whole', *OFTEN)
    streams = make_streams()
    real = streams['captions'].batches

    def signal_at_step_6(position: int, *rest: int) -> Any:
        for number, batch in enumerate(real(position, *rest)):
            if position + 16 * number == 6 * 16:
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    streams['captions'].batches = signal_at_step_6
    with pytest.raises(Restart, match='saved'):
        run_loop(tmp_path / 'parts', *OFTEN, streams=streams)
    step = max(int(path.name) for path in (tmp_path / 'parts' / 'checkpoints').iterdir())
    assert step % 4
    assert are_equal(whole, run_loop(tmp_path / 'parts', *OFTEN))
    assert read_metrics(tmp_path / 'whole') == read_metrics(tmp_path / 'parts')


def test_checkpoints_follow_the_clock_and_the_best_metric_stays(tmp_path: Path) -> None:
    state = run_loop(
        tmp_path,
        '--config.schedule.checkpoint_every=100',
        '--config.schedule.log_every=3',
        '--config.schedule.checkpoint_minutes=0.0000001',
        '--config.schedule.keep=1',
        '--config.schedule.best.metric=loss',
        '--config.schedule.best.mode=max',
    )
    assert int(state.step) == 12
    lines = metrics.read(tmp_path)
    assert [line['step'] for line in lines] == [3, 6, 9, 12]
    best = max(lines, key=lambda line: line['loss'])['step']
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps == sorted({best, 12})
    checkpoints.close()
