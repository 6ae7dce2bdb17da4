"""All pairs of a batch, a tile at a time, around a ring of devices.

The examples of both sides stay split over the mesh axes `data` and `fsdp`. A tile of columns
travels from device to device and meets the rows that live there, one tile of rows at a time. A
device therefore holds a few tiles of other devices, however large the batch is. The order of
visits is that of ring attention (Liu et al. 2023, arXiv:2310.01889); the tiles within a device
follow FlashAttention (Dao et al. 2022, arXiv:2205.14135).
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
from mural_jax.types import Array, Tree


@dataclasses.dataclass(frozen=True)
class Merge:
    """Combines what two tiles found out about the same row.

    `merge(a, b)` must be associative and commutative, because every column meets the tiles of
    rows in another order. zero: Neutral value, `merge(zero, b) == b`: a number, or a tree of
    numbers where `merge` takes trees.
    """

    zero: Any
    merge: Callable[[Any, Any], Any]


ADD = Merge(0, jnp.add)
MAX = Merge(-math.inf, jnp.maximum)

# (row tile, column tile, shared) -> (tree [T, ...] about the rows, tree [T, ...] about the columns)
CompareTiles = Callable[..., tuple[Tree, Tree]]


def sweep(
    compare: CompareTiles,
    merges: tuple[Tree, Tree],
    rows: Tree,
    columns: Tree,
    shared: Tree,
    tile: int,
) -> tuple[Tree, Tree]:
    """Results for every row over all columns, and for every column over all rows.

    compare: Called for each pair of tiles, with `shared`.
    merges: A `Merge` for each entry of the two trees that `compare` returns.
    rows, columns: Trees of [B, ...], split like a batch over the mesh in context; so are the
    results. shared: The same on every device.
    tile: Largest number of rows and of columns in a tile; the largest divisor of a device's
    examples up to it is taken.

    Memory besides arguments and results does not grow with B. Not differentiable by itself:
    `similarity.tiles` gives it a gradient.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return _sweep_on_device(compare, merges, tile, 1, rows, columns, shared)
    devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    split = PartitionSpec(BATCH_AXES)
    return jax.shard_map(
        partial(_sweep_on_device, compare, merges, tile, devices),
        in_specs=(split, split, PartitionSpec()),
        out_specs=split,
        check_vma=False,
    )(rows, columns, shared)


def _sweep_on_device(
    compare: CompareTiles,
    merges: tuple[Tree, Tree],
    tile: int,
    devices: int,
    rows: Tree,
    columns: Tree,
    shared: Tree,
) -> tuple[Tree, Tree]:
    """The sweep as one device sees it: its own rows, and the columns of all devices in turn."""
    local = len(jax.tree.leaves(rows)[0])
    size = _largest_divisor(local, tile)
    number = local // size
    take = partial(_take_tile, size=size)
    row_merges, column_merges = merges
    # Shapes alone: nothing is computed before the loops below.
    row_shape, column_shape = jax.eval_shape(compare, take(rows, 0), take(columns, 0), shared)
    no_column = _zeros(column_merges, column_shape, 1)

    def send_tile_around(j: Array, state: tuple) -> tuple:
        """Every device's j-th tile of columns goes around the ring and comes home."""
        row_results, column_results = state
        start = (row_results, take(columns, j), no_column)
        row_results, _, column_result = jax.lax.fori_loop(0, devices, visit_device, start)
        # The results travel one stop behind their tile, so one more step brings them home.
        return row_results, _put_tile(column_results, j, _send_on(column_result, devices))

    def visit_device(_: Array, state: tuple) -> tuple:
        row_results, column, column_result = state
        # The tile is sent on before it is used: the transfer overlaps with the work on it. What
        # the devices before found out about it arrives meanwhile.
        next_column, result_before = _send_on((column, column_result), devices)
        meet_rows = partial(meet_tile_of_rows, column)
        row_results, result_here = jax.lax.fori_loop(0, number, meet_rows, (row_results, no_column))
        return row_results, next_column, _merge(column_merges, result_before, result_here)

    def meet_tile_of_rows(column: Tree, i: Array, state: tuple) -> tuple:
        row_results, column_result = state
        row_part, column_part = compare(take(rows, i), column, shared)
        merged = _merge(row_merges, take(row_results, i), row_part)
        return (
            _put_tile(row_results, i, merged),
            _merge(column_merges, column_result, column_part),
        )

    # Every tile of columns starts its own round; the results of rows grow over all rounds.
    start = _zeros(row_merges, row_shape, number), _zeros(column_merges, column_shape, number)
    return jax.lax.fori_loop(0, number, send_tile_around, start)


def _largest_divisor(local: int, tile: int) -> int:
    return next(size for size in range(min(tile, local), 0, -1) if local % size == 0)


def _send_on(tree: Tree, devices: int) -> Tree:
    """Sends a tree to the next device of the ring; returns what the previous device sent."""
    if devices == 1:
        return tree
    ring = [(device, (device + 1) % devices) for device in range(devices)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, BATCH_AXES, ring), tree)


def _take_tile(tree: Tree, i: Array | int, size: int) -> Tree:
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * size, size), tree)


def _put_tile(tree: Tree, i: Array, tile: Tree) -> Tree:
    def put(x: Array, value: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(x, value, i * len(value), 0)

    return jax.tree.map(put, tree, tile)


def _merge(merges: Tree, a: Tree, b: Tree) -> Tree:
    return jax.tree.map(lambda how, a, b: how.merge(a, b), merges, a, b)


def _zeros(merges: Tree, shape: Tree, number: int) -> Tree:
    """Neutral results for `number` tiles."""

    def fill(zero: float, x: Array) -> Array:
        return jnp.full((number * x.shape[0], *x.shape[1:]), zero, x.dtype)

    return jax.tree.map(lambda how, part: jax.tree.map(fill, how.zero, part), merges, shape)
