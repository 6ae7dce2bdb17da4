"""Stages: their order and rules, exact resume around a boundary, and what ends a stage."""

import dataclasses
import os
import signal
from collections.abc import Collection
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from training.batches import (
    VOCABULARY_SIZE,
    are_equal,
    make_programs,
    make_streams,
    make_trainer,
    read_metrics,
    run_loop,
)

from mural_jax.config.load import load_config
from mural_jax.runs.run import Run
from mural_jax.training import at_end
from mural_jax.training.at_end import EndAction, EndOfStage
from mural_jax.training.step import State
from mural_jax.types import Restart, UserError
from mural_jax.workdir.checkpoints import Checkpoints

# 12 steps in all, as the tiny config has; steps 5, 6 and 7 lie around the boundary.
STAGES: dict[str, dict[str, Any]] = {
    # In the order of their names the second stage comes first.
    'images': dict(steps=6, tasks=('image_text',), at_end=('snapshot',)),
    'both': dict(steps=6, after='images', optimizer=dict(learning_rate=1e-3, warmup_steps=1)),
}
OFTEN = ('--config.schedule.log_every=4', '--config.schedule.checkpoint_every=1')


def make_run(stages: dict[str, Any], *overrides: str) -> Run:
    return Run.of({**load_config('emoji:tiny', list(overrides)), 'stages': stages})


def read_positions(workdir: Path, step: int) -> dict[str, int]:
    checkpoints = Checkpoints(workdir)
    positions = checkpoints.about(step)['positions']
    checkpoints.close()
    return positions


def copy_state(state: State) -> State:
    """A state that outlives the step that gets the original."""
    return jax.tree.map(lambda x: x.copy(), state)


@pytest.fixture(scope='module')
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, State]:
    """(workdir, last state) of a run with two stages that nothing stopped."""
    folder = tmp_path_factory.mktemp('whole')
    return folder, run_loop(folder, *OFTEN, stages=STAGES)


def test_stages_follow_each_other_by_after() -> None:
    first, second = make_run(STAGES).build_stages()
    assert (first.name, first.start, first.end, first.tasks) == ('images', 0, 6, ('image_text',))
    assert (second.name, second.start, second.end) == ('both', 6, 12)
    assert second.tasks == ('image_text', 'text_text')
    assert first.optimizer.learning_rate == 2e-3
    assert second.optimizer.learning_rate == 1e-3


def test_run_without_stages_is_one_stage() -> None:
    (stage,) = make_run({}).build_stages()
    assert (stage.name, stage.start, stage.end) == ('', 0, 12)
    assert stage.tasks == ('image_text', 'text_text')


def test_one_stage_with_everything_equals_a_run_without_stages(tmp_path: Path) -> None:
    plain = run_loop(tmp_path / 'plain')
    staged = run_loop(tmp_path / 'staged', stages={'only': dict(steps=12)})
    assert are_equal(plain, staged)
    assert read_metrics(tmp_path / 'plain') == read_metrics(tmp_path / 'staged')


