"""Scores as the report shows them, one section for each evaluator.

A section has means over groups, scores by language, all metrics, and differences between runs.
"""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mural_jax.evaluation.evaluators.base import MEAN
from mural_jax.evaluation.report.comparison import Comparison, Difference, RunScores, compare_runs
from mural_jax.evaluation.scores import ALL, Groups

NICE = (1, 2, 5, 10, 20, 25, 50, 100)  # the values at which an axis may end
UNGROUPED = 'other languages'  # the group of languages that are in no group
_DIRECTION = re.compile(r'(.+)_to_(.+)_(?:r\d+|mean_rank|median_rank)')


class Cell(NamedTuple):
    """A value of one run, with the ends of its interval, NaN if it has none."""

    value: float
    low: float
    high: float


class TableRow(NamedTuple):
    """A language, or a group's mean over `members` languages.

    cells: one for each run, None for a run without a score.
    """

    name: str
    cells: list[Cell | None]
    members: int = 0


class Axis(NamedTuple):
    """The ends of a drawn track, and the decimals of its numbers."""

    low: float
    high: float
    digits: int

    def position(self, value: float) -> float:
        """Returns where a value stands, in percent of the track."""
        return min(max(100 * (value - self.low) / (self.high - self.low), 0.0), 100.0)


class Differences(NamedTuple):
    """How the run number `run` differs from the first one: its means, and languages by group."""

    run: int
    comparison: Comparison
    axis: Axis
    means: list[tuple[str, Difference]]
    groups: dict[str, list[tuple[str, Difference]]]


class Section(NamedTuple):
    """What the page shows of one evaluator.

    summary: the columns of the page's first table.
    tables: for each run (metrics, {row: its cells}).
    protocol: for each entry a value for each run, or a single one if they agree.
    """

    name: str
    metric: str
    summary: dict[str, str]
    axis: Axis
    means: list[TableRow]
    groups: dict[str, list[TableRow]]
    tables: list[tuple[list[str], dict[str, list[Cell | None]]]]
    protocol: dict[str, list[Any]]
    differences: list[Differences]


def build_sections(runs: Sequence[RunScores], groups: Groups) -> list[Section]:
    """Returns a section for each evaluator of any run, in the order of the runs."""
    names = dict.fromkeys(name for run in runs for name, rows in run.scores.results.items() if rows)
    return [_build_section(name, runs, _groups_of(name, runs) or groups) for name in names]


def merge_groups(each: Sequence[Groups]) -> dict[str, list[str]]:
    """Returns the groups of all runs, each with the languages that any run has in it."""
    merged: dict[str, dict[str, None]] = {}
    for groups in each:
        for name, members in groups.items():
            merged.setdefault(name, {}).update(dict.fromkeys(members))
    return {name: list(members) for name, members in merged.items()}


def scored_members(languages: Sequence[str], groups: Groups) -> dict[str, list[str]]:
    """Returns {mean_GROUP: its languages among the given ones}, with all of them as mean_all.

    A group that is itself called `all` takes precedence.
    """
    members = {f'{MEAN}{name}': [x for x in own if x in languages] for name, own in groups.items()}
    return {f'{MEAN}{ALL}': list(languages)} | members


def split_by_group(languages: Sequence[str], groups: Groups) -> dict[str, list[str]]:
    """Returns each language once, in the first group that has it, without empty groups."""
    left = list(languages)
    # Groups may overlap, but the page shows each language once.
    split: dict[str, list[str]] = {}
    for name, members in groups.items():
        split[name] = [x for x in left if x in members]
        left = [x for x in left if x not in members]
    split[UNGROUPED if any(split.values()) else 'languages'] = left
    return {name: own for name, own in split.items() if own}


def _groups_of(name: str, runs: Sequence[RunScores]) -> dict[str, list[str]]:
    """Returns the groups over which an evaluator has means; a suite has groups of its own.

    Without the group of all languages, which would hide the others.
    """
    # Not the groups of the run's config: a suite was scored over groups of its own.
    merged = merge_groups([run.scores.groups.get(name, {}) for run in runs])
    return {group: members for group, members in merged.items() if group != ALL}


def _build_section(name: str, runs: Sequence[RunScores], groups: Groups) -> Section:
    results = [run.scores.results.get(name, {}) for run in runs]
    metric = next(run.scores for run in runs if run.scores.results.get(name)).headline(name)
    rows = dict.fromkeys(row for own in results for row in own)
    languages = [row for row in rows if not row.startswith(MEAN)]
    members = scored_members(languages, groups)
    # A single row, such as `all`, stands in the place of means.
    single = languages if len(languages) == 1 else []
    means = [row for row in rows if row.startswith(MEAN)] or single
    # Cells of all runs first: they share one axis.
    shown = {row: [_cell(run, name, row, metric) for run in runs] for row in rows}
    axis = _fit_axis([cell for cells in shown.values() for cell in cells if cell is not None])
    split = split_by_group([x for x in languages if x not in means], groups)
    return Section(
        name,
        metric,
        _summarize(name, metric, runs),
        axis,
        [TableRow(row.removeprefix(MEAN), shown[row], len(members.get(row, ()))) for row in means],
        {group: _sort_rows([TableRow(x, shown[x]) for x in own]) for group, own in split.items()},
        [_metric_table(name, run) for run in runs],
        _compare_protocols(name, runs),
        [_compare(name, runs, other, groups, members) for other in range(1, len(runs))],
    )


