"""Optimizers built from optax parts; path patterns select parameters with other settings."""

import dataclasses
import functools
import re
from collections.abc import Iterable
from typing import Annotated, Any

import jax
import optax

from mural_jax.config.changes import MEANS
from mural_jax.types import UserError

# The transformation from a gradient to a direction; weight decay and the learning rate follow it.
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

# Ordered (pattern, value): a parameter has the value of the first pattern found in its path.
Patterns = tuple[tuple[str, float], ...]


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optimizer with its learning-rate schedule.

    kind: 'adamw', 'lamb' (You et al. 2020, arXiv:1904.00962) or 'adafactor'.
    learning_rate: the peak of the schedule.
    warmup_steps: length of the linear rise from 0 to the peak.
    decay: 'linear' or 'cosine', from the peak to 0 at the last step.
    b1, b2, eps: the constants of Adam; Adafactor uses b1 alone.
    clip_norm: largest norm of the gradient; 0 for no limit.
    momentum_dtype: dtype of the first moment, 'float32' or 'bfloat16'. The second moment stays
    float32: at b2 = 0.999 one step changes it by less than bfloat16 can resolve.
    offload: keeps the optimizer state in host memory while the towers run; saves device memory
    and costs time.
    weight_decay, multipliers: (pattern, value) lists. A parameter that no pattern matches has
    weight decay 0 and learning-rate multiplier 1. A multiplier of 0 freezes: the parameter gets
    no gradient and no optimizer state, and a tower whose parameters are all frozen runs as in
    evaluation (a locked tower: LiT, Zhai et al. 2022, arXiv:2111.07991).
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
    offload: Annotated[bool, MEANS] = False
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
        for name in ('weight_decay', 'multipliers'):
            for pair in getattr(self, name):
                match pair:
                    case (str(), float() | int()):
                        continue
                raise UserError(
                    f'optimizer.{name} has {pair!r}, which is no pair of a pattern and a number. '
                    "An example of the whole: (('towers/image', 0.1),)."
                )

    def schedule(self, num_steps: int) -> optax.Schedule:
        """A function from the step, counted from 0, to the learning rate."""
        warmup = min(self.warmup_steps, num_steps)
        rest = max(num_steps - warmup, 1)
        if self.decay == 'linear':
            fall = optax.linear_schedule(self.learning_rate, 0.0, rest)
        else:
            fall = optax.cosine_decay_schedule(self.learning_rate, rest)
        rise = optax.linear_schedule(0.0, self.learning_rate, max(warmup, 1))
        return optax.join_schedules([rise, fall], [warmup])

    # Steps of equal settings then have the same functions, so that jax compiles them once.
    @functools.cache  # noqa: B019, an entry for each setting
    def build(
        self, num_steps: int, others: tuple['Optimizer', ...] = ()
    ) -> optax.GradientTransformation:
        """The transformation from gradients to updates.

        others: the optimizers of the other stages of a run. With them the state has a form that
        all of these optimizers share, so that one may continue with the state of another. A
        parameter then has optimizer state unless all of them freeze it.
        """
        family = (self, *others)
        parts = []
        if any(one.clip_norm for one in family):
            clip = optax.clip_by_global_norm(self.clip_norm) if self.clip_norm else optax.identity()
            parts.append(clip)
        direction = DIRECTIONS[self.kind]
        parts.append(direction(self.b1, self.b2, self.eps, mu_dtype=self.momentum_dtype))
        # One part for each value of any stage, even if no parameter of this stage has it: a part
        # more or less would be another form of state.
        for value in _distinct_values(one.weight_decay for one in family):
            if value:
                mask = self._match_value(self.weight_decay, value)
                parts.append(optax.add_decayed_weights(value, mask))
        if self.kind == 'lamb':
            parts.append(trust_ratio_by_layer())
        for value in _distinct_values(one.multipliers for one in family):
            if value not in (0, 1):
                mask = self._match_value(self.multipliers, value)
                parts.append(optax.masked(optax.scale(value), mask))
        parts.append(optax.scale_by_learning_rate(self.schedule(num_steps)))
        update = optax.chain(*parts)
        if any(all(value for _, value in one.multipliers) for one in family):
            return update
        return optax.partition({True: optax.set_to_zero(), False: update}, _match_frozen(family))

    def frozen(self, params: Any) -> frozenset[str]:
        """The paths of the parameters that do not learn."""
        paths = [path_name(path) for path, _ in jax.tree.leaves_with_path(params)]
        return frozenset(path for path in paths if first_match(self.multipliers, path) == 0)

    def _match_value(self, patterns: Patterns, value: float) -> Any:
        """A function from params to a tree of bool: whose first match has this value."""
        return lambda params: jax.tree.map_with_path(
            lambda path, _: first_match(patterns, path_name(path)) == value, params
        )


def _distinct_values(lists: Iterable[Patterns]) -> list[float]:
    return sorted({value for patterns in lists for _, value in patterns})


def _match_frozen(family: tuple[Optimizer, ...]) -> Any:
    """A function from params to a tree of bool: which of them every optimizer freezes."""

    def is_frozen(path: tuple, _: Any) -> bool:
        return all(first_match(one.multipliers, path_name(path)) == 0 for one in family)

    return lambda params: jax.tree.map_with_path(is_frozen, params)


def trust_ratio_by_layer() -> optax.GradientTransformation:
    """LAMB's scaling by |parameter| / |update|, layer by layer.

    Transformers stack their layers along the first dimension of the arrays under `blocks/`; each
    layer has its own ratio there, as it would in arrays of its own.
    """
    ratio = optax.scale_by_trust_ratio()

    def scale(path: tuple, update: Any, param: Any) -> Any:
        # Scalars stay as they are: a temperature of 1 has the logarithm 0, so its ratio would
        # be near 0 and it would hardly move.
        if not param.ndim:
            return update

        def scale_layer(update: Any, param: Any) -> Any:
            return ratio.update(update, optax.EmptyState(), param)[0]

        stacked = '/blocks/' in path_name(path)
        return (jax.vmap(scale_layer) if stacked else scale_layer)(update, param)

    def update(updates: Any, state: Any, params: Any) -> tuple[Any, Any]:
        return jax.tree.map_with_path(scale, updates, params), state

    return optax.GradientTransformation(ratio.init, update)


def path_name(path: tuple) -> str:
    """('towers', 'text', 'token_VD') -> 'towers/text/token_VD'."""
    return jax.tree_util.keystr(path, simple=True, separator='/')


def first_match(patterns: Patterns, name: str) -> float | None:
    """The value of the first pattern found in `name`, or None if no pattern is found."""
    return next((value for pattern, value in patterns if re.search(pattern, name)), None)
