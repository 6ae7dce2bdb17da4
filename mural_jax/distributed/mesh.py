"""The mesh, where arrays live on it, and how a host's slice becomes part of a global batch."""

import dataclasses
import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mural_jax.types import Array, UserError

# Ordered (pattern, axes): the first pattern found in an array's path gives the mesh axis of each
# of its dimensions, None for a dimension that is whole everywhere.
Rules = tuple[tuple[str, tuple[str | None, ...]], ...]

# The batch is cut over these two, and whole along the third.
BATCH_AXES = ('data', 'fsdp')
AXES = (*BATCH_AXES, 'tensor')

# How transformer layers are split over the axis `tensor` (Shoeybi et al. 2019, arXiv:1909.08053):
# the first product of a branch by its outputs, attention by heads, the second by its inputs. Axes
# of the last dimensions: stacked layers have one more in front.
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
# Arrays with fewer entries stay whole: gathering one costs more time than it saves memory. Ours.
SMALLEST_SPLIT = 2**16


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis; -1 takes those that are left.

    data: copies of the model, each with its part of the batch. fsdp: the batch is split, and the
    parameters and the optimizer's state too. tensor: the layers of transformers are split. Where
    each array then lives is in `default_axes`, and `config.sharding` says otherwise.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def build(self, devices: Sequence[Any] | None = None) -> Mesh:
        """The mesh of these devices, all there are for None.

        Raises UserError where the shape does not fit them.
        """
        sizes = [self.data, self.fsdp, self.tensor]
        total = jax.device_count() if devices is None else len(devices)
        fixed = math.prod(size for size in sizes if size > 0)
        if sizes.count(-1) == 1 and total % fixed == 0:
            sizes[sizes.index(-1)] = total // fixed
        if math.prod(sizes) != total or min(sizes) < 1:
            raise UserError(
                f'config.mesh {dataclasses.asdict(self)} does not fit {total} devices. '
                'Give sizes whose product is that number, one of them may be -1.'
            )
        return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def whole(mesh: Mesh) -> NamedSharding:
    """A copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples over the axes `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def check_batch(name: str, size: int, mesh: Mesh, microbatches: int = 1) -> None:
    """Raises UserError where a batch cannot be cut evenly."""
    parts = mesh.shape['data'] * mesh.shape['fsdp']
    if size % (parts * microbatches):
        what = f'{microbatches} microbatches on each of {parts} devices'
        what = what if microbatches > 1 else 'one for each device'
        raise UserError(
            f'config.streams.{name}.batch_size={size} cannot be cut into {parts * microbatches} '
            f'equal parts, {what}. Give a multiple of it.'
        )


def global_batch(batch: Any, mesh: Mesh) -> Any:
    """This host's slice of a batch (numpy arrays) -> arrays of the global batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def tree_sharding(tree: Any, rules: Rules, mesh: Mesh) -> Any:
    """Where each array of a tree lives: the first rule that matches its path, else the default.

    Raises UserError where an axis does not divide the dimension that a rule splits over it.
    """
    specs = _specs(tree, rules, dict(mesh.shape))
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs)


def constrain(tree: Any, rules: Rules) -> Any:
    """The arrays, inside a jitted function, where `tree_sharding` puts them.

    Without a mesh in context (`jax.set_mesh`) they stay where they are.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    return jax.lax.with_sharding_constraint(tree, _specs(tree, rules, dict(mesh.shape)))


def constrain_batch(x: Array, dim: int = 0) -> Array:
    """An array, inside a jitted function, with its examples, along `dim`, over the devices."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    spec = PartitionSpec(*(None,) * dim, BATCH_AXES)
    return jax.lax.with_sharding_constraint(x, spec)


def gather(x: Array) -> Array:
    """An array, inside a jitted function, whole on every device."""
    if jax.sharding.get_abstract_mesh().empty:
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec())


def _specs(tree: Any, rules: Rules, sizes: dict[str, int]) -> Any:
    def place(path: tuple, value: Array) -> PartitionSpec:
        name, shape = jax.tree_util.keystr(path, simple=True, separator='/'), np.shape(value)
        axes = next((axes for pattern, axes in rules if re.search(pattern, name)), None)
        if axes is None:
            return _spec(default_axes(name, shape, sizes), sizes)
        for size, axis in zip(shape, axes):
            if axis is not None and size % sizes[axis]:
                raise UserError(
                    f'config.sharding splits {name} {shape} over {axis}={sizes[axis]}, '
                    f'which does not divide {size}.'
                )
        return _spec(axes[: len(shape)], sizes)

    return jax.tree.map_with_path(place, tree)


def _spec(axes: Sequence[str | None], sizes: dict[str, int]) -> PartitionSpec:
    """As XLA writes it, or the second step would be compiled anew for another name of the same."""
    named = [axis if axis and sizes[axis] > 1 else None for axis in axes]
    while named and named[-1] is None:
        named.pop()
    return PartitionSpec(*named)


def default_axes(name: str, shape: tuple[int, ...], sizes: dict[str, int]) -> list[str | None]:
    """The mesh axis of each dimension of an array that no rule matches.

    Over `tensor` as `TENSOR` says; over `fsdp` the largest dimension that is still whole and that
    the axis divides. Layers of a stack stay together: each step of a loop over them takes one.
    """
    axes: list[str | None] = [None] * len(shape)
    if sizes['tensor'] > 1:
        split = [tail for pattern, tail in TENSOR if re.search(pattern, name)]
        tail: tuple[str | None, ...] = split[0] if split else ()
        start = len(shape) - len(tail)
        fits = start >= 0 and all(
            axis is None or shape[start + number] % sizes[axis] == 0
            for number, axis in enumerate(tail)
        )
        if fits:
            axes[start:] = tail
    if sizes['fsdp'] > 1 and math.prod(shape) >= SMALLEST_SPLIT:
        free = [
            dim for dim in range('/blocks/' in name, len(shape))
            if axes[dim] is None and shape[dim] % sizes['fsdp'] == 0
        ]  # fmt: skip
        if free:
            axes[max(free, key=lambda dim: shape[dim])] = 'fsdp'
    return axes
