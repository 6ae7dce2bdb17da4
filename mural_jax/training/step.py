"""One step of training: a pure function of the state and the batches."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mural_jax.models.functional import Params, merge, statistics
from mural_jax.tasks import Task, total_loss
from mural_jax.training.optimizers import path_name
from mural_jax.types import Array, Batch


class State(NamedTuple):
    """All that training changes. `step` counts finished steps, int32."""

    step: Array
    params: Params
    statistics: Params  # of batch norms
    optimizer: Any

    def trees(self) -> dict[str, Any]:
        """What a checkpoint holds, by name: who serves a model needs the first two."""
        progress = {'step': self.step, 'optimizer': self.optimizer}
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


def init(params: Params, statistics: Params, optimizer: optax.GradientTransformation) -> State:
    """The state before the first step."""
    return State(jnp.int32(0), params, statistics, optimizer.init(params))


class Fixed(NamedTuple):
    """What a step is made of and does not change."""

    graphdef: Any
    tasks: tuple[tuple[str, Task], ...]
    optimizer: optax.GradientTransformation
    clamp: Clamp
    frozen: frozenset[str] = frozenset()  # paths of parameters that get no gradient
    locked: frozenset[str] = frozenset()  # towers that run as in evaluation


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

    Randomness is a function of (seed, step), so nothing random is stored. Temperatures are
    clamped after the update, not in the loss: a clamped one still has a gradient and comes back.
    """
    key = jax.random.fold_in(jax.random.key(seed), state.step)

    def hold(path: tuple, value: Array) -> Array:
        return jax.lax.stop_gradient(value) if path_name(path) in fixed.frozen else value

    def loss(params: Params) -> tuple[Array, tuple[dict[str, Array], Params]]:
        params = jax.tree.map_with_path(hold, params)
        model = merge(fixed.graphdef, params, state.statistics)
        total, logs = total_loss(model, dict(fixed.tasks), batches, key, fixed.locked)
        return total, (logs, statistics(model))

    gradient, (logs, passed) = jax.grad(loss, has_aux=True)(state.params)
    update, optimizer_state = fixed.optimizer.update(gradient, state.optimizer, state.params)
    params = optax.apply_updates(state.params, update)
    low, high = jnp.log(fixed.clamp.lowest), jnp.log(fixed.clamp.highest)
    params['log_temperature'] = jax.tree.map(
        lambda value: jnp.clip(value, low, high), params['log_temperature']
    )
    logs['gradient_norm'] = optax.tree.norm(gradient)
    return State(state.step + 1, params, passed, optimizer_state), logs
