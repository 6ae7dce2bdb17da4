"""What a stage does after its last step: a literal catalog of actions."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from mural_jax.training.feed import BatchStream
from mural_jax.training.step import State
from mural_jax.training.trainer import Trainer


class EndOfStage(NamedTuple):
    """The situation after the last step of a stage, for `EndAction.run`."""

    stage: str
    step: int
    trainer: Trainer
    state: State
    streams: Mapping[str, BatchStream]
    workdir: Path


@dataclasses.dataclass(frozen=True)
class EndAction:
    """One action at the end of a stage.

    keeps_checkpoint: the checkpoint of the stage's last step is never deleted.
    scores: every evaluator that runs while training scores the state, due or not.
    run: work of its own, on every process. It runs before the checkpoint of the last step is
    saved, so a run that is killed on the way does it again: it must overwrite what it wrote, and
    write nothing into the state.
    """

    keeps_checkpoint: bool = False
    scores: bool = False
    run: Callable[[EndOfStage], None] | None = None


AT_END = {'snapshot': EndAction(keeps_checkpoint=True), 'evaluate': EndAction(scores=True)}