@pytest.mark.parametrize(
    ('stages', 'words'),
    [
        ({'a': dict(steps=12, tasks=('image_txt',))}, "stages.a.tasks.*'image_text'"),
        ({'a': dict(steps=12, at_end=('snapshoot',))}, "at_end.*'snapshot'"),
        ({'a': dict(steps=12, optimizer=dict(learning_rat=1.0))}, "'learning_rate'"),
        ({'a': dict(steps=12, optimizer=dict(kind='lamb'))}, "must stay 'adamw'"),
        ({'a': dict(steps=12, optimizer=dict(b1=0.0))}, 'all stages have momentum or none'),
        ({'a': dict(steps=0), 'b': dict(steps=12, after='a')}, 'at least 1'),
        ({'a': dict(steps=5)}, 'num_steps is 12'),
        ({'a': dict(steps=6), 'b': dict(steps=6, after='c')}, "after names 'c'"),
        ({'a': dict(steps=6), 'b': dict(steps=6)}, "'a' and 'b' both come first"),
        (
            {'a': dict(steps=4), 'b': dict(steps=4, after='a'), 'c': dict(steps=4, after='a')},
            "both come after 'a'",
        ),
        ({'a': dict(steps=6, after='b'), 'b': dict(steps=6, after='a')}, 'circle'),
        ({'a': dict(steps=12, at_end=('evaluate',))}, 'no evaluator scores'),
    ],
)
def test_wrong_stages_are_refused(stages: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        make_run(stages)


def test_only_streams_of_active_tasks_advance(whole: tuple[Path, State]) -> None:
    folder, _ = whole
    assert read_positions(folder, 6) == {'captions': 6 * 16, 'translations': 0}
    assert read_positions(folder, 12) == {'captions': 12 * 16, 'translations': 6 * 16}


def test_line_of_metrics_covers_one_stage_alone(whole: tuple[Path, State]) -> None:
    lines = read_metrics(whole[0])
    assert [line['step'] for line in lines] == [4, 6, 8, 12]
    assert ['text_text/loss' in line for line in lines] == [False, False, True, True]


def test_snapshot_is_never_deleted(whole: tuple[Path, State]) -> None:
    checkpoints = Checkpoints(whole[0], keep=2, pinned=[6])
    assert checkpoints.steps == [6, 11, 12]
    checkpoints.close()


def test_stages_equal_trainers_chained_by_hand(whole: tuple[Path, State]) -> None:
    """The first stage as a run of its own; then a trainer for both tasks gets its parameters and
    moments, a fresh schedule, and the batches where the streams stand."""
    only_images = make_run(
        {'images': dict(steps=6, tasks=('image_text',))}, '--config.schedule.num_steps=6'
    )
    ((_, first),), state = make_programs(only_images)
    streams = make_streams()
    for step in range(6):
        batch = next(iter(streams['captions'].batches(16 * step, 1)))
        state, _ = first.step(state, {'captions': batch})
    second, _ = make_trainer(
        '--config.schedule.num_steps=6',
        '--config.optimizer.learning_rate=1e-3',
        '--config.optimizer.warmup_steps=1',
    )
    state = second.begin_stage(state)
    for step in range(6):
        batches = {
            'captions': next(iter(streams['captions'].batches(16 * (6 + step), 1))),
            'translations': next(iter(streams['translations'].batches(16 * step, 1))),
        }
        state, _ = second.step(state, batches)
    assert are_equal(state, whole[1])


def test_begin_stage_restarts_the_schedule_and_keeps_the_moments() -> None:
    trainer, state = make_trainer()
    batches = {name: next(iter(s.batches(0, 1))) for name, s in make_streams().items()}
    for _ in range(3):
        state, _ = trainer.step(state, batches)
    before = copy_state(state)
    after = trainer.begin_stage(state)
    assert (int(before.optimizer[-1].count), int(after.optimizer[-1].count)) == (3, 0)
    assert (int(before.usual_norm.count), int(after.usual_norm.count)) == (3, 0)
    assert are_equal(before.optimizer[:-1], after.optimizer[:-1])
    assert are_equal(before[:3], after[:3])
    places = [jax.tree.map(lambda x: x.sharding, s) for s in (before, after)]
    assert places[0] == places[1]


class StoppingStream:
    """A stream of arrays that ends the run in a given step, by an error or by a signal."""

    def __init__(self, stream: Any, position: int, signalled: bool):
        self._stream, self._position, self._signalled = stream, position, signalled

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def batches(self, position: int, count: int, *rest: Any) -> Any:
        for number, batch in enumerate(self._stream.batches(position, count, *rest)):
            if position + 16 * number == self._position:
                if not self._signalled:
                    raise KeyboardInterrupt
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch


@pytest.mark.parametrize(('step', 'signalled'), [(6, False), (6, True), (7, False), (8, True)])
def test_resume_around_a_boundary_is_bit_identical(
    whole: tuple[Path, State], tmp_path: Path, step: int, signalled: bool
) -> None:
    """Killed in the last steps of a stage and in the first of the next, with every step saved."""
    streams: dict[str, Any] = make_streams()
    streams['captions'] = StoppingStream(streams['captions'], 16 * (step - 1), signalled)
    with pytest.raises(Restart if signalled else KeyboardInterrupt):
        run_loop(tmp_path, *OFTEN, stages=STAGES, streams=streams)
    newest = max(int(path.name) for path in (tmp_path / 'checkpoints').iterdir())
    assert newest == (step if signalled else step - 1)
    assert are_equal(run_loop(tmp_path, *OFTEN, stages=STAGES), whole[1])
    assert read_metrics(tmp_path) == read_metrics(whole[0])


FREEZE = {
    'free': dict(steps=6),
    'frozen': dict(
        steps=6, after='free', optimizer=dict(multipliers=(('towers/image', 0.0), ('heads', 0.5)))
    ),
}


@pytest.fixture(scope='module')
def frozen_stage() -> tuple[State, State]:
    """States at the begin of a stage that freezes a tower, and two steps later."""
    (free, frozen), state = make_programs(make_run(FREEZE))
    batches = {name: next(iter(s.batches(0, 1))) for name, s in make_streams().items()}
    state, _ = free.trainer.step(state, batches)
    state = frozen.trainer.begin_stage(state)
    begin = copy_state(state)
    for _ in range(2):
        state, _ = frozen.trainer.step(state, batches)
    return begin, state


def test_tower_that_a_stage_freezes_stays_still(frozen_stage: tuple[State, State]) -> None:
    """Neither momentum from before nor weight decay moves it."""
    begin, end = frozen_stage
    assert are_equal(begin.params['towers']['image'], end.params['towers']['image'])
    moved = jax.tree.map(
        lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()),
        begin.params['towers']['text'],
        end.params['towers']['text'],
    )
    assert jax.tree.all(moved)


