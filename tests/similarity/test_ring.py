"""The ring against the equations, against the whole score matrix, and its memory."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from objectives import oracles
from objectives.oracles import make_example, make_unit_vectors

from mural_jax.distributed.mesh import MeshShape, batch_sharding
from mural_jax.objectives.sigmoid import Sigmoid
from mural_jax.objectives.softmax import Softmax
from mural_jax.similarity.measures import COSINE
from mural_jax.types import UserError

Objective = Softmax | Sigmoid
OBJECTIVES = [Softmax(), Softmax(margin=0.3), Softmax(0.3, 0.1), Sigmoid()]
# (data, fsdp, tensor); None is one device without a mesh.
MESHES = [None, (1, 1, 1), (2, 1, 1), (8, 1, 1), (4, 2, 1), (2, 2, 2)]
SCALARS = {Softmax: {'temperature': 0.1}, Sigmoid: {'temperature': 0.1, 'bias': -3.0}}


def double_loop(objective: Objective, x, y, ids) -> float:
    scalars = SCALARS[type(objective)]
    if isinstance(objective, Sigmoid):
        return oracles.sigmoid(x, y, ids, **scalars)
    return oracles.softmax(x, y, ids, objective.margin, objective.label_smoothing, **scalars)


def with_gradients(objective: Objective) -> Callable:
    """((half the loss, as a task of weight 0.5 has it), logs), with all its gradients."""

    def loss(x, y, scalars, ids):
        value, logs = objective(COSINE, x, y, ids, scalars)
        return 0.5 * value, logs

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


def run(objective: Objective, x, y, ids, scalars=None, shape=None):
    """((loss, logs), gradients), the batch split over a mesh of that shape."""
    scalars = scalars or SCALARS[type(objective)]
    scalars = {name: jnp.float32(value) for name, value in scalars.items()}
    if shape is None:
        return with_gradients(objective)(x, y, scalars, ids)
    mesh = MeshShape(*shape).build(jax.devices()[: np.prod(shape)])
    x, y, ids = (jax.device_put(value, batch_sharding(mesh)) for value in (x, y, ids))
    with jax.set_mesh(mesh):
        return with_gradients(objective)(x, y, scalars, ids)


def assert_near(ours, theirs, tolerance: float = 1e-5) -> None:
    """Each array, by the norm of the difference."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        apart = np.linalg.norm(np.asarray(a, np.float64) - np.asarray(b, np.float64))
        assert apart <= tolerance * np.linalg.norm(b), (apart, np.linalg.norm(b))


def by_ring(objective: Objective, tile: int) -> Objective:
    return dataclasses.replace(objective, by='ring', tile=tile)


@pytest.mark.parametrize('shape', MESHES, ids=str)
@pytest.mark.parametrize('objective', OBJECTIVES, ids=str)
def test_ring_equals_equation_and_whole_matrix(objective: Objective, shape) -> None:
    x, y, ids = make_example(48, 7)
    ours = run(by_ring(objective, 4), x, y, ids, shape=shape)
    assert ours[0][0].dtype == jnp.float32
    np.testing.assert_allclose(2 * ours[0][0], double_loop(objective, x, y, ids), rtol=2e-6)
    assert_near(ours, run(objective, x, y, ids))
    if shape is not None:
        assert ours[1][0].sharding.spec == batch_sharding(ours[1][0].sharding.mesh).spec


@pytest.mark.parametrize('tile', [1, 5, 256])
def test_size_of_tile_changes_nothing(tile: int) -> None:
    """Of 6 examples a device: six tiles, two (of 3, for 5 does not divide 6), one."""
    x, y, ids = make_example(48, 7)
    for objective in (Softmax(0.3, 0.1), Sigmoid()):
        ours = run(by_ring(objective, tile), x, y, ids, shape=(4, 2, 1))
        assert_near(ours, run(objective, x, y, ids))


