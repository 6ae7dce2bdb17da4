"""Scoring while a run trains, each evaluator with a period of its own."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mural_jax.distributed import processes
from mural_jax.evaluation import scores
from mural_jax.evaluation.evaluators.base import Evaluator
from mural_jax.evaluation.split_data import Sources

PREFIX = 'eval'  # of its metrics: eval/EVALUATOR/mean_GROUP/METRIC


@dataclasses.dataclass(frozen=True)
class Validation:
    """The evaluators of a run that have a period (`every`).

    opened: parameters and statistics of the run -> what evaluators ask for. folder: where
    `STEP.json` goes.
    """

    evaluators: Mapping[str, Evaluator]
    groups: scores.Groups
    opened: Callable[[Any, Any], Sources]
    folder: Path

    def due(self, step: int) -> list[str]:
        """The evaluators whose turn it is after a step."""
        return [
            name for name, one in self.evaluators.items() if one.every and step % one.every == 0
        ]

    def __call__(self, step: int, state: Any) -> dict[str, float]:
        """Scores those that are due, on all hosts; means over groups of languages, by metric."""
        chosen = {name: self.evaluators[name] for name in self.due(step)}
        found, _ = scores.score(
            chosen, self.groups, self.opened(state.params, state.statistics),
            self.folder / f'{step}.json', force=True, write=processes.is_first(),
        )  # fmt: skip
        return {
            metric: value for name in chosen for metric, value in flat(name, found.results[name])
        }


def flat(name: str, rows: Mapping[str, Mapping[str, float]]) -> list[tuple[str, float]]:
    """(metric as `metrics.jsonl` has it, value) of an evaluator's means, or of its only row."""
    means = {row: values for row, values in rows.items() if row.startswith('mean_')} or rows
    return [
        (f'{PREFIX}/{name}/{row}/{metric}', value)
        for row, values in means.items() for metric, value in values.items()
    ]  # fmt: skip