def _sort_rows(rows: list[TableRow]) -> list[TableRow]:
    """Returns the rows with the best of the first run first."""

    def key(row: TableRow) -> tuple[float, ...]:
        return tuple(-cell.value if cell else np.inf for cell in row.cells)

    return sorted(rows, key=key)


def _cell(run: RunScores, name: str, row: str, metric: str) -> Cell | None:
    value = run.scores.results.get(name, {}).get(row, {}).get(metric)
    if value is None:
        return None
    ends = run.scores.intervals.get(name, {}).get(row, {}).get(metric)
    low, high = ends if ends else (np.nan, np.nan)
    return Cell(value, low, high)


def _fit_axis(cells: Sequence[Cell] | Sequence[Difference], symmetric: bool = False) -> Axis:
    """Returns an axis from zero to a round number, symmetric if there are negative values."""
    ends = [x for cell in cells for x in (cell.value, cell.low, cell.high) if np.isfinite(x)]
    largest = max([abs(x) for x in ends], default=1.0)
    # A round end makes the axes of different sections comparable at a glance.
    high = float(next((nice for nice in NICE if largest <= nice), np.ceil(largest)))
    low = -high if symmetric or min(ends, default=0) < 0 else 0.0
    return Axis(low, high, 1 if high > 1 else 3)


def _metric_table(name: str, run: RunScores) -> tuple[list[str], dict[str, list[Cell | None]]]:
    """Returns (all metrics of an evaluator, {row: its cells})."""
    rows = run.scores.results.get(name, {})
    metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    return metrics, {row: [_cell(run, name, row, metric) for metric in metrics] for row in rows}


def _summarize(name: str, metric: str, runs: Sequence[RunScores]) -> dict[str, str]:
    """Returns the columns of the page's table of what was measured."""
    run = next(run for run in runs if name in run.scores.results)
    # One run speaks for all: where protocols differ, the section itself says so.
    protocol, rows = run.scores.protocol.get(name, {}), run.scores.results[name]
    directions = dict.fromkeys(
        match.expand(r'\1 to \2').replace('_', ' ')
        for row in rows.values()
        for key in row
        if (match := _DIRECTION.fullmatch(key))
    )
    chance = protocol.get('chance') if metric == 'mean_recall' else None
    return {
        'protocol': str(protocol.get('name', '')),
        'metric': metric.replace('_', ' '),
        'direction': str(protocol.get('direction', ', '.join(directions))),
        'data': f'{protocol.get("dataset", "")}:{protocol.get("split", "")}',
        'languages': str(sum(not row.startswith(MEAN) for row in rows)),
        'items': str(protocol.get('items', '')),
        'chance': '' if chance is None else f'{chance:.2g}',
    }


def _compare_protocols(name: str, runs: Sequence[RunScores]) -> dict[str, list[Any]]:
    """Returns for each entry of the protocols its values, a single one if all runs agree."""
    protocols = [run.scores.protocol[name] for run in runs if name in run.scores.protocol]
    keys = dict.fromkeys(itertools.chain(*protocols))
    values = {key: [protocol.get(key, '') for protocol in protocols] for key in keys}
    return {
        key.replace('_', ' '): [_to_words(x) for x in (own[:1] if own[1:] == own[:-1] else own)]
        for key, own in values.items()
    }


def _to_words(value: Any) -> str:
    if isinstance(value, list):
        return ', '.join(map(str, value))
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def _compare(
    name: str,
    runs: Sequence[RunScores],
    other: int,
    groups: Groups,
    members: Mapping[str, Sequence[str]],
) -> Differences:
    """Returns how the run number `other` differs from the first one."""
    present = {row for run in runs for row in run.scores.results.get(name, {})}
    # Means that no run shows need no difference.
    means = {row.removeprefix(MEAN): own for row, own in members.items() if row in present}
    comparison = compare_runs(name, runs[0], runs[other], means)
    rows = comparison.rows
    order = sorted((x for x in rows if not x.startswith(MEAN)), key=lambda x: -rows[x].value)
    split = split_by_group(order, groups)
    return Differences(
        other,
        comparison,
        _fit_axis(list(rows.values()), symmetric=True),
        [(row.removeprefix(MEAN), rows[row]) for row in rows if row.startswith(MEAN)],
        {group: [(x, rows[x]) for x in own] for group, own in split.items()},
    )
