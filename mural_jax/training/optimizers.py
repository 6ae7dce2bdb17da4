"""Optimizers from optax parts; what differs between parameters goes by path pattern."""

import dataclasses
import re
from typing import Any

import jax
import optax

from mural_jax.types import UserError

# What turns a gradient into a direction; weight decay and the learning rate come after it.
DIRECTIONS = {
    'adamw': optax.scale_by_adam,
    'lamb': optax.scale_by_adam,
    'adafactor': lambda b1, b2, eps, mu_dtype: optax.chain(
        optax.scale_by_factored_rms(decay_rate=0.8),  # Shazeer & Stern 2018, arXiv:1804.04235
        optax.clip_by_block_rms(1.0),
        optax.ema(b1, debias=False, accumulator_dtype=mu_dtype) if b1 else optax.identity(),
    ),
}
MOMENTUM_DTYPES = ('float32', 'bfloat16')
DECAYS = ('linear', 'cosine')

# Ordered (pattern, value): the first pattern found in a parameter's path gives its value.
Patterns = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer with its schedule.

    kind: 'adamw', 'lamb' (You et al. 2020, arXiv:1904.00962) or 'adafactor'.
    learning_rate: the peak. warmup_steps: of a linear rise from 0. decay: 'linear' or 'cosine',
    to 0 at the last step. b1, b2, eps: Adam's; Adafactor takes b1 alone. clip_norm: largest norm
    of the gradient, 0 for no limit. momentum_dtype: what the first moment is kept in, 'float32' or
    'bfloat16'. The second stays float32: at b2 = 0.999 a step changes it by less than bfloat16
    can tell apart.
    offload: the state waits in the host's memory while towers run; for memory, at a price in time.
    weight_decay, multipliers: (pattern, value) lists; a path that nothing matches decays by 0
    and learns at 1. A multiplier of 0 freezes: such an array gets no gradient and no optimizer
    state, and a tower all of whose arrays are frozen runs as in evaluation (a locked tower, LiT,
    Zhai et al. 2022, arXiv:2111.07991).
    """

    kind: str
    learning_rate: float
    warmup_steps: int
    decay: str = 'cosine'
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    clip_norm: float = 1.0
    momentum_dtype: str = 'float32'
    offload: bool = False
    weight_decay: Patterns = ()
    multipliers: Patterns = ()

    def __post_init__(self) -> None:
        if self.kind not in DIRECTIONS:
            raise UserError(f'No optimizer {self.kind!r}; there are {sorted(DIRECTIONS)}.')
        if self.decay not in DECAYS:
            raise UserError(f'No decay {self.decay!r}; there are {DECAYS}.')
        if self.momentum_dtype not in MOMENTUM_DTYPES:
            raise UserError(
                f'No momentum_dtype {self.momentum_dtype!r}; there are {MOMENTUM_DTYPES}.'
            )

    def schedule(self, num_steps: int) -> optax.Schedule:
        """Step -> learning rate."""
        warmup = min(self.warmup_steps, num_steps)
        rest = max(num_steps - warmup, 1)
        if self.decay == 'linear':
            fall = optax.linear_schedule(self.learning_rate, 0.0, rest)
        else:
            fall = optax.cosine_decay_schedule(self.learning_rate, rest)
        rise = optax.linear_schedule(0.0, self.learning_rate, max(warmup, 1))
        return optax.join_schedules([rise, fall], [warmup])

    def build(self, num_steps: int) -> optax.GradientTransformation:
        """The whole update, gradients to steps."""
        parts = [optax.clip_by_global_norm(self.clip_norm)] if self.clip_norm else []
        direction = DIRECTIONS[self.kind]
        parts.append(direction(self.b1, self.b2, self.eps, mu_dtype=self.momentum_dtype))
        for value in sorted({value for _, value in self.weight_decay if value}):
            parts.append(optax.add_decayed_weights(value, self._having(self.weight_decay, value)))
        if self.kind == 'lamb':
            parts.append(trust_ratio_by_layer())
        for value in sorted({value for _, value in self.multipliers if value not in (0, 1)}):
            mask = self._having(self.multipliers, value)
            parts.append(optax.masked(optax.scale(value), mask))
        parts.append(optax.scale_by_learning_rate(self.schedule(num_steps)))
        update = optax.chain(*parts)
        if all(value for _, value in self.multipliers):
            return update
        choices = {True: optax.set_to_zero(), False: update}
        return optax.partition(choices, self._having(self.multipliers, 0.0))

    def frozen(self, params: Any) -> frozenset[str]:
        """The paths of the arrays that do not learn."""
        paths = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        return frozenset(path for path in paths if first_match(self.multipliers, path) == 0)

    def _having(self, patterns: Patterns, value: float) -> Any:
        """params -> tree of bool: whose first match has this value."""
        return lambda params: jax.tree.map_with_path(
            lambda path, _: first_match(patterns, path_name(path)) == value, params
        )


def trust_ratio_by_layer() -> optax.GradientTransformation:
    """LAMB's ratio |parameter| / |update|, for each layer of what is stacked under `blocks/`.

    Scalars go without: a temperature that starts at 1, whose logarithm is 0, would hardly move.
    """
    ratio = optax.scale_by_trust_ratio()

    def scale(path: tuple, update: Any, param: Any) -> Any:
        if not param.ndim:
            return update

        def one(update: Any, param: Any) -> Any:
            return ratio.update(update, optax.EmptyState(), param)[0]

        return (jax.vmap(one) if '/blocks/' in path_name(path) else one)(update, param)

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return jax.tree.map_with_path(scale, updates, params), state

    return optax.GradientTransformation(ratio.init, update)


def path_name(path: tuple) -> str:
    """('towers', 'text', 'token_VD') -> 'towers/text/token_VD'."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def first_match(patterns: Patterns, name: str) -> float | None:
    """The value of the first pattern found in `name`, None where there is none."""
    return next((value for pattern, value in patterns if re.search(pattern, name)), None)
