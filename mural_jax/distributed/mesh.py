"""The mesh, where arrays live on it, and how global batches come from slices of processes."""

import dataclasses
import fractions
import functools
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mural_jax.types import Array, UserError

# Ordered (pattern, axes): an array follows the first pattern found in its path. `axes` has the
# mesh axis of each dimension, None for a dimension that is not split.
Rules = tuple[tuple[str, tuple[str | None, ...]], ...]

# The batch is split over these two axes and replicated over the third.
BATCH_AXES = ('data', 'fsdp')
AXES = (*BATCH_AXES, 'tensor')

# How transformer layers are split over the axis `tensor` (Shoeybi et al. 2019, arXiv:1909.08053).
# The first matrix of a branch is split by its outputs (attention: by heads) and the second by its
# inputs, so each branch needs one sum over devices. The axes are those of the last dimensions:
# stacked layers have one more dimension in front.
TENSOR: Rules = (
    ('(qkv|key_value)/kernel', (None, None, 'tensor')),
    ('(qkv|key_value)/bias', (None, 'tensor')),
    ('(attention|map)/out/kernel', ('tensor', None)),
    ('map/query/kernel', (None, 'tensor')),
    ('map/query/bias', ('tensor',)),
    ('mlp/up/kernel', (None, 'tensor')),
    ('mlp/up/bias', ('tensor',)),
    ('mlp/down/kernel', ('tensor', None)),
    ('token_VD', ('tensor', None)),
)
# Arrays with fewer entries are not split over `fsdp`: to gather one costs more time than it saves
# memory (ours).
SMALLEST_SPLIT = 2**16


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """The number of devices along each axis; -1 takes all that are left.

    `default_axes` says which arrays are split over which axis, unless `config.sharding` does.

    data: copies of the model, each with its part of the batch.
    fsdp: splits the batch, and the parameters and the optimizer state too.
    tensor: splits the layers of transformers.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh of these devices, or of all devices for None.

        Raises UserError if the shape does not fit them.
        """
        sizes = [self.data, self.fsdp, self.tensor]
        total = jax.device_count() if devices is None else len(devices)
        fixed = math.prod(size for size in sizes if size > 0)
        if sizes.count(-1) == 1 and total % fixed == 0:
            sizes[sizes.index(-1)] = total // fixed
        if math.prod(sizes) != total or min(sizes) < 1:
            raise UserError(
                f'config.mesh {dataclasses.asdict(self)} does not fit {total} devices. '
                'Give sizes whose product is that number; one of them may be -1.'
            )
        types = (AxisType.Auto,) * 3
        try:
            return jax.make_mesh(sizes, AXES, axis_types=types, devices=devices)
        except NotImplementedError:
            # On a TPU slice, where no axis of the slice has such a size: one of them is split.
            placed = mesh_utils.create_device_mesh(
                sizes, devices or jax.devices(), allow_split_physical_axes=True
            )
            return Mesh(placed, AXES, axis_types=types)


