"""The mesh, where arrays live on it, and how a host's slice becomes part of a global batch."""

import dataclasses
import math
import re
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mural_jax.types import Array, UserError

# Ordered (pattern, axes): the first pattern found in an array's path gives the mesh axis of each
# of its dimensions, None for a dimension that is whole everywhere.
Rules = tuple[tuple[str, tuple[str | None, ...]], ...]


@dataclasses.dataclass(frozen=True)
class MeshShape:
    """Devices along each axis; -1 takes those that are left.

    data: copies of the model, each with its part of the batch. fsdp: the batch is split, and the
    parameters too. tensor: single matrices are split.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def build(self) -> Mesh:
        """Raises UserError where the shape does not fit the devices there are."""
        sizes = [self.data, self.fsdp, self.tensor]
        total = jax.device_count()
        fixed = math.prod(size for size in sizes if size > 0)
        if sizes.count(-1) == 1 and total % fixed == 0:
            sizes[sizes.index(-1)] = total // fixed
        if math.prod(sizes) != total or min(sizes) < 1:
            raise UserError(
                f'config.mesh {dataclasses.asdict(self)} does not fit {total} devices. '
                'Give sizes whose product is that number, one of them may be -1.'
            )
        return jax.make_mesh(sizes, ('data', 'fsdp', 'tensor'), axis_types=(AxisType.Auto,) * 3)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Examples over the axes `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def check_batch(name: str, size: int, mesh: Mesh) -> None:
    """Raises UserError where a batch cannot be cut evenly."""
    parts = mesh.shape['data'] * mesh.shape['fsdp']
    if size % parts:
        raise UserError(
            f'config.streams.{name}.batch_size={size} cannot be cut into {parts} equal parts, '
            'one for each device. Give a multiple of it.'
        )


def global_batch(batch: Any, mesh: Mesh) -> Any:
    """This host's slice of a batch (numpy arrays) -> arrays of the global batch."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def tree_sharding(tree: Any, rules: Rules, mesh: Mesh) -> Any:
    """Where each array of a tree lives; one that no rule matches is whole everywhere.

    Raises UserError where an axis does not divide the dimension it is to split.
    """

    def place(path: tuple, value: Array) -> NamedSharding:
        name = jax.tree_util.keystr(path, simple=True, separator='/')
        axes = next((axes for pattern, axes in rules if re.search(pattern, name)), ())
        for size, axis in zip(np.shape(value), axes):
            if axis is not None and size % mesh.shape[axis]:
                raise UserError(
                    f'config.sharding splits {name} {np.shape(value)} over {axis}='
                    f'{mesh.shape[axis]}, which does not divide {size}.'
                )
        return NamedSharding(mesh, PartitionSpec(*axes[: np.ndim(value)]))

    return jax.tree.map_with_path(place, tree)
