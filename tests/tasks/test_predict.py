"""Pretraining on hidden parts: the step, however it is split, learns from all three tasks."""

import functools
from typing import Any

import jax
import numpy as np
import pytest
from tasks.pair_batches import make_batch
from training.batches import VOCABULARY_SIZE, assert_close

from mural_jax.config.load import load_config
from mural_jax.runs.run import Run
from mural_jax.training.step import State
from mural_jax.training.trainer import Trainer
from mural_jax.types import UserError

TASKS = ('match', 'regions', 'words')


def start(*overrides: str, name: str = 'unicoder_vl:tiny') -> tuple[Trainer, State, dict]:
    run = Run.of(load_config(name, list(overrides)))
    graphdef, params, statistics = run.build_model(VOCABULARY_SIZE)
    trainer = run.build_trainer(graphdef, params)
    return trainer, trainer.initial_state(params, statistics), {'pairs': make_batch(run)}


def find_moved(before: Any, after: Any) -> Any:
    """Which arrays of a tree changed."""
    return jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(after))


@pytest.fixture(scope='module')
def pretrained() -> tuple[dict, dict, Any]:
    """(first logs, last logs, which parameters moved) of 25 steps."""
    trainer, state, batches = start('--config.optimizer.learning_rate=0.01')
    before, logs = jax.device_get(state.params), []
    for _ in range(25):
        state, log = trainer.step(state, batches)
        logs.append(jax.device_get(log))
    return logs[0], logs[-1], find_moved(before, state.params)


@pytest.mark.parametrize('name', TASKS)
def test_loss_of_every_task_falls(name: str, pretrained: tuple) -> None:
    first, last, _ = pretrained
    assert last[f'{name}/loss'] < first[f'{name}/loss']
    assert 0 <= first[f'{name}/accuracy'] <= 1


def test_every_parameter_learns(pretrained: tuple) -> None:
    moved = pretrained[2]
    still = [jax.tree_util.keystr(path) for path, x in jax.tree.leaves_with_path(moved) if not x]
    assert not still


def take_step(*overrides: str, name: str) -> tuple[State, dict]:
    """(state, logs) after the first step."""
    trainer, state, batches = start(*overrides, name=name)
    return trainer.step(state, batches)


@functools.cache
def take_plain_step(name: str) -> tuple[Any, dict]:
    """(state of the optimizer, logs) of a step that is not split into microbatches."""
    state, logs = take_step('--config.mesh.data=1', '--config.mesh.fsdp=8', name=name)
    return jax.device_get((state.optimizer, logs))


SPLITS = {
    'microbatches': ['--config.microbatches=2'],
    'fsdp': ['--config.mesh.fsdp=2', '--config.mesh.data=4'],
}


@pytest.mark.parametrize('name', ['unicoder_vl:tiny', 'vldeformer:tiny'])
@pytest.mark.parametrize('overrides', SPLITS.values(), ids=SPLITS)
def test_step_is_the_same_however_it_is_split(overrides: list[str], name: str) -> None:
    """With dropout and hard negatives; means are over places, and examples differ in them."""
    expected, expected_logs = take_plain_step(name)
    state, logs = take_step(*overrides, name=name)
    assert_close(expected_logs, logs, rtol=2e-4, atol=1e-6)
    assert_close(expected, state.optimizer, rtol=1e-3, atol=1e-6)


@pytest.fixture(scope='module')
def decomposed() -> tuple[dict, Any]:
    """(logs, which parameters moved) after two steps of the second stage."""
    trainer, state, batches = start(name='vldeformer:tiny')
    before = jax.device_get(state.params)
    for _ in range(2):
        state, logs = trainer.step(state, batches)
    return jax.device_get(logs), find_moved(before, state.params)


def test_decomposed_transformer_learns_at_fixed_temperature(decomposed: tuple) -> None:
    logs, moved = decomposed
    assert np.isfinite(logs['loss'])
    np.testing.assert_allclose(logs['image_text/temperature'], 0.005, rtol=1e-5)
    assert all(jax.tree.leaves(moved['towers']))


def test_heads_for_hidden_parts_rest_while_decomposing(decomposed: tuple) -> None:
    moved = {name: part for name, part in decomposed[1].items() if name != 'towers'}
    assert not any(jax.tree.leaves(moved))


def test_hard_negatives_by_ring_are_refused() -> None:
    with pytest.raises(UserError, match='hard negatives'):
        Run.of(load_config('vldeformer:tiny', ['--config.tasks.image_text.objective.by=ring']))


def test_prediction_without_joint_encoder_is_refused() -> None:
    config = load_config('emoji:tiny', [])
    config['tasks']['words'] = {'kind': 'prediction', 'stream': 'captions', 'predict': 'words'}
    with pytest.raises(UserError, match='one_stream'):
        Run.of(config)


@pytest.mark.parametrize(
    ('name', 'override', 'message'),
    [
        ('unicoder_vl:tiny', 'tasks.words.predict=letters', "'letters'.*regions"),
        ('unicoder_vl:photos', 'model.num_classes=9', 'must be config.model.num'),
        ('unicoder_vl:photos', 'streams.pairs.regions.codebook=0', 'have none'),
        ('unicoder_vl:tiny,tags', 'streams.pairs.tags=', "'tags'"),
    ],
)
def test_prediction_that_does_not_fit_is_refused(name: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Run.of(load_config(name, [f'--config.{override}']))
