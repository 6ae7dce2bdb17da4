"""Scores a run during training, each evaluator with its own period."""

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from mural_jax.distributed import processes
from mural_jax.evaluation import scores
from mural_jax.evaluation.evaluators.base import MEAN, Evaluator
from mural_jax.evaluation.split_data import SplitData

PREFIX = 'eval'  # Metrics are named eval/EVALUATOR/mean_GROUP/METRIC.


@dataclasses.dataclass(frozen=True)
class RunValidator:
    """Runs the evaluators of a run that have a period (`every`).

    open_data: (parameters, batch statistics) -> what evaluators read.
    folder: the folder of `STEP.json`.
    """

    evaluators: Mapping[str, Evaluator]
    groups: scores.Groups
    open_data: Callable[[Any, Any], SplitData]
    folder: Path

    @property
    def names(self) -> Collection[str]:
        """All evaluators that may run during training."""
        return self.evaluators.keys()

    def due(self, step: int) -> list[str]:
        """Returns the evaluators to run after a step."""
        return [
            name for name, one in self.evaluators.items() if one.every and step % one.every == 0
        ]

    def __call__(self, step: int, state: Any, names: Collection[str]) -> dict[str, float]:
        """Runs some of the evaluators; returns their means over groups, by metric name.

        All processes must call this at the same step; the first one writes the files.
        """
        found, _ = scores.score(
            {name: self.evaluators[name] for name in names},
            self.groups,
            # The parameters of this step, still sharded over the mesh of training.
            self.open_data(state.params, state.statistics),
            self.folder / f'{step}.json',
            # A run that went back to an earlier checkpoint scores the step anew.
            force=True,
            write=processes.is_first(),
        )
        return {
            metric: value
            for name in names
            for metric, value in flatten_means(name, found.results[name])
        }


def flatten_means(name: str, rows: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    """Returns (metric as metrics.jsonl names it, value) of an evaluator's group means.

    An evaluator without group means has all its rows there.
    """
    # Languages one by one would flood the log of training.
    means = {row: values for row, values in rows.items() if row.startswith(MEAN)} or rows
    return [
        (f'{PREFIX}/{name}/{row}/{metric}', value)
        for row, values in means.items()
        for metric, value in values.items()
    ]
