"""What a run does about gradients that would harm it."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp

from mural_jax.types import Array, UserError

MEMORY = 0.99  # of the mean of gradient norms, a step; ours
FIRST_STEPS = 100  # in which no gradient counts as a spike: their norms still fall. Ours.


@dataclasses.dataclass(frozen=True)
class Safety:
    """When a step is skipped, when a run goes back, and when it is taken to hang.

    A gradient that is not finite is never applied. spike: nor one whose norm is more than so many
    times the usual norm; 0 lets every finite one pass. rollback_after: so many skipped steps in a
    row, and the run goes back to the newest checkpoint and on with the data after the skipped
    (as Chowdhery et al. 2022, arXiv:2204.02311, section 5.1, did by hand); 0 never does.
    max_rollbacks: in one process, then it stops. stall_minutes: without a step, then all stacks are
    written out; 0 never. The defaults are ours.
    """

    spike: float = 10.0
    rollback_after: int = 10
    max_rollbacks: int = 3
    stall_minutes: float = 15.0

    def __post_init__(self) -> None:
        if min(self.spike, self.rollback_after, self.max_rollbacks, self.stall_minutes) < 0:
            raise UserError('config.safety: none of its numbers may be negative; 0 turns one off.')
        if 0 < self.spike <= 1:
            raise UserError(
                f'config.safety.spike={self.spike} would skip usual gradients; give more than 1, '
                'such as 10, or 0.'
            )


class Usual(NamedTuple):
    """The usual norm of gradients: a running mean over the steps that were not skipped."""

    norm: Array  # float32
    count: Array  # int32, steps

    @classmethod
    def none(cls) -> 'Usual':
        return cls(jnp.float32(0), jnp.int32(0))

    def accepts(self, norm: Array, loss: Array, spike: float) -> Array:
        """Whether a gradient of this norm may be applied, bool."""
        fine = jnp.isfinite(norm) & jnp.isfinite(loss)
        if not spike:
            return fine
        return fine & ((self.count < FIRST_STEPS) | (norm <= spike * self.norm))

    def seen(self, norm: Array) -> 'Usual':
        """With one norm more; the plain mean at first."""
        share = jnp.maximum(1 - MEMORY, 1 / (self.count + 1.0))
        return Usual(self.norm + share * (norm - self.norm), self.count + 1)


class RollBack(Exception):
    """Too many steps in a row were skipped."""


class Skipped:
    """Counts skipped steps in a row and lists each in a file, with where its batches begin."""

    def __init__(self, path: Path | None, rollback_after: int, in_a_row: int = 0):
        """`path` is None on all hosts but one."""
        self.in_a_row = in_a_row
        self._path, self._rollback_after = path, rollback_after

    def look(self, step: int, log: Mapping[str, float], positions: Mapping[str, int]) -> None:
        """Takes note of a step. Raises RollBack where it is one too many."""
        if not log['skipped']:
            self.in_a_row = 0
            return
        self.in_a_row += 1
        if self._path:
            line: dict[str, Any] = {'step': step, 'positions': dict(positions)}
            line |= {name: repr(float(log[name])) for name in ('loss', 'gradient_norm')}
            with self._path.open('a', encoding='utf-8') as file:
                file.write(json.dumps(line) + '\n')
        if self._rollback_after and self.in_a_row >= self._rollback_after:
            raise RollBack(f'{self.in_a_row} steps in a row were skipped, the last one {step}')