def replicated_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding that keeps a copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The sharding that splits examples over the axes `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch_size(name: str, size: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Raises UserError if the batch of a stream does not split evenly."""
    parts = mesh.shape['data'] * mesh.shape['fsdp']
    if size % (parts * microbatches):
        what = (
            f'{microbatches} microbatches on each of {parts} devices'
            if microbatches > 1
            else 'one for each device'
        )
        raise UserError(
            f'config.streams.{name}.batch_size={size} cannot be cut into {parts * microbatches} '
            f'equal parts, {what}. Give a multiple of it.'
        )


@functools.lru_cache
def find_rows(mesh: Mesh, size: int, process: int | None = None) -> np.ndarray:
    """The rows of a batch of `size` examples that a process holds on its devices, int64, sorted.

    They need not follow each other: on a TPU slice a mesh goes through the devices of several
    processes by turns. Processes that share the axis `tensor` hold the same rows.

    process: its number; None for this process.
    """
    process = jax.process_index() if process is None else process
    rows_of = batch_sharding(mesh).devices_indices_map((size,))
    own = [device for device in mesh.devices.flat if device.process_index == process]
    return np.unique([np.arange(size)[rows_of[device]] for device in own])


@functools.lru_cache
def is_first_holder(mesh: Mesh, size: int) -> np.ndarray:
    """Whether each of this process's rows is held by no process before it, bool [rows].

    Each row of a batch is so for one process, which counts it.
    """
    before = [find_rows(mesh, size, process) for process in range(jax.process_index())]
    return ~np.isin(find_rows(mesh, size), np.concatenate([[-1], *before]))


def count_global_rows(mesh: Mesh, rows: int) -> int:
    """The size of a global batch of which this process holds a number of rows."""
    parts = mesh.shape['data'] * mesh.shape['fsdp']
    return rows * parts // len(find_rows(mesh, parts))


def describe_mesh(mesh: Mesh) -> str:
    """The devices in words: `4 processes x 8 gpu; data=32; each process reads 1/4 of a batch`."""
    shape = ', '.join(f'{axis}={size}' for axis, size in mesh.shape.items() if size > 1)
    words = [f'{jax.local_device_count()} {jax.default_backend()}', *([shape] if shape else [])]
    if jax.process_count() > 1:
        words[0] = f'{jax.process_count()} processes x {words[0]}'
        parts = mesh.shape['data'] * mesh.shape['fsdp']
        share = fractions.Fraction(len(find_rows(mesh, parts)), parts)
        words.append(f'each process reads {share if share < 1 else "all"} of a batch')
    return '; '.join(words)


def make_global_batch(batch: Any, mesh: Mesh) -> Any:
    """The rows of this process, as `find_rows` orders them -> arrays of the global batch."""
    sharding = batch_sharding(mesh)

    def place(x: np.ndarray) -> Array:
        if sharding.is_fully_addressable:
            return jax.device_put(x, sharding)
        size = count_global_rows(mesh, len(x))

        def take(part: Any) -> np.ndarray:
            # The rows of a device follow each other in the batch, so also among the process's.
            start, stop, _ = part[0].indices(size)
            first = np.searchsorted(find_rows(mesh, size), start)
            return x[first : first + stop - start]

        return jax.make_array_from_callback((size, *x.shape[1:]), sharding, take)

    return jax.tree.map(place, batch)


def check_rules(rules: Rules) -> None:
    """Raises UserError for a rule of another form, or that names an axis that meshes lack."""
    for rule in rules:
        match rule:
            case (str(), tuple(axes)) if set(axes) <= {None, *AXES}:
                continue
        raise UserError(
            f'config.sharding has {rule!r}, which is no pair of a pattern and axes of '
            f'{", ".join(AXES)} or None. An example of the whole: '
            "(('token_VD', (None, 'fsdp')),)."
        )


def tree_sharding(tree: Any, rules: Rules, mesh: Mesh) -> Any:
    """The sharding of each array of a tree: by the first rule found in its path, or the default.

    Raises UserError if an axis does not divide the dimension that a rule splits over it.
    """
    specs = _find_specs(tree, rules, dict(mesh.shape))
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def constrain(tree: Any, rules: Rules) -> Any:
    """The tree, inside a jitted function, with the shardings of `tree_sharding`.

    Without a mesh in context (`jax.set_mesh`) it stays where it is.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, _find_specs(tree, rules, dict(mesh.shape)))


def constrain_batch(x: Array, dim: int = 0) -> Array:
    """The array, inside a jitted function, with its examples along `dim` split over the devices."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    spec = PartitionSpec(*(None,) * dim, BATCH_AXES)
    return jax.lax.with_sharding_constraint(x, spec)


def gather(x: Array) -> Array:
    """The array, inside a jitted function, replicated on every device."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def _find_specs(tree: Any, rules: Rules, sizes: dict[str, int]) -> Any:
    def find_spec(path: tuple, value: Array) -> PartitionSpec:
        name, shape = jax.tree_util.keystr(path, simple=True, separator='/'), np.shape(value)
        axes = next((axes for pattern, axes in rules if re.search(pattern, name)), None)
        if axes is None:
            return _make_spec(choose_axes(name, shape, sizes), sizes)
        for size, axis in zip(shape, axes):
            if axis is not None and size % sizes[axis]:
                raise UserError(
                    f'config.sharding splits {name} {shape} over {axis}={sizes[axis]}, '
                    f'which does not divide {size}.'
                )
        return _make_spec(axes[: len(shape)], sizes)

    return jax.tree.map_with_path(find_spec, tree)


def _make_spec(axes: Sequence[str | None], sizes: dict[str, int]) -> PartitionSpec:
    """The partition in the form that XLA gives it: no axes of one device, no None at the end.

    In another form, the outputs of the first step would compile the second step anew.
    """
    split = [axis if axis and sizes[axis] > 1 else None for axis in axes]
    while split and split[-1] is None:
        split.pop()
    return PartitionSpec(*split)


def choose_axes(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> list[str | None]:
    """The mesh axis of each dimension of an array that no rule matches.

    The axis `tensor` follows the table `TENSOR`; `fsdp` splits the largest dimension that is not
    split yet and that it divides.
    """
    axes: list[str | None] = [None] * len(shape)
    if sizes['tensor'] > 1:
        tails = [tail for pattern, tail in TENSOR if re.search(pattern, name)]
        tail: tuple[str | None, ...] = tails[0] if tails else ()
        start = len(shape) - len(tail)
        fits = start >= 0 and all(
            axis is None or shape[start + number] % sizes[axis] == 0
            for number, axis in enumerate(tail)
        )
        if fits:
            axes[start:] = tail
    if sizes['fsdp'] > 1 and math.prod(shape) >= SMALLEST_SPLIT:
        # Not the first dimension of stacked layers: each step of the loop over them needs one.
        free = [
            dim
            for dim in range('/blocks/' in name, len(shape))
            if axes[dim] is None and shape[dim] % sizes['fsdp'] == 0
        ]
        if free:
            axes[max(free, key=lambda dim: shape[dim])] = 'fsdp'
    return axes
