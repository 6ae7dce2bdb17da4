"""Stages: a run as several trainings one after the other, each with its own tasks.

A stage is arithmetic on the one global step: which tasks are in the loss, which optimizer updates
and which streams advance follow from the step alone. So checkpoints hold nothing of stages, and a
resume is exact on both sides of a boundary.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple

from mural_jax.config.build import check_known, make
from mural_jax.config.changes import MEANS
from mural_jax.training.at_end import AT_END, EndAction
from mural_jax.training.optimizers import Optimizer
from mural_jax.training.trainer import Trainer
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """One stage as `config.stages.NAME` describes it.

    steps: length of the stage.
    after: name of the stage before; '' for the first one. (Configs sort their keys, so the order
    of stages cannot be that of the file.)
    tasks: names of the tasks in the loss; () for all tasks.
    optimizer: changes to `config.optimizer`. The learning-rate schedule runs over the steps of
    the stage, while the moments carry over from the stage before.
    at_end: actions after the last step, names in `training.at_end.AT_END`.
    """

    steps: int
    after: str = ''
    tasks: tuple[str, ...] = ()
    optimizer: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    at_end: Annotated[tuple[str, ...], MEANS] = ()


@dataclasses.dataclass(frozen=True)
class TrainingStage:
    """A stage with its place in the run: the steps `start + 1` to `end`.

    `name` is '' for a run without stages.
    """

    name: str
    start: int
    end: int
    tasks: tuple[str, ...]
    optimizer: Optimizer
    at_end: tuple[str, ...] = ()

    @property
    def num_steps(self) -> int:
        return self.end - self.start

    def freeze(self, pattern: str) -> 'TrainingStage':
        """The same stage, in which parameters whose path has the pattern do not learn."""
        multipliers = ((pattern, 0.0), *self.optimizer.multipliers)
        optimizer = dataclasses.replace(self.optimizer, multipliers=multipliers)
        return dataclasses.replace(self, optimizer=optimizer)

    @property
    def end_actions(self) -> list[EndAction]:
        return [AT_END[name] for name in self.at_end]


class StageProgram(NamedTuple):
    """A stage and the trainer that runs its steps."""

    stage: TrainingStage
    trainer: Trainer


def resolve_stages(
    settings: Mapping[str, StageSettings],
    optimizer: Optimizer,
    num_steps: int,
    tasks: Sequence[str],
) -> tuple[TrainingStage, ...]:
    """The stages of a run in their order; without settings, one stage with all tasks.

    Raises UserError if they form no chain, name what does not exist, change what has to stay the
    same, or do not add up to `num_steps`.
    """
    if not settings:
        return (TrainingStage('', 0, num_steps, tuple(tasks), optimizer),)
    stages: list[TrainingStage] = []
    start = 0
    for name in _order_by_after(settings):
        stage = settings[name]
        where = f'stages.{name}'
        if stage.steps < 1:
            raise UserError(f'config.{where}.steps={stage.steps} must be at least 1.')
        for task in stage.tasks:
            check_known(task, dict.fromkeys(tasks), f'{where}.tasks')
        for action in stage.at_end:
            check_known(action, AT_END, f'{where}.at_end')
        # In the order of the run's tasks: a task's random numbers depend on its place.
        active = tuple(task for task in tasks if task in stage.tasks or not stage.tasks)
        # The moments carry over, so each stage gets an optimizer with the same form of state.
        changed = _change_optimizer(optimizer, stage.optimizer, f'{where}.optimizer')
        end = start + stage.steps
        stages.append(TrainingStage(name, start, end, active, changed, stage.at_end))
        start = end
    if start != num_steps:
        raise UserError(
            f'config.stages have {start} steps together, and config.schedule.num_steps is '
            f'{num_steps}. Set it to {start}, or change the steps of a stage.'
        )
    return tuple(stages)


def _order_by_after(settings: Mapping[str, StageSettings]) -> list[str]:
    """The names of the stages from the first to the last. Raises UserError for no chain."""
    followers: dict[str, list[str]] = {}
    for name, stage in settings.items():
        if stage.after:
            check_known(stage.after, settings, f'stages.{name}.after')
        followers.setdefault(stage.after, []).append(name)
    for before, names in followers.items():
        if len(names) > 1:
            place = f'after {before!r}' if before else 'first (their `after` is empty)'
            raise UserError(
                f'config.stages: {" and ".join(map(repr, names))} both come {place}. Set `after` '
                'so that each stage follows another one.'
            )
    order: list[str] = []
    before = ''
    while before in followers:
        (before,) = followers[before]
        order.append(before)
    if len(order) < len(settings):
        left = sorted(settings.keys() - set(order))
        raise UserError(
            f'config.stages: {" and ".join(map(repr, left))} follow each other in a circle. Set '
            "`after=''` for the first stage."
        )
    return order


def _change_optimizer(optimizer: Optimizer, changes: Mapping[str, Any], where: str) -> Optimizer:
    """The optimizer with a stage's changes. Raises UserError if its state would not carry over."""
    fields = dataclasses.asdict(optimizer)
    changed: Optimizer = make(Optimizer, {**fields, **changes}, where)
    for name in ('kind', 'momentum_dtype', 'offload'):
        if getattr(changed, name) != fields[name]:
            raise UserError(
                f'config.{where}.{name}={getattr(changed, name)!r} must stay {fields[name]!r}: '
                'the state of the optimizer carries over from stage to stage.'
            )
    # Without momentum Adafactor has no first moment at all.
    if bool(changed.b1) != bool(optimizer.b1):
        raise UserError(f'config.{where}.b1={changed.b1}: either all stages have momentum or none.')
    return changed
