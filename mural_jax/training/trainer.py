"""What a run trains, on its mesh: the first state, a step, and the step's program."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mural_jax.distributed.mesh import batch_sharding, check_batch, global_batch, tree_sharding
from mural_jax.tasks.base import Task
from mural_jax.training import step as training_step
from mural_jax.training.step import Fixed, State
from mural_jax.types import Array, Batch, UserError

HOST_ONLY = ('origin',)  # fields of a batch that the step has no use for


@dataclasses.dataclass(frozen=True)
class Trainer:
    """All of it fixed before the first step."""

    fixed: Fixed
    seed: int
    mesh: Mesh

    def __post_init__(self) -> None:
        kinds = {memory.kind for memory in self.mesh.devices.flat[0].addressable_memories()}
        if self.fixed.offload and 'pinned_host' not in kinds:
            raise UserError(
                'config.optimizer.offload needs devices that read the memory of their host, and '
                f'these have {sorted(kinds)} alone. Set it to False.'
            )

    @property
    def tasks(self) -> Mapping[str, Task]:
        return dict(self.fixed.tasks)

    def check_batches(self, sizes: Mapping[str, int]) -> None:
        """Raises UserError where a stream's global batch cannot be cut evenly."""
        for name, size in sizes.items():
            check_batch(name, size, self.mesh, self.fixed.microbatches)

    def shardings(self, state: State) -> State:
        """Where each array of a state, or of its shapes, lives."""
        placed = tree_sharding(state, self.fixed.rules, self.mesh)
        if self.fixed.offload:
            host = jax.tree.map(lambda s: s.with_memory_kind('pinned_host'), placed.optimizer)
            placed = placed._replace(optimizer=host)
        return placed

    def abstract(self, params: Any, statistics: Any) -> State:
        """The shapes of a state, and where its arrays live; makes no array."""
        state = jax.eval_shape(
            lambda params, statistics: training_step.init(params, statistics, self.fixed.optimizer),
            params, statistics,
        )  # fmt: skip
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            state, self.shardings(state),
        )  # fmt: skip

    def place(self, params: Any, statistics: Any) -> State:
        """The first state. All hosts have to give the same parameters."""
        where = self.shardings(self.abstract(params, statistics))

        def put(x: Array, sharding: Any) -> Array:
            whole = np.asarray(x)
            return jax.make_array_from_callback(x.shape, sharding, lambda part: whole[part])

        params = jax.tree.map(put, params, where.params)
        statistics = jax.tree.map(put, statistics, where.statistics)
        start = jax.jit(
            lambda params: self.fixed.optimizer.init(params), out_shardings=where.optimizer
        )
        first = training_step.init(params, statistics, self.fixed.optimizer, start(params))
        rest = jax.tree.map(put, (first.step, first.usual), (where.step, where.usual))
        return first._replace(step=rest[0], usual=rest[1])

    def step(self, state: State, batches: Mapping[str, Batch]) -> tuple[State, dict[str, Any]]:
        """One step; `batches` are this host's slices of the global batches."""
        placed = {name: self._place_batch(batch) for name, batch in batches.items()}
        with jax.set_mesh(self.mesh):
            return training_step.train_step(self.fixed, np.uint32(self.seed), state, placed)

    def lower(self, state: State, batches: Mapping[str, Batch]) -> Any:
        """The program of a step, `jax.stages.Lowered`, for shapes of a state and global batches."""
        sharding = batch_sharding(self.mesh)
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), dict(batches)
        )
        with jax.set_mesh(self.mesh):
            seed = jax.ShapeDtypeStruct((), np.uint32)
            return training_step.train_step.lower(self.fixed, seed, state, placed)

    def _place_batch(self, batch: Batch) -> Batch:
        """A host's slice -> the global batch, each example with its `index` in it."""
        fields = {name: value for name, value in batch.items() if name not in HOST_ONLY}
        size = len(fields['ids'])
        index = np.arange(size, dtype=np.int32) + size * jax.process_index()
        return global_batch(fields | {'index': index}, self.mesh)
