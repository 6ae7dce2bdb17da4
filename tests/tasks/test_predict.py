"""Pretraining by what was hidden: the step, however it is cut, learns from all three tasks."""

import jax
import numpy as np
import pytest
from training.batches import VOCABULARY, close

from mural_jax.config.load import load_config
from mural_jax.runs.run import Run
from mural_jax.training.step import State
from mural_jax.training.trainer import Trainer
from mural_jax.types import UserError

TASKS = ('match', 'regions', 'words')


def start(*overrides: str, name: str = 'unicoder_vl:tiny') -> tuple[Trainer, State, dict]:
    run = Run.of(load_config(name, list(overrides)))
    built = run.build_trainer(*run.build_model(VOCABULARY)[:2])
    _, params, statistics = run.build_model(VOCABULARY)
    return built, built.place(params, statistics), {'pairs': batch(run)}


def batch(run: Run, stream: str = 'pairs') -> dict[str, np.ndarray]:
    """Pairs of two, three or four regions; every second one does not belong together."""
    rng = np.random.default_rng(0)
    shapes = run.batch_shapes()[stream]
    made = {name: np.zeros(x.shape, x.dtype) for name, x in shapes.items() if name != 'index'}
    size, length = shapes['text'].shape
    made['text'] = rng.integers(4, VOCABULARY, (size, length)).astype(np.int32)
    made['text'][:, 12:] = 0
    made['regions'] = rng.uniform(0, 1, shapes['regions'].shape).astype(np.float32)
    made['regions'][..., -5:] = [0.1, 0.1, 0.4, 0.4, 0.09]
    for row in range(size):
        made['regions'][row, 2 + row % 3 :] = 0
    made['ids'] = rng.integers(0, 2**31 - 1, shapes['ids'].shape).astype(np.int32)
    if 'match' not in made:
        for field in ('regions', 'text') if 'regions_negative' in made else ():
            made[f'{field}_negative'] = np.roll(made[field], 1, axis=0)
            made[f'{field}_negative'][:3] = made[field][:3]  # None of these.
        return made
    matched = np.arange(size) % 2
    made['match'] = matched.astype(np.int32)
    for name, top in (('word', VOCABULARY), ('region', 100)):
        places = rng.integers(0, 2, shapes[f'{name}_place'].shape)
        made[f'{name}_place'] = places.astype(np.int32)
        target = rng.integers(0, top, places.shape)
        made[f'{name}_target'] = np.where(matched[:, None], target, -1).astype(np.int32)
    return made


def test_every_parameter_learns_and_the_losses_fall() -> None:
    built, state, batches = start('--config.optimizer.learning_rate=0.01')
    before, first = jax.device_get(state.params), None
    for _ in range(25):
        state, logs = built.step(state, batches)
        first = first or jax.device_get(logs)
    for name in TASKS:
        assert logs[f'{name}/loss'] < first[f'{name}/loss']
        assert 0 <= first[f'{name}/accuracy'] <= 1
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.params))
    still = [jax.tree_util.keystr(path) for path, value in jax.tree.leaves_with_path(moved)
             if not value]  # fmt: skip
    assert not still


CUTS = {
    'parts': ['--config.microbatches=2'],
    'fsdp': ['--config.mesh.fsdp=2', '--config.mesh.data=4'],
}


@pytest.mark.parametrize('name', ['unicoder_vl:tiny', 'vldeformer:tiny'])
@pytest.mark.parametrize('more', CUTS.values(), ids=CUTS)
def test_it_is_the_same_however_it_is_cut(more: list[str], name: str) -> None:
    """Dropout on, hard negatives; means are over places, of which examples have none or more."""
    plain = start('--config.mesh.data=1', '--config.mesh.fsdp=8', name=name)
    cut = start(*more, name=name)
    (one, logs), (other, others) = (
        run.step(state, batches) for run, state, batches in (plain, cut)
    )
    close(logs, others, rtol=2e-4, atol=1e-6)
    close(one.optimizer, other.optimizer, rtol=1e-3, atol=1e-6)


def test_the_decomposed_stage_learns_and_the_heads_for_what_is_hidden_rest() -> None:
    built, state, batches = start(name='vldeformer:tiny')
    before = jax.device_get(state.params)
    for _ in range(2):
        state, logs = built.step(state, batches)
    assert np.isfinite(logs['loss'])
    np.testing.assert_allclose(logs['image_text/temperature'], 0.005, rtol=1e-5)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.params))
    assert all(jax.tree.leaves(moved.pop('towers')))
    assert not any(jax.tree.leaves(moved))


def test_hard_negatives_need_all_scores_at_once() -> None:
    with pytest.raises(UserError, match='hard negatives'):
        Run.of(load_config('vldeformer:tiny', ['--config.tasks.image_text.objective.by=ring']))


def test_predicting_needs_one_stream() -> None:
    with pytest.raises(UserError, match='one_stream'):
        Run.of(load_config('emoji:tiny', []) | {'tasks': {'w': {
            'kind': 'prediction', 'stream': 'captions', 'predict': 'words'}}})  # fmt: skip
