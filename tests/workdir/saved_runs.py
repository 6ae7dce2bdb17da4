"""Checkpoints of small trees, for the tests of this folder."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mural_jax.workdir.checkpoints import Checkpoints


def make_mesh(devices: int) -> Mesh:
    return jax.make_mesh(
        (devices,), ('fsdp',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def make_trees(step: int, devices: int = 8) -> dict[str, Any]:
    """Sharded and replicated arrays of several dtypes, with other numbers at every step."""
    rng = np.random.default_rng(step)
    sharded = NamedSharding(make_mesh(devices), PartitionSpec('fsdp'))
    replicated = NamedSharding(make_mesh(devices), PartitionSpec())
    params = {
        'kernel': jax.device_put(rng.normal(size=(64, 96)).astype(np.float32), sharded),
        'half': jax.device_put(rng.normal(size=(8, 4)).astype(jnp.bfloat16), sharded),
        'zeros': jax.device_put(np.zeros((8, 64), np.float32), sharded),
    }
    moments = {'mu': jax.device_put(rng.normal(size=(64, 96)).astype(np.float32), sharded)}
    progress = {'step': jax.device_put(np.int32(step), replicated), 'optimizer': (moments, ())}
    return {'params': params, 'statistics': {}, 'progress': progress}


def are_equal(one: Any, other: Any) -> bool:
    same = jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), one, other)
    return all(jax.tree.leaves(same))


def save_steps(workdir: Path, *steps: int, **options: Any) -> None:
    checkpoints = Checkpoints(workdir, **options)
    for step in steps:
        checkpoints.save(step, make_trees(step), {'vocabulary': 'v', 'positions': {'pairs': step}})
    checkpoints.close()


def resume_run(workdir: Path, **like: Any) -> tuple[Any, list[str]]:
    """(what `resume` returns, the lines that it says)."""
    said: list[str] = []
    checkpoints = Checkpoints(workdir)
    found = checkpoints.resume(lambda about: None, said.append, **(like or make_trees(0)))
    checkpoints.close()
    return found, said
