"""The contrastive softmax against a double loop in float64, and on several devices."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from objectives import oracles
from objectives.oracles import make_example

from mural_jax.objectives.pairwise import HardNegatives
from mural_jax.objectives.softmax import Softmax
from mural_jax.similarity.measures import COSINE

SETTINGS = [(0.0, 0.0), (0.3, 0.0), (0.0, 0.1), (0.3, 0.1)]


def compute_loss(objective: Softmax, x: Any, y: Any, ids: Any, *more: Any) -> tuple[Any, Any]:
    """(loss, logs) at a temperature of 0.1."""
    return objective(COSINE, x, y, ids, {'temperature': jnp.float32(0.1)}, *more)


def make_hard_negatives(x: np.ndarray, y: np.ndarray) -> HardNegatives:
    """Vectors near the examples' own, of which two thirds and three quarters count."""
    near = [np.roll(side, 1, axis=0) * 0.8 + side * 0.6 for side in (x, y)]
    near_x, near_y = (side / np.linalg.norm(side, axis=1, keepdims=True) for side in near)
    number = np.arange(len(x))
    return HardNegatives(near_x, near_y, number % 3 != 0, number % 4 != 1)


@pytest.mark.parametrize(('margin', 'smoothing'), SETTINGS)
def test_loss_equals_double_loop(margin: float, smoothing: float) -> None:
    x, y, ids = make_example()
    loss, _ = compute_loss(Softmax(margin, smoothing), x, y, ids)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, oracles.softmax(x, y, ids, margin, smoothing, 0.1), rtol=2e-6)


@pytest.mark.parametrize('moved', [False, True], ids=['apart', 'as near as can be'])
def test_ignored_pair_has_no_loss(moved: bool) -> None:
    x, y, ids = make_example()
    if moved:
        y[9] = x[3]
    both = np.array([3, 9])  # Examples that share an image: each is alone with its partner.
    loss, _ = compute_loss(Softmax(0.3, 0.1), x[both], y[both], ids[both])
    np.testing.assert_allclose(loss, 0, atol=1e-6)


def test_ignored_pair_has_no_gradient() -> None:
    x, y, ids = make_example()
    gradient = jax.grad(lambda y: compute_loss(Softmax(0.3, 0.1), x[3:4], y, ids[3:4])[0])
    assert np.abs(gradient(y[3:4])).max() < 1e-6


def test_hard_negatives_equal_double_loop() -> None:
    x, y, ids = make_example()
    hard = make_hard_negatives(x, y)
    loss, _ = compute_loss(Softmax(0.3, 0.0), x, y, ids, hard)
    total = oracles.softmax_with_hard_negatives(
        (x, y),
        (hard.query, hard.result),
        (hard.real_query_B, hard.real_result_B),
        ids,
        margin=0.3,
        temperature=0.1,
    )
    np.testing.assert_allclose(loss, total, rtol=2e-6)


def test_hard_negatives_that_do_not_count_change_nothing() -> None:
    x, y, ids = make_example()
    hard = make_hard_negatives(x, y)
    none = np.zeros(len(x), bool)
    plain, _ = compute_loss(Softmax(0.3, 0.0), x, y, ids)
    without, _ = compute_loss(
        Softmax(0.3, 0.0), x, y, ids, hard._replace(real_query_B=none, real_result_B=none)
    )
    np.testing.assert_allclose(plain, without, rtol=1e-6)


def test_accuracy_counts_hits_of_both_directions() -> None:
    x = np.eye(4, dtype=np.float32)
    y = x[[0, 1, 3, 2]]  # Two of four are swapped.
    ids = np.arange(4, dtype=np.int32)[:, None]
    _, logs = compute_loss(Softmax(), x, y, ids)
    assert float(logs['accuracy']) == 0.5


def test_eight_devices_equal_one() -> None:
    x, y, ids = make_example()

    def loss(x: Any, y: Any, temperature: Any, ids: Any) -> Any:
        return Softmax(0.3, 0.1)(COSINE, x, y, ids, {'temperature': temperature})[0]

    with_gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    alone = with_gradient(x, y, jnp.float32(0.1), ids)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec('data'))
    placed = [jax.device_put(value, split) for value in (x, y, ids)]
    spread = with_gradient(placed[0], placed[1], jnp.float32(0.1), placed[2])
    assert len(spread[1][0].sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(spread)):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
