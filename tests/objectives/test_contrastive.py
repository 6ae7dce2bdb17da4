"""The softmax objective against a double loop in float64, and on several devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from objectives import oracles
from objectives.oracles import example

from mural_jax.objectives.sigmoid import Sigmoid
from mural_jax.objectives.softmax import Hard, Softmax

SETTINGS = [(0.0, 0.0), (0.3, 0.0), (0.0, 0.1), (0.3, 0.1)]


@pytest.mark.parametrize(('margin', 'smoothing'), SETTINGS)
def test_equals_a_double_loop(margin: float, smoothing: float) -> None:
    x, y, ids = example()
    loss, _ = Softmax(margin, smoothing)(x, y, ids, jnp.float32(0.1))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, oracles.softmax(x, y, ids, margin, smoothing, 0.1), rtol=2e-6)


def test_ignored_pairs_change_nothing() -> None:
    """A pair that shares an id is neither pulled nor pushed."""
    x, y, ids = example()
    gradient = jax.grad(lambda y: Softmax(0.3, 0.1)(x[3:4], y, ids[3:4], jnp.float32(0.1))[0])
    objective = Softmax(0.3, 0.1)
    near = y.copy()
    near[9] = x[3]  # as near as can be; 3 and 9 share a picture
    both = np.array([3, 9])
    ours, _ = objective(x[both], y[both], ids[both], jnp.float32(0.1))
    moved, _ = objective(x[both], near[both], ids[both], jnp.float32(0.1))
    np.testing.assert_allclose(ours, 0, atol=1e-6)  # each is alone with its partner
    np.testing.assert_allclose(moved, 0, atol=1e-6)
    assert np.abs(gradient(y[3:4])).max() < 1e-6


def test_hard_negatives_are_more_columns() -> None:
    """The double loop in float64, with those that count beside the batch's own."""
    x, y, ids = example()
    size = len(x)
    near_x, near_y = (np.roll(side, 1, axis=0) * 0.8 + side * 0.6 for side in (x, y))
    near_x, near_y = (
        side / np.linalg.norm(side, axis=1, keepdims=True) for side in (near_x, near_y)
    )
    counts_x, counts_y = np.arange(size) % 3 != 0, np.arange(size) % 4 != 1
    hard = Hard(near_x, near_y, counts_x, counts_y)
    loss, _ = Softmax(0.3, 0.0)(x, y, ids, jnp.float32(0.1), hard)
    total = 0.0
    for own, other, near, counts in ((x, y, near_y, counts_y), (y, x, near_x, counts_x)):
        own, other, near = (value.astype(np.float64) for value in (own, other, near))
        for i in range(size):
            logits = [
                (own[i] @ other[j] - 0.3 * (i == j)) / 0.1 for j in range(size)
                if i == j or not set(ids[i]) & set(ids[j])
            ] + [own[i] @ near[j] / 0.1 for j in range(size) if counts[j]]  # fmt: skip
            right = (own[i] @ other[i] - 0.3) / 0.1
            total += (np.log(np.exp(logits).sum()) - right) / size
    np.testing.assert_allclose(loss, total, rtol=2e-6)
    plain, _ = Softmax(0.3, 0.0)(x, y, ids, jnp.float32(0.1))
    none = Hard(near_x, near_y, np.zeros(size, bool), np.zeros(size, bool))
    without, _ = Softmax(0.3, 0.0)(x, y, ids, jnp.float32(0.1), none)
    np.testing.assert_allclose(plain, without, rtol=1e-6)
    assert loss > plain


def test_accuracy_counts_the_hits_of_both_directions() -> None:
    x = np.eye(4, dtype=np.float32)
    y = x[[0, 1, 3, 2]]  # two of four swapped
    ids = np.arange(4, dtype=np.int32)[:, None]
    _, logs = Softmax()(x, y, ids, jnp.float32(0.1))
    assert float(logs['accuracy']) == 0.5


def test_eight_devices_equal_one() -> None:
    x, y, ids = example()
    objective = Softmax(0.3, 0.1)

    def loss(x, y, temperature, ids):
        return objective(x, y, ids, temperature)[0]

    both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))
    alone = both(x, y, jnp.float32(0.1), ids)
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec('data'))
    placed = [jax.device_put(value, split) for value in (x, y, ids)]
    apart = both(placed[0], placed[1], jnp.float32(0.1), placed[2])
    assert len(apart[1][0].sharding.device_set) == 8
    for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(apart)):
        np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)


def test_sigmoid_equals_a_double_loop() -> None:
    x, y, ids = example()
    loss, logs = Sigmoid()(x, y, ids, temperature=jnp.float32(0.1), bias=jnp.float32(-3.0))
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, oracles.sigmoid(x, y, ids, 0.1, -3.0), rtol=2e-6)
    _, of_softmax = Softmax()(x, y, ids, jnp.float32(0.1))
    np.testing.assert_allclose(logs['accuracy'], of_softmax['accuracy'])


def test_sigmoid_learns_its_scalars() -> None:
    """Too many negatives at a bias of zero: the bias falls; far scores stay finite."""
    x, y, ids = example()

    def loss(bias: jax.Array, temperature: jax.Array) -> jax.Array:
        return Sigmoid()(x, y, ids, temperature, bias)[0]

    slopes = jax.grad(loss, argnums=(0, 1))(jnp.float32(0.0), jnp.float32(1e-3))
    assert slopes[0] > 0
    assert np.isfinite(slopes).all()