def make_near_pairs(size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matching pairs closer than others: a cosine of about 0.64."""
    rng = np.random.default_rng(1)
    x = make_unit_vectors(rng, size, 33)
    y = x + 1.2 * make_unit_vectors(rng, size, 33)
    y /= np.linalg.norm(y, axis=1, keepdims=True)
    return x, y, np.arange(size, dtype=np.int32)[:, None]


@pytest.mark.parametrize('objective', [Softmax(), Softmax(0.3, 0.1), Sigmoid()], ids=str)
def test_large_batch_at_lowest_temperature_stays_exact(objective: Objective) -> None:
    """The reference is float64; logits are up to 100, so their own rounding is 1e-5 of a p."""
    x, y, ids = make_near_pairs(2048)
    scalars = {'temperature': 0.01}
    if isinstance(objective, Sigmoid):
        scalars['bias'] = -60.0
    ours = run(by_ring(objective, 128), x, y, ids, scalars, shape=(8, 1, 1))
    with jax.enable_x64(True):
        wide = [jnp.asarray(value, jnp.float64) for value in (x, y)]
        scalars = {name: jnp.float64(np.float32(value)) for name, value in scalars.items()}
        assert_near(ours, with_gradients(objective)(*wide, scalars, ids))


@pytest.mark.parametrize('objective', [Softmax(0.3, 0.1), Sigmoid()], ids=str)
def test_rows_with_only_ignored_pairs_are_finite(objective: Objective) -> None:
    x, y, ids = make_example(16)
    ids[:8, 0], ids[8:, 0] = 100, 200
    ids[0] = 100, 200  # shares an id with everyone
    assert_near(run(by_ring(objective, 2), x, y, ids, shape=(4, 1, 1)), run(objective, x, y, ids))
    ids[:] = 100
    (loss, logs), slopes = run(by_ring(objective, 2), x, y, ids, shape=(4, 1, 1))
    assert float(logs['accuracy']) == 1.0
    np.testing.assert_allclose(2 * loss, double_loop(objective, x, y, ids), rtol=1e-6, atol=1e-6)
    assert np.isfinite(np.concatenate([np.ravel(x) for x in jax.tree.leaves(slopes)])).all()


def test_ties_across_devices_count_as_hits() -> None:
    x = np.eye(8, dtype=np.float32)[np.arange(16) % 4]
    ids = np.arange(16, dtype=np.int32)[:, None]
    y = x.copy()
    y[5] = -y[5]  # one pair that misses, in both directions
    for objective in (Softmax(0.3), Sigmoid()):
        (_, logs), _ = run(by_ring(objective, 2), x, y, ids, shape=(8, 1, 1))
        assert float(logs['accuracy']) == 15 / 16


def test_logs_have_no_gradient() -> None:
    x, y, ids = make_example()
    objective, scalars = by_ring(Softmax(), 4), {'temperature': jnp.float32(0.1)}
    slope = jax.grad(lambda x: objective(COSINE, x, y, ids, scalars)[1]['accuracy'])(x)
    assert not np.any(slope)


def count_temporary_bytes(objective: Objective, size: int) -> int:
    """Bytes on each of eight devices besides arguments and results."""
    mesh = MeshShape().build()
    split = batch_sharding(mesh)
    x = jax.ShapeDtypeStruct((size, 64), jnp.float32, sharding=split)
    ids = jax.ShapeDtypeStruct((size, 2), jnp.int32, sharding=split)
    scalars = {name: jnp.float32(value) for name, value in SCALARS[type(objective)].items()}
    with jax.set_mesh(mesh):
        compiled = with_gradients(objective).lower(x, x, scalars, ids).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize('objective', [Softmax(0.3, 0.1), Sigmoid()], ids=str)
def test_memory_does_not_grow_with_the_batch(objective: Objective) -> None:
    small, large = 1024, 8192
    assert count_temporary_bytes(objective, large) > 30 * count_temporary_bytes(objective, small)
    # What grows are a few numbers an example.
    grown = count_temporary_bytes(by_ring(objective, 64), large) - count_temporary_bytes(
        by_ring(objective, 64), small
    )
    assert grown < 16 * 4 * (large - small) // 8


def test_unknown_way_and_empty_tile_are_refused() -> None:
    for kind in (Softmax, Sigmoid):
        with pytest.raises(UserError, match='rign'):
            kind(by='rign')
        with pytest.raises(UserError, match='tile=0'):
            kind(by='ring', tile=0)
