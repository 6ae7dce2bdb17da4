"""A step on its mesh: the initial state, the step itself, and its compiled program."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from mural_jax.distributed.mesh import (
    batch_sharding,
    check_batch_size,
    count_global_rows,
    find_rows,
    make_global_batch,
    tree_sharding,
)
from mural_jax.tasks.base import Task
from mural_jax.training import step as training_step
from mural_jax.training.gradients import PenaltyTerm
from mural_jax.training.safety import UsualNorm
from mural_jax.training.step import State, StepSpec
from mural_jax.types import Array, Batch, UserError

HOST_ONLY = ('origin',)  # fields of a batch that stay on the host: a step does not use them


@dataclasses.dataclass(frozen=True)
class Trainer:
    """Runs the step of one stage on one mesh.

    penalties: terms of the loss over the parameters, by name.
    """

    spec: StepSpec
    seed: int
    mesh: Mesh
    penalties: Mapping[str, PenaltyTerm] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        kinds = {memory.kind for memory in self.mesh.devices.flat[0].addressable_memories()}
        if self.spec.offload and 'pinned_host' not in kinds:
            raise UserError(
                'config.optimizer.offload needs devices that can read host memory, and these have '
                f'only {sorted(kinds)}. Set it to False.'
            )

    @property
    def tasks(self) -> Mapping[str, Task]:
        return dict(self.spec.tasks)

    @property
    def streams(self) -> frozenset[str]:
        """The names of the streams that a step draws from."""
        return frozenset(task.stream for task in self.tasks.values())

    def check_batches(self, sizes: Mapping[str, int]) -> None:
        """Raises UserError if a global batch does not split evenly; `sizes` are by stream."""
        for name, size in sizes.items():
            check_batch_size(name, size, self.mesh, self.spec.microbatches)

    def shardings(self, state: State) -> State:
        """The sharding of each array of a state, which may hold shapes instead of arrays."""
        placed = tree_sharding(state, self.spec.rules, self.mesh)
        if self.spec.offload:
            # Only between steps: `train_step` moves it to the devices and back.
            host = jax.tree.map(lambda s: s.with_memory_kind('pinned_host'), placed.optimizer)
            placed = placed._replace(optimizer=host)
        return placed

    def abstract_state(self, params: Any, statistics: Any) -> State:
        """A state of `jax.ShapeDtypeStruct` with shardings; allocates nothing."""
        state = jax.eval_shape(
            lambda params, statistics: training_step.initial_state(
                params, statistics, self.spec.optimizer
            ),
            params,
            statistics,
        )
        return jax.tree.map(
            lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where),
            state,
            self.shardings(state),
        )

    def initial_state(self, params: Any, statistics: Any) -> State:
        """The state before the first step, on the mesh.

        Every process must pass the same parameters.
        """
        where = self.shardings(self.abstract_state(params, statistics))
        params = jax.tree.map(_put, params, where.params)
        statistics = jax.tree.map(_put, statistics, where.statistics)
        # Jitted with shardings: no device ever holds the whole optimizer state.
        init = jax.jit(
            lambda params: self.spec.optimizer.init(params), out_shardings=where.optimizer
        )
        first = training_step.initial_state(params, statistics, self.spec.optimizer, init(params))
        rest = jax.tree.map(_put, (first.step, first.usual_norm), (where.step, where.usual_norm))
        return first._replace(step=rest[0], usual_norm=rest[1])

    def begin_stage(self, state: State) -> State:
        """The state at the first step of a later stage.

        The learning-rate schedule starts again and so does the usual gradient norm, as the norms
        of other tasks may be far from those before. Parameters, batch statistics and the
        optimizer's moments stay as they are.
        """

        def restart(node: Any) -> Any:
            return jax.tree.map(_zero, node) if _is_schedule(node) else node

        return state._replace(
            optimizer=jax.tree.map(restart, state.optimizer, is_leaf=_is_schedule),
            usual_norm=UsualNorm(*map(_zero, state.usual_norm)),
        )

    def step(self, state: State, batches: Mapping[str, Batch]) -> tuple[State, dict[str, Any]]:
        """(next state, logs); `batches` are this process's rows of the global batches.

        Donates `state`.
        """
        placed = {name: self._place_batch(batch) for name, batch in batches.items()}
        with jax.set_mesh(self.mesh):
            return training_step.train_step(
                self.spec, np.uint32(self.seed), state, placed, self.penalties
            )

    def lower(self, state: State, batches: Mapping[str, Batch]) -> Any:
        """The step's program, `jax.stages.Lowered`, from shapes of a state and global batches."""
        sharding = batch_sharding(self.mesh)
        placed = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), dict(batches)
        )
        with jax.set_mesh(self.mesh):
            seed = jax.ShapeDtypeStruct((), np.uint32)
            return training_step.train_step.lower(self.spec, seed, state, placed, self.penalties)

    def _place_batch(self, batch: Batch) -> Batch:
        """A process's rows -> the global batch, in which `index` numbers the examples."""
        fields = {name: value for name, value in batch.items() if name not in HOST_ONLY}
        # An example's random numbers follow from its place in the global batch, so that they do
        # not depend on the number of processes.
        index = find_rows(self.mesh, count_global_rows(self.mesh, len(fields['ids'])))
        return make_global_batch(fields | {'index': index.astype(np.int32)}, self.mesh)


def _put(x: Array, sharding: Any) -> Array:
    """An array that all processes have -> the same array with a sharding."""
    whole = np.asarray(x)
    # Not `device_put`, which first compares the values of all processes.
    return jax.make_array_from_callback(x.shape, sharding, lambda part: whole[part])


def _zero(x: Array) -> Array:
    return _put(np.zeros(x.shape, x.dtype), x.sharding)


def _is_schedule(node: Any) -> bool:
    return isinstance(node, optax.ScaleByScheduleState)