def test_moments_of_a_frozen_tower_wait_for_the_next_stage(
    frozen_stage: tuple[State, State],
) -> None:
    begin, end = (state.optimizer[1] for state in frozen_stage)
    assert are_equal(begin.mu['towers']['image'], end.mu['towers']['image'])
    assert are_equal(begin.nu['towers']['image'], end.nu['towers']['image'])
    assert not are_equal(begin.mu['towers']['text'], end.mu['towers']['text'])


def test_arrays_that_no_task_of_a_stage_uses_stay_still() -> None:
    """Weight decay would shrink the head of a task before it ever trains."""
    (images, _), state = make_programs(make_run(STAGES))
    before = copy_state(state)
    batch = next(iter(make_streams()['captions'].batches(0, 1)))
    for _ in range(2):
        state, _ = images.trainer.step(state, {'captions': batch})
    spaces = [params['spaces'] for params in (before.params, state.params)]
    assert are_equal(spaces[0]['text_text'], spaces[1]['text_text'])
    assert not are_equal(spaces[0]['image_text'], spaces[1]['image_text'])


@dataclasses.dataclass
class RecordingValidator:
    """Two evaluators with periods of 4 and 100 steps, that note when they score."""

    calls: list[tuple[int, list[str]]] = dataclasses.field(default_factory=list)
    names: tuple[str, ...] = ('often', 'rarely')

    def due(self, step: int) -> list[str]:
        return ['often'] if step % 4 == 0 else []

    def __call__(self, step: int, state: State, names: Collection[str]) -> dict[str, float]:
        self.calls.append((step, list(names)))
        return {f'eval/{name}': float(step) for name in names}


def test_evaluate_scores_every_evaluator_at_the_end(tmp_path: Path) -> None:
    validator = RecordingValidator()
    stages = {
        'a': dict(steps=6, at_end=('evaluate',)),
        'b': dict(steps=6, after='a', at_end=('evaluate',)),
    }
    # The tiny config's evaluators have no period; a run with `evaluate` must have one.
    period = '--config.evaluators.image_text_held_out.every=4'
    run_loop(tmp_path, period, stages=stages, validator=validator)
    both = ['often', 'rarely']
    assert validator.calls == [(4, ['often']), (6, both), (8, ['often']), (12, both)]


def test_action_of_its_own_runs_before_the_last_checkpoint_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a run that is killed in between runs it again."""
    seen: list[tuple[str, int, int, list[str]]] = []

    def note(end: EndOfStage) -> None:
        saved = sorted(path.name for path in (end.workdir / 'checkpoints').glob('[0-9]*'))
        seen.append((end.stage, end.step, int(end.state.step), saved))

    monkeypatch.setitem(at_end.AT_END, 'note', EndAction(run=note))
    stages = {'a': dict(steps=6, at_end=('note',)), 'b': dict(steps=6, after='a')}
    run_loop(tmp_path, '--config.schedule.checkpoint_every=100', stages=stages)
    assert seen == [('a', 6, 6, [])]


def test_plan_takes_the_stage_that_draws_most() -> None:
    run = make_run(STAGES)
    assert run.largest_stage.name == 'both'
    trainer = run.build_trainer(*run.build_model(VOCABULARY_SIZE, abstract=True)[:2])
    assert trainer.streams == {'captions', 'translations'}
    assert set(run.batch_shapes()) == trainer.streams
