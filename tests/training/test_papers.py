"""The configs of the papers at their tiny sizes: two steps, locked towers, LAMB by layer."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.batches import ArrayStream

from mural_jax.config.load import load_config
from mural_jax.runs.run import Run
from mural_jax.training.optimizers import Optimizer, trust_ratio_by_layer
from mural_jax.training.step import State, locked_towers
from mural_jax.training.trainer import Trainer

VOCABULARY = 60


def start(name: str, *overrides: str) -> tuple[Trainer, State, dict]:
    run = Run.of(load_config(name, list(overrides)))
    graphdef, params, statistics = run.build_model(VOCABULARY)
    built = run.build_trainer(graphdef, params)
    text = ((run.text_length,), np.int32, VOCABULARY)
    image = ((run.image_size, run.image_size, 3), np.uint8, 255)
    streams = {
        'captions': ArrayStream({'image': image, 'text': text}),
        'translations': ArrayStream({'source': text, 'target': text}),
    }
    batches = {task.stream: next(iter(streams[task.stream].batches(0, 1)))
               for task in built.tasks.values()}  # fmt: skip
    return built, built.place(params, statistics), batches


# ALIGN is MURAL's first task; `test_config` builds it.
@pytest.mark.parametrize('name', ['mural:tiny', 'clip:tiny', 'siglip:tiny'])
def test_tiny_sizes_take_two_steps(name: str) -> None:
    built, state, batches = start(name)
    before = jax.device_get((state.params, state.statistics))
    for _ in range(2):
        state, logs = built.step(state, batches)
    assert np.isfinite(logs['loss'])
    after = jax.device_get((state.params, state.statistics))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, after)
    still = [jax.tree_util.keystr(path) for path, value in jax.tree.leaves_with_path(moved)
             if not value]  # fmt: skip
    assert not still


def test_a_locked_tower_rests() -> None:
    """LiT: no array of the tower moves, nor its batch statistics; no moments are kept for it."""
    lock = "--config.optimizer.multipliers=(('towers/image', 0.0),)"
    built, state, batches = start('align:tiny', lock)
    assert built.fixed.locked == {'image'}
    before = jax.device_get((state.params, state.statistics))
    for _ in range(2):
        state, logs = built.step(state, batches)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(before), jax.tree.leaves((state.params, state.statistics))
    ):
        rests = "'towers'" in str(path) and "'image'" in str(path)
        assert (np.array_equal(a, b)) == rests, path
    kept = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(state.optimizer)]
    assert not [path for path in kept if "['towers']['image']" in path]
    assert [path for path in kept if "['towers']['text']" in path]


def test_a_tower_locked_in_part_still_trains() -> None:
    params = {'towers': {'a': {'x': 1, 'y': 1}, 'b': {'x': 1}}, 'heads': {'c': 1}}
    assert locked_towers(params, frozenset({'towers/a/x', 'towers/b/x'})) == {'b'}


def test_lamb_measures_each_layer() -> None:
    """Two stacked layers of different size step as they would alone."""
    params = {'stack': {'blocks': {'kernel': jnp.stack([jnp.ones((3, 3)), 9 * jnp.ones((3, 3))])}}}
    updates = jax.tree.map(lambda x: jnp.full_like(x, 0.1), params)
    ratio = trust_ratio_by_layer()
    scaled, _ = ratio.update(updates, ratio.init(params), params)
    for layer in range(2):
        one = jax.tree.map(lambda x, i=layer: x[i], (updates, params))
        alone, _ = optax.scale_by_trust_ratio().update(one[0], optax.EmptyState(), one[1])
        np.testing.assert_allclose(
            scaled['stack']['blocks']['kernel'][layer], alone['stack']['blocks']['kernel']
        )
    first, second = scaled['stack']['blocks']['kernel'][:, 0, 0]
    assert second == pytest.approx(9 * first)


def test_a_step_of_lamb_is_that_of_optax() -> None:
    """For arrays that are not stacked: You et al. 2020, algorithm 2."""
    params = {'kernel': jnp.array([[1.0, -2.0], [0.5, 3.0]]), 'bias': jnp.array([0.1, 0.2])}
    gradient = jax.tree.map(lambda x: 0.3 * x + 0.1, params)
    ours = Optimizer(
        'lamb', 1e-2, 0, decay='linear', clip_norm=0.0, eps=1e-6, weight_decay=(('.', 0.1),)
    ).build(10)
    theirs = optax.lamb(optax.linear_schedule(1e-2, 0.0, 10), eps=1e-6, weight_decay=0.1)
    first, second = (o.update(gradient, o.init(params), params)[0] for o in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first, second)
