"""How long a run trains, and how often it reports and saves."""

import dataclasses
from typing import Annotated

from mural_jax.config.changes import MEANS
from mural_jax.types import UserError
from mural_jax.workdir.retention import BestCheckpoints


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The length of a run and its periods of logging and saving, in steps.

    A run also saves when it gets a signal to stop.

    num_steps: steps of the whole run.
    log_every: steps per line of metrics.
    checkpoint_every: steps per checkpoint.
    checkpoint_minutes: also saves at the first line of metrics that comes this many minutes
    after the last checkpoint; 0 never does.
    keep: number of newest checkpoints that stay on disk.
    best: which checkpoints stay because of a metric in `metrics.jsonl`.
    """

    num_steps: int
    log_every: Annotated[int, MEANS]
    checkpoint_every: Annotated[int, MEANS]
    checkpoint_minutes: Annotated[float, MEANS] = 0.0
    keep: Annotated[int, MEANS] = 2
    best: Annotated[BestCheckpoints, MEANS] = BestCheckpoints()

    def __post_init__(self) -> None:
        if min(self.num_steps, self.log_every, self.checkpoint_every, self.keep) < 1:
            raise UserError('config.schedule: its numbers of steps and keep must be at least 1.')
        if self.checkpoint_minutes < 0:
            raise UserError('config.schedule.checkpoint_minutes must not be negative; 0 is never.')

    def is_log_step(self, step: int) -> bool:
        return step % self.log_every == 0 or step == self.num_steps

    def is_save_step(self, step: int) -> bool:
        return step % self.checkpoint_every == 0 or step == self.num_steps
