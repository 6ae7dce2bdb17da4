"""Every row of a batch meets every column, a tile of each at a time, around a ring of devices.

The examples live split over the mesh's `data` and `fsdp`. A tile of columns visits every device
and meets the rows there, a tile of them at a time, so a device holds a few tiles of others whatever
the batch. The order of visits is that of ring attention (Liu et al. 2023,
arXiv:2310.01889), the tiles within a device as in FlashAttention (arXiv:2205.14135).
"""

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from mural_jax.distributed.mesh import BATCH_AXES
from mural_jax.types import Array

Tree = Any  # Of arrays whose first dimension is rows, or columns.


@dataclasses.dataclass(frozen=True)
class Merge:
    """How what two tiles say of a row becomes one: `of(a, b)`, where `of(zero, b)` is b.

    Associative and commutative: a column meets the tiles of rows in an order of its own.
    """

    zero: Any  # A number, or a tree of them where `of` takes trees.
    of: Callable[[Any, Any], Any]


ADD = Merge(0, jnp.add)
MAX = Merge(-math.inf, jnp.maximum)

Meet = Callable[..., tuple[Tree, Tree]]


def sweep(
    meet: Meet, how: tuple[Tree, Tree], rows: Tree, columns: Tree, whole: Tree, tile: int
) -> tuple[Tree, Tree]:
    """What `meet` says of each row, merged over all columns, and of each column over all rows.

    `meet(row tile, column tile, whole)` gives two trees, of [T, ...] for the rows and the
    columns of a tile; `how` has a `Merge` for each of their entries. `rows` and `columns` are
    [B, ...], as are the results, split as a batch is over the mesh in context; `whole` is the
    same everywhere. T is the largest divisor of a device's examples up to `tile`.

    Memory besides arguments and results does not depend on B. Not differentiable: see `tiles`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _turn(meet, how, tile, 1, rows, columns, whole)
    devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    split = PartitionSpec(BATCH_AXES)
    return jax.shard_map(
        partial(_turn, meet, how, tile, devices),
        in_specs=(split, split, PartitionSpec()),
        out_specs=split,
        check_vma=False,
    )(rows, columns, whole)


def _turn(
    meet: Meet, how: tuple, tile: int, devices: int, rows: Tree, columns: Tree, whole: Tree
) -> tuple[Tree, Tree]:
    """The sweep as one device sees it."""
    size = _divisor(len(jax.tree.leaves(rows)[0]), tile)
    number = len(jax.tree.leaves(rows)[0]) // size
    take = partial(_take, size=size)
    how_row, how_column = how
    row_part, column_part = jax.eval_shape(meet, take(rows, 0), take(columns, 0), whole)
    nothing = _zeros(how_column, column_part, 1)

    def travel(j: Array, state: tuple) -> tuple:
        """The j-th tile of columns of every device goes around, and comes home."""
        of_rows, of_columns = state
        start = (of_rows, take(columns, j), nothing)
        of_rows, _, of_column = jax.lax.fori_loop(0, devices, stop, start)
        return of_rows, _put(of_columns, j, _send(of_column, devices))

    def stop(_: Array, state: tuple) -> tuple:
        """Sends the columns on first, so that they travel while this device works on them.

        What earlier devices said of them arrives meanwhile, one stop behind.
        """
        of_rows, column, of_column = state
        following, before = _send((column, of_column), devices)
        visit = partial(encounter, column)
        of_rows, here = jax.lax.fori_loop(0, number, visit, (of_rows, nothing))
        return of_rows, following, _merge(how_column, before, here)

    def encounter(column: Tree, i: Array, state: tuple) -> tuple:
        of_rows, of_column = state
        row_part, column_part = meet(take(rows, i), column, whole)
        of_rows = _put(of_rows, i, _merge(how_row, take(of_rows, i), row_part))
        return of_rows, _merge(how_column, of_column, column_part)

    start = _zeros(how_row, row_part, number), _zeros(how_column, column_part, number)
    return jax.lax.fori_loop(0, number, travel, start)


def _divisor(local: int, tile: int) -> int:
    return next(size for size in range(min(tile, local), 0, -1) if local % size == 0)


def _send(tree: Tree, devices: int) -> Tree:
    """To the next device; what the previous one sent."""
    if devices == 1:
        return tree
    ring = [(device, (device + 1) % devices) for device in range(devices)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, BATCH_AXES, ring), tree)


def _take(tree: Tree, i: Array | int, size: int) -> Tree:
    """The i-th tile."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size), tree)


def _put(tree: Tree, i: Array, part: Tree) -> Tree:
    def put(x: Array, value: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(x, value, i * len(value), 0)

    return jax.tree.map(put, tree, part)


def _merge(how: Tree, a: Tree, b: Tree) -> Tree:
    return jax.tree.map(lambda merge, a, b: merge.of(a, b), how, a, b)


def _zeros(how: Tree, part: Tree, number: int) -> Tree:
    """Of `number` tiles that have met nothing."""

    def full(zero: float, x: Array) -> Array:
        return jnp.full((number * x.shape[0], *x.shape[1:]), zero, x.dtype)

    return jax.tree.map(lambda merge, part: jax.tree.map(full, merge.zero, part), how, part)
