"""One training step: a pure function of the state and the batches."""

import dataclasses
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mural_jax.distributed.mesh import Rules, constrain
from mural_jax.models.functional import Params
from mural_jax.tasks.base import Task
from mural_jax.training.gradients import Loss, PenaltyTerm, accumulate_gradient, compute_gradient
from mural_jax.training.optimizers import path_name
from mural_jax.training.safety import Safety, UsualNorm
from mural_jax.types import Array, Batch


class State(NamedTuple):
    """Everything that training changes.

    `step` is the number of steps so far, int32; it includes skipped steps.
    """

    step: Array
    params: Params
    statistics: Params  # running statistics of batch norms
    optimizer: Any
    usual_norm: UsualNorm  # of gradients

    def trees(self) -> dict[str, Any]:
        """The named trees that a checkpoint holds.

        Inference reads `params` and `statistics` alone, so the optimizer stays out of them.
        """
        # The names are part of the checkpoint format.
        progress = {'step': self.step, 'optimizer': self.optimizer, 'usual': self.usual_norm}
        return {'params': self.params, 'statistics': self.statistics, 'progress': progress}

    @classmethod
    def from_trees(cls, trees: Mapping[str, Any]) -> 'State':
        """The inverse of `trees`."""
        progress = trees['progress']
        return cls(
            step=progress['step'],
            params=trees['params'],
            statistics=trees['statistics'],
            optimizer=progress['optimizer'],
            usual_norm=progress['usual'],
        )


@dataclasses.dataclass(frozen=True)
class Clamp:
    """The range of learned temperatures. 0.01 is the bound of CLIP (arXiv:2103.00020)."""

    lowest: float = 0.01
    highest: float = 1.0


def initial_state(
    params: Params,
    statistics: Params,
    optimizer: optax.GradientTransformation,
    optimizer_state: Any = None,
) -> State:
    """The state before the first step; initializes the optimizer unless its state is given."""
    if optimizer_state is None:
        optimizer_state = optimizer.init(params)
    return State(jnp.int32(0), params, statistics, optimizer_state, UsualNorm.zero())


class StepSpec(NamedTuple):
    """The static part of a training step; each stage of a run compiles its own.

    graphdef: structure of the model. tasks: (name, task) pairs, the terms of the loss.
    frozen: paths of parameters that get no gradient. hold_unused: parameters whose gradient is
    zero everywhere keep their value and their optimizer state, for a stage that does not train
    everything that the run trains. locked: towers that run as in evaluation. microbatches: parts
    of a batch that pass through the towers one after the other. rules: where arrays live on the
    mesh. offload: the optimizer state lives in host memory between steps.
    """

    graphdef: Any
    tasks: tuple[tuple[str, Task], ...]
    optimizer: optax.GradientTransformation
    clamp: Clamp
    frozen: frozenset[str] = frozenset()
    hold_unused: bool = False
    locked: frozenset[str] = frozenset()
    microbatches: int = 1
    rules: Rules = ()
    offload: bool = False
    safety: Safety = Safety()


def find_locked_towers(params: Params, frozen: frozenset[str]) -> frozenset[str]:
    """The names of the towers whose parameters are all frozen."""
    paths = [path_name(path).split('/') for path, _ in jax.tree.leaves_with_path(params)]
    paths = [path for path in paths if path[0] == 'towers']
    learning = {path[1] for path in paths if '/'.join(path) not in frozen}
    return frozenset(path[1] for path in paths) - learning


@partial(jax.jit, static_argnums=(0,), donate_argnums=(2,))
def train_step(
    spec: StepSpec,
    seed: Array,
    state: State,
    batches: Mapping[str, Batch],
    penalties: Mapping[str, PenaltyTerm] | None = None,
) -> tuple[State, dict[str, Array]]:
    """(next state, scalar logs) after one step over a batch of each stream.

    All randomness is a function of (seed, step, example), so checkpoints hold no random state.
    A gradient that `spec.safety` rejects changes nothing in the state but `step`. The input
    state is donated.
    """
    if spec.offload:
        state = state._replace(optimizer=jax.device_put(state.optimizer, jax.memory.Space.Device))
    gradient, logs, statistics = _compute_gradient(spec, seed, state, batches, penalties or {})
    norm = optax.tree.norm(gradient)
    accepted = state.usual_norm.accepts(norm, logs['loss'], spec.safety.spike)
    params, optimizer_state = _apply_gradient(spec, gradient, state)
    after = State(state.step, params, statistics, optimizer_state, state.usual_norm.update(norm))
    # A skipped step keeps the moments and the batch statistics too: one infinite value in them
    # would spoil every later step.
    after = jax.tree.map(lambda new, old: jnp.where(accepted, new, old), after, state)
    after = constrain(after._replace(step=state.step + 1), spec.rules)
    if spec.offload:
        after = after._replace(optimizer=jax.device_put(after.optimizer, jax.memory.Space.Host))
    return after, logs | {'gradient_norm': norm, 'skipped': (~accepted).astype(jnp.float32)}


def _compute_gradient(
    spec: StepSpec,
    seed: Array,
    state: State,
    batches: Mapping[str, Batch],
    penalties: Mapping[str, PenaltyTerm],
) -> tuple[Params, dict[str, Array], Params]:
    """(gradient, logs, batch statistics), in one pass or in microbatches."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    loss = Loss(
        spec.graphdef,
        dict(spec.tasks),
        spec.frozen,
        spec.locked,
        state.statistics,
        key,
        state.step,
        penalties,
    )
    if spec.microbatches > 1:
        return accumulate_gradient(loss, state.params, batches, spec.microbatches, spec.rules)
    gradient, logs, statistics = compute_gradient(loss, state.params, batches)
    return constrain(gradient, spec.rules), logs, statistics


def _apply_gradient(spec: StepSpec, gradient: Params, state: State) -> tuple[Params, Any]:
    """(parameters, optimizer state) after the optimizer's update and the clamp."""
    update, optimizer_state = spec.optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, update)
    if spec.hold_unused:
        # Momentum from an earlier stage and weight decay would move arrays without a gradient.
        params = _hold_unused(gradient, params, state.params)
        optimizer_state = _hold_unused(gradient, optimizer_state, state.optimizer)
    # The clamp comes after the update, not inside the loss: there, a temperature at the bound
    # would have no gradient and could never come back.
    low, high = jnp.log(spec.clamp.lowest), jnp.log(spec.clamp.highest)

    def clamp(path: tuple, value: Array) -> Array:
        is_temperature = re.fullmatch('spaces/[^/]+/log_temperature', path_name(path))
        return jnp.clip(value, low, high) if is_temperature else value

    return jax.tree.map_with_path(clamp, params), optimizer_state


def _hold_unused(gradient: Params, new: Any, old: Any) -> Any:
    """`new` with the old values of parameters, or of their moments, without any gradient.

    The optimizer keeps its moments in trees of the parameters' form, so a moment's path ends in
    the path of its parameter.
    """
    used = {path_name(path): jnp.any(x != 0) for path, x in jax.tree.leaves_with_path(gradient)}

    def choose(path: tuple, new: Array, old: Array) -> Array:
        parts = path_name(path).split('/')
        tails = ('/'.join(parts[start:]) for start in range(len(parts)))
        parameter = next((tail for tail in tails if tail in used), None)
        # A counter of steps belongs to no parameter.
        return new if parameter is None else jnp.where(used[parameter], new, old)

    return jax.tree.map_with_path(choose, new, old)
