"""One step of training: a pure function of the state and the batches."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mural_jax.distributed.mesh import Rules, constrain
from mural_jax.models.functional import Params
from mural_jax.tasks.base import Task
from mural_jax.training.gradients import Loss, in_parts, whole
from mural_jax.training.optimizers import path_name
from mural_jax.training.safety import Safety, Usual
from mural_jax.types import Array, Batch


class State(NamedTuple):
    """All that training changes. `step` counts steps, int32, skipped ones too."""

    step: Array
    params: Params
    statistics: Params  # of batch norms
    optimizer: Any
    usual: Usual  # norms of gradients so far

    def trees(self) -> dict[str, Any]:
        """What a checkpoint holds, by name: who serves a model needs the first two."""
        progress = {'step': self.step, 'optimizer': self.optimizer, 'usual': self.usual}
        return {'params': self.params, 'statistics': self.statistics, 'progress': progress}

    @classmethod
    def of(cls, trees: Mapping[str, Any]) -> 'State':
        """The state that `trees` was made of."""
        return cls(params=trees['params'], statistics=trees['statistics'], **trees['progress'])


@dataclasses.dataclass(frozen=True)
class Clamp:
    """Where learned temperatures stay. CLIP's bound (arXiv:2103.00020) is 0.01."""

    lowest: float = 0.01
    highest: float = 1.0


def init(
    params: Params, statistics: Params, optimizer: optax.GradientTransformation,
    optimizer_state: Any = None,
) -> State:  # fmt: skip
    """The state before the first step; the optimizer's is made where none is given."""
    if optimizer_state is None:
        optimizer_state = optimizer.init(params)
    return State(jnp.int32(0), params, statistics, optimizer_state, Usual.none())


class Fixed(NamedTuple):
    """What a step is made of and does not change."""

    graphdef: Any
    tasks: tuple[tuple[str, Task], ...]
    optimizer: optax.GradientTransformation
    clamp: Clamp
    frozen: frozenset[str] = frozenset()  # paths of parameters that get no gradient
    locked: frozenset[str] = frozenset()  # towers that run as in evaluation
    microbatches: int = 1  # parts that a batch is passed in
    rules: Rules = ()  # where arrays live on the mesh
    offload: bool = False  # the optimizer's state waits in the memory of the host
    safety: Safety = Safety()


def locked_towers(params: Params, frozen: frozenset[str]) -> frozenset[str]:
    """The towers whose every parameter is frozen."""
    paths = [path_name(path).split('/') for path, _ in jax.tree.leaves_with_path(params)]
    paths = [path for path in paths if path[0] == 'towers']
    learning = {path[1] for path in paths if '/'.join(path) not in frozen}
    return frozenset(path[1] for path in paths) - learning


@partial(jax.jit, static_argnums=(0,), donate_argnums=(2,))
def train_step(
    fixed: Fixed, seed: Array, state: State, batches: Mapping[str, Batch]
) -> tuple[State, dict[str, Array]]:
    """(state, batches of every stream) -> (next state, scalar logs).

    Randomness is a function of (seed, step, example), so nothing random is stored. Temperatures
    are clamped after the update, not in the loss: a clamped one still has a gradient and comes
    back. A gradient that `fixed.safety` does not let pass changes nothing but the step.
    """
    if fixed.offload:
        state = state._replace(optimizer=jax.device_put(state.optimizer, jax.memory.Space.Device))
    gradient, logs, passed = _gradient(fixed, seed, state, batches)
    norm = optax.tree.norm(gradient)
    fine = state.usual.accepts(norm, logs['loss'], fixed.safety.spike)
    params, optimizer_state = _update(fixed, gradient, state)
    after = State(state.step, params, passed, optimizer_state, state.usual.seen(norm))
    after = jax.tree.map(lambda new, old: jnp.where(fine, new, old), after, state)
    after = constrain(after._replace(step=state.step + 1), fixed.rules)
    if fixed.offload:
        after = after._replace(optimizer=jax.device_put(after.optimizer, jax.memory.Space.Host))
    return after, logs | {'gradient_norm': norm, 'skipped': (~fine).astype(jnp.float32)}


def _gradient(
    fixed: Fixed, seed: Array, state: State, batches: Mapping[str, Batch]
) -> tuple[Params, dict[str, Array], Params]:
    """(gradient, logs, batch statistics), in as many parts as the config says."""
    key = jax.random.fold_in(jax.random.key(seed), state.step)
    loss = Loss(
        fixed.graphdef, dict(fixed.tasks), fixed.frozen, fixed.locked, state.statistics, key
    )
    if fixed.microbatches > 1:
        return in_parts(loss, state.params, batches, fixed.microbatches, fixed.rules)
    gradient, logs, passed = whole(loss, state.params, batches)
    return constrain(gradient, fixed.rules), logs, passed


def _update(fixed: Fixed, gradient: Params, state: State) -> tuple[Params, Any]:
    """(parameters, optimizer state) after a gradient."""
    update, optimizer_state = fixed.optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, update)
    low, high = jnp.log(fixed.clamp.lowest), jnp.log(fixed.clamp.highest)
    clamped = jax.tree.map(
        lambda value: jnp.clip(value, low, high), params.get('log_temperature', {})
    )
    return params | ({'log_temperature': clamped} if clamped else {}), optimizer_state
