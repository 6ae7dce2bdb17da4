"""Which checkpoints stay on disk: policies for orbax."""

import dataclasses
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from orbax.checkpoint import checkpoint_managers as managers

from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class BestCheckpoints:
    """A rule: the checkpoints with the best values of a metric stay although newer ones came.

    metric: its name in `metrics.jsonl`; '' for no such checkpoints.
    mode: 'min' or 'max', which values are better.
    keep: number of checkpoints, at least 1.
    """

    metric: str = ''
    mode: Literal['min', 'max'] = 'min'
    keep: int = 1

    def __post_init__(self) -> None:
        if self.mode not in ('min', 'max') or self.keep < 1:
            raise UserError(
                f'mode={self.mode!r}, keep={self.keep}: the best checkpoints are those of the '
                "'min' or the 'max' of a metric, and at least 1 is kept."
            )

    def rank(self, metrics: Mapping[int, Mapping[str, Any]]) -> list[int]:
        """The steps from the best to the worst; among equals the newer one comes first.

        metrics: by step. Leaves out steps whose value is missing or not finite.
        """
        sign = 1 if self.mode == 'min' else -1
        values = {step: row.get(self.metric) for step, row in metrics.items()}
        finite = {
            step: sign * float(value)
            for step, value in values.items()
            if isinstance(value, int | float) and math.isfinite(value)
        }
        return sorted(finite, key=lambda step: (finite[step], -step))


@dataclasses.dataclass
class KeepBest(managers.PreservationPolicy):
    """Keeps the best checkpoints.

    Not orbax's own `BestN`, which ranks values that are not finite and fails if the metric is
    missing. `metrics`, by step, may grow later.
    """

    best: BestCheckpoints
    metrics: Mapping[int, Mapping[str, Any]]

    def should_preserve(
        self, checkpoints: Sequence[managers.PolicyCheckpointInfo], *, context: Any
    ) -> list[bool]:
        metrics = {info.step: self.metrics.get(info.step, {}) for info in checkpoints}
        best_steps = self.best.rank(metrics)[: self.best.keep]
        return [info.step in best_steps for info in checkpoints]


@dataclasses.dataclass
class KeepSteps(managers.PreservationPolicy):
    """Keeps the checkpoints of certain steps."""

    steps: Collection[int]

    def should_preserve(
        self, checkpoints: Sequence[managers.PolicyCheckpointInfo], *, context: Any
    ) -> list[bool]:
        return [info.step in self.steps for info in checkpoints]
