"""Optimizers and schedules: against optax, by pattern, and down to a minimum."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mural_jax.training.optimizers import Optimizer, first_match, path_name, trust_ratio_by_layer
from mural_jax.types import UserError

PARAMS = {'a': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)}, 'b': {'kernel': jnp.ones((2, 2))}}


def test_first_matching_pattern_sets_decay_and_multiplier() -> None:
    zero = jax.tree.map(jnp.zeros_like, PARAMS)
    optimizer = Optimizer(
        'adamw', 0.1, 0, weight_decay=(('bias', 0.0), ('a/', 0.5)), multipliers=(('b/', 0.0),)
    ).build(10)
    update, _ = optimizer.update(zero, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(update['a']['kernel'], -0.05)
    np.testing.assert_allclose(update['a']['bias'], 0)
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    update, _ = optimizer.update(ones, optimizer.init(PARAMS), PARAMS)
    np.testing.assert_allclose(update['b']['kernel'], 0)


def test_first_match_returns_the_first_value_or_none() -> None:
    assert first_match((('k', 1.0), ('ker', 2.0)), 'kernel') == 1.0
    assert first_match((('x', 1.0),), 'kernel') is None


@pytest.mark.parametrize('kind', ['adamw', 'lamb', 'adafactor'])
def test_optimizer_finds_a_minimum(kind: str) -> None:
    target = jnp.arange(6.0).reshape(2, 3)
    optimizer = Optimizer(kind, 0.1, 5, decay='linear').build(300)
    params = {'x': jnp.ones((2, 3))}
    state = optimizer.init(params)
    for _ in range(300):
        gradient = {'x': params['x'] - target}
        update, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, update)
    assert float(jnp.abs(params['x'] - target).max()) < 0.3


@pytest.mark.parametrize('decay', ['linear', 'cosine'])
def test_schedule_rises_to_the_peak_and_falls_to_zero(decay: str) -> None:
    rate = Optimizer('adamw', 1e-3, 10, decay=decay).schedule(100)
    assert float(rate(0)) == 0
    assert float(rate(10)) == pytest.approx(1e-3)
    assert float(rate(55)) == pytest.approx(5e-4)
    assert float(rate(100)) == pytest.approx(0, abs=1e-9)


def test_lamb_scales_each_layer_as_if_it_were_alone() -> None:
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


def test_lamb_equals_optax_on_arrays_that_are_not_stacked() -> None:
    """You et al. 2020, algorithm 2."""
    params = {'kernel': jnp.array([[1.0, -2.0], [0.5, 3.0]]), 'bias': jnp.array([0.1, 0.2])}
    gradient = jax.tree.map(lambda x: 0.3 * x + 0.1, params)
    ours = Optimizer(
        'lamb', 1e-2, 0, decay='linear', clip_norm=0.0, eps=1e-6, weight_decay=(('.', 0.1),)
    ).build(10)
    theirs = optax.lamb(optax.linear_schedule(1e-2, 0.0, 10), eps=1e-6, weight_decay=0.1)
    first, second = (o.update(gradient, o.init(params), params)[0] for o in (ours, theirs))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first, second)


STAGES = (
    Optimizer('adamw', 0.1, 0, clip_norm=0.0, multipliers=(('a/', 0.0), ('bias', 0.0))),
    Optimizer('adamw', 0.2, 0, weight_decay=(('b/', 0.5),), multipliers=(('bias', 0.0),)),
    Optimizer('adamw', 0.1, 2, weight_decay=(('a/', 0.1),), multipliers=(('bias', 0), ('b/', 0.3))),
)


def test_optimizers_of_stages_share_the_form_of_their_state() -> None:
    shapes = [
        jax.eval_shape(one.build(10, tuple(o for o in STAGES if o is not one)).init, PARAMS)
        for one in STAGES
    ]
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[1])
    assert jax.tree.structure(shapes[0]) == jax.tree.structure(shapes[2])
    # An array that some stage trains has moments, one that no stage trains has none.
    paths = {jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(shapes[0])}
    assert any("mu['a']['kernel']" in path for path in paths)
    assert not any("mu['a']['bias']" in path for path in paths)


@pytest.mark.parametrize('one', STAGES)
def test_optimizer_of_a_stage_updates_as_it_would_alone(one: Optimizer) -> None:
    gradient = jax.tree.map(lambda x: 0.3 * x, PARAMS)
    alone, shared = one.build(10), one.build(10, STAGES)
    expected, _ = alone.update(gradient, alone.init(PARAMS), PARAMS)
    found, _ = shared.update(gradient, shared.init(PARAMS), PARAMS)
    for (path, a), b in zip(
        jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True
    ):
        # What one stage freezes and another trains is held by the step, not by the optimizer.
        if first_match(one.multipliers, path_name(path)) != 0:
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize('name', ['weight_decay', 'multipliers'])
@pytest.mark.parametrize('value', [(3,), ('towers/image', 0.1), (('towers/image',),)])
def test_patterns_without_numbers_are_refused(name: str, value: tuple) -> None:
    with pytest.raises(UserError, match=f'optimizer.{name}.*example'):
        Optimizer('adamw', 1e-3, 1, **{name: value})
