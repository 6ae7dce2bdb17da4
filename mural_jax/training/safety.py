"""Protection of a run against gradients that would harm it."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from mural_jax.types import Array, UserError

MEMORY = 0.99  # decay of the running mean of gradient norms, per step (ours)
# Steps in which no gradient counts as a spike, because norms still fall steeply (ours).
FIRST_STEPS = 100


@dataclasses.dataclass(frozen=True)
class Safety:
    """When a step is skipped, when a run goes back to a checkpoint, when it counts as stalled.

    A gradient that is not finite is never applied. The defaults are ours.

    spike: a gradient whose norm is more than `spike` times the usual norm is not applied either;
    0 applies every finite gradient.
    rollback_after: number of skipped steps in a row after which the run goes back to the newest
    checkpoint and continues with the data after the skipped batches (as Chowdhery et al. 2022,
    arXiv:2204.02311, section 5.1, did by hand); 0 never goes back.
    max_rollbacks: number of rollbacks in one process after which the run stops with an error.
    stall_minutes: minutes without progress after which the stacks of all threads are written
    out; 0 never writes them.
    """

    spike: float = 10.0
    rollback_after: int = 10
    max_rollbacks: int = 3
    stall_minutes: float = 15.0

    def __post_init__(self) -> None:
        if min(self.spike, self.rollback_after, self.max_rollbacks, self.stall_minutes) < 0:
            raise UserError('config.safety: no number may be negative; 0 turns a check off.')
        if 0 < self.spike <= 1:
            raise UserError(
                f'config.safety.spike={self.spike} would skip usual gradients; give a number '
                'above 1, for example 10, or 0 to apply every finite gradient.'
            )


class UsualNorm(NamedTuple):
    """The usual gradient norm: a running mean over the steps that were not skipped."""

    norm: Array  # float32
    count: Array  # int32, number of steps in the mean

    @classmethod
    def zero(cls) -> 'UsualNorm':
        return cls(jnp.float32(0), jnp.int32(0))

    def accepts(self, norm: Array, loss: Array, spike: float) -> Array:
        """Whether a gradient of this norm may be applied, bool."""
        finite = jnp.isfinite(norm) & jnp.isfinite(loss)
        if not spike:
            return finite
        return finite & ((self.count < FIRST_STEPS) | (norm <= spike * self.norm))

    def update(self, norm: Array) -> 'UsualNorm':
        """The mean with one more norm.

        A plain mean over the first steps, or the zero that it starts from would count for long.
        """
        share = jnp.maximum(1 - MEMORY, 1 / (self.count + 1.0))
        return UsualNorm(self.norm + share * (norm - self.norm), self.count + 1)


class RollbackNeeded(Exception):
    """Too many steps in a row were skipped: the run has to go back to a checkpoint."""


class SkippedSteps:
    """Counts skipped steps in a row, and lists each skipped step in a file."""

    def __init__(self, path: Path | None, rollback_after: int):
        """`path` is None on every process but one."""
        self.in_a_row = 0
        self._path, self._rollback_after = path, rollback_after

    def record(self, step: int, log: Mapping[str, float], positions: Mapping[str, int]) -> None:
        """Counts a step, and lists it with `positions`, where its batches begin, if skipped.

        Raises RollbackNeeded if it is the `rollback_after`-th skipped step in a row.
        """
        if not log['skipped']:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if self._path:
            line: dict[str, Any] = {'step': step, 'positions': dict(positions)}
            # As text: JSON has no NaN and no infinity.
            line |= {name: repr(float(log[name])) for name in ('loss', 'gradient_norm')}
            with self._path.open('a', encoding='utf-8') as file:
                file.write(json.dumps(line) + '\n')
        if self._rollback_after and self.in_a_row >= self._rollback_after:
            raise RollbackNeeded(
                f'{self.in_a_row} steps in a row were skipped, the last was {step}'
            )
