"""The configs of the papers at their tiny sizes: they train, and locked towers stay still."""

import jax
import numpy as np
import pytest
from training.batches import VOCABULARY_SIZE, ArrayStream, first_batches

from mural_jax.config.load import load_config
from mural_jax.runs.run import Run
from mural_jax.training.step import State, find_locked_towers
from mural_jax.training.trainer import Trainer


def start_run(name: str, *overrides: str) -> tuple[Trainer, State, dict]:
    """(trainer, initial state, batches) of a config."""
    run = Run.of(load_config(name, list(overrides)))
    graphdef, params, statistics = run.build_model(VOCABULARY_SIZE)
    trainer = run.build_trainer(graphdef, params)
    text = ((run.text_length,), np.int32, VOCABULARY_SIZE)
    image = ((run.image_size, run.image_size, 3), np.uint8, 255)
    streams = {
        'captions': ArrayStream({'image': image, 'text': text}),
        'translations': ArrayStream({'source': text, 'target': text}),
    }
    batches = first_batches({name: streams[name] for name in trainer.streams})
    return trainer, trainer.initial_state(params, statistics), batches


# MURAL's first task is ALIGN, whose locked tower below has the same arrays.
@pytest.mark.parametrize('name', ['mural:tiny', 'clip:tiny', 'siglip:tiny'])
def test_two_steps_move_every_array(name: str) -> None:
    trainer, state, batches = start_run(name)
    before = jax.device_get((state.params, state.statistics))
    for _ in range(2):
        state, logs = trainer.step(state, batches)
    assert np.isfinite(logs['loss'])
    after = jax.device_get((state.params, state.statistics))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    still = [
        jax.tree_util.keystr(path) for path, value in jax.tree.leaves_with_path(moved) if not value
    ]
    assert not still


def test_locked_tower_stays_still() -> None:
    """LiT: none of its arrays and batch statistics move, and the optimizer has no moments of it."""
    lock = "--config.optimizer.multipliers=(('towers/image', 0.0),)"
    trainer, state, batches = start_run('align:tiny', lock)
    assert trainer.spec.locked == {'image'}
    before = jax.device_get((state.params, state.statistics))
    for _ in range(2):
        state, _ = trainer.step(state, batches)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(before), jax.tree.leaves((state.params, state.statistics))
    ):
        locked = "'towers'" in str(path) and "'image'" in str(path)
        assert (np.array_equal(a, b)) == locked, path
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.optimizer)]
    assert not [path for path in paths if "['towers']['image']" in path]
    assert [path for path in paths if "['towers']['text']" in path]


def test_partly_frozen_tower_is_not_locked() -> None:
    params = {'towers': {'a': {'x': 1, 'y': 1}, 'b': {'x': 1}}, 'heads': {'c': 1}}
    assert find_locked_towers(params, frozenset({'towers/a/x', 'towers/b/x'})) == {'b'}
