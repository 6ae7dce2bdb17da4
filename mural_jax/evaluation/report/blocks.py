"""Scores as the report shows them: by evaluator means, languages, all metrics, differences."""

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mural_jax.evaluation.evaluators.base import MEAN
from mural_jax.evaluation.report.comparison import Comparison, Difference, Measured, compare
from mural_jax.evaluation.report.tables import headline
from mural_jax.evaluation.scores import ALL, Groups

NICE = (1, 2, 5, 10, 20, 25, 50, 100)  # where an axis may end
NOWHERE = 'other languages'  # those in no group
_DIRECTION = re.compile(r'(.+)_to_(.+)_(?:r\d+|mean_rank|median_rank)')


class Cell(NamedTuple):
    """A value of one run, with the ends of its interval, NaN where it has none."""

    value: float
    low: float
    high: float


class Row(NamedTuple):
    """A language, or the mean over so many; a cell for each run, None where it has no score."""

    name: str
    cells: list[Cell | None]
    members: int = 0


class Axis(NamedTuple):
    """What a track spans, and the decimals of its numbers."""

    low: float
    high: float
    digits: int

    def at(self, value: float) -> float:
        """Where a value stands, percent of the track."""
        return min(max(100 * (value - self.low) / (self.high - self.low), 0.0), 100.0)


class Differences(NamedTuple):
    """What separates another run from the first: rows by group, as long as they are compared."""

    run: int
    found: Comparison
    axis: Axis
    means: list[tuple[str, Difference]]
    groups: dict[str, list[tuple[str, Difference]]]


class Block(NamedTuple):
    """One evaluator. tables: by run (metrics, {row: their cells}). protocol: by key, a value for
    each run, or one where they agree."""

    name: str
    metric: str
    about: dict[str, str]
    axis: Axis
    means: list[Row]
    groups: dict[str, list[Row]]
    tables: list[tuple[list[str], dict[str, list[Cell | None]]]]
    protocol: dict[str, list[Any]]
    differences: list[Differences]


def blocks(runs: Sequence[Measured], groups: Groups) -> list[Block]:
    """A block for each evaluator of any run, in the order of the runs."""
    names = dict.fromkeys(name for run in runs for name, rows in run.found.results.items() if rows)
    return [_block(name, runs, _groups_of(name, runs) or groups) for name in names]


def _groups_of(name: str, runs: Sequence[Measured]) -> dict[str, list[str]]:
    """Those whose means an evaluator has, but for that of all languages; a suite has its own."""
    found = merged([run.found.groups.get(name, {}) for run in runs])
    return {group: members for group, members in found.items() if group != ALL}


def merged(each: Sequence[Groups]) -> dict[str, list[str]]:
    """The groups of all runs, each with the languages that any has in it."""
    found: dict[str, dict[str, None]] = {}
    for groups in each:
        for name, members in groups.items():
            found.setdefault(name, {}).update(dict.fromkeys(members))
    return {name: list(members) for name, members in found.items()}


def _block(name: str, runs: Sequence[Measured], groups: Groups) -> Block:
    results = [run.found.results.get(name, {}) for run in runs]
    metric = headline(next(iter(next(rows for rows in results if rows).values())))
    rows = dict.fromkeys(row for found in results for row in found)
    languages = [row for row in rows if not row.startswith(MEAN)]
    members = members_of(languages, groups)
    means = [row for row in rows if row.startswith(MEAN)] or (
        languages if len(languages) == 1 else []
    )
    shown = {row: [_cell(run, name, row, metric) for run in runs] for row in rows}
    axis = _axis([cell for cells in shown.values() for cell in cells if cell is not None])
    split = split_up([x for x in languages if x not in means], groups)
    return Block(
        name, metric, _about(name, metric, runs), axis,
        [Row(row.removeprefix(MEAN), shown[row], len(members.get(row, ()))) for row in means],
        {group: _sorted([Row(x, shown[x]) for x in own]) for group, own in split.items()},
        [_table(name, run) for run in runs], _protocol(name, runs),
        [_differences(name, runs, other, groups, members) for other in range(1, len(runs))],
    )  # fmt: skip


def members_of(languages: Sequence[str], groups: Groups) -> dict[str, list[str]]:
    """{mean_GROUP: its languages that have a score}; the group of all, where no other is so."""
    there = {f'{MEAN}{name}': [x for x in own if x in languages] for name, own in groups.items()}
    return {f'{MEAN}all': list(languages)} | there


def split_up(languages: Sequence[str], groups: Groups) -> dict[str, list[str]]:
    """Each language once, in the first group that has it."""
    left = list(languages)
    found: dict[str, list[str]] = {}
    for name, members in groups.items():
        found[name] = [x for x in left if x in members]
        left = [x for x in left if x not in members]
    found[NOWHERE if any(found.values()) else 'languages'] = left
    return {name: own for name, own in found.items() if own}


def _sorted(rows: list[Row]) -> list[Row]:
    """The best by the first run first."""

    def key(row: Row) -> tuple[float, ...]:
        return tuple(-cell.value if cell else np.inf for cell in row.cells)

    return sorted(rows, key=key)


def _cell(run: Measured, name: str, row: str, metric: str) -> Cell | None:
    value = run.found.results.get(name, {}).get(row, {}).get(metric)
    if value is None:
        return None
    ends = run.found.intervals.get(name, {}).get(row, {}).get(metric)
    low, high = ends if ends else (np.nan, np.nan)
    return Cell(value, low, high)


def _axis(cells: Sequence[Cell] | Sequence[Difference], both_sides: bool = False) -> Axis:
    """From zero to a round number; to both sides where there are negative values."""
    ends = [x for cell in cells for x in (cell.value, cell.low, cell.high) if np.isfinite(x)]
    most = max([abs(x) for x in ends], default=1.0)
    high = float(next((nice for nice in NICE if most <= nice), np.ceil(most)))
    low = -high if both_sides or min(ends, default=0) < 0 else 0.0
    return Axis(low, high, 1 if high > 1 else 3)


def _table(name: str, run: Measured) -> tuple[list[str], dict[str, list[Cell | None]]]:
    rows = run.found.results.get(name, {})
    metrics = list(dict.fromkeys(metric for row in rows.values() for metric in row))
    return metrics, {row: [_cell(run, name, row, metric) for metric in metrics] for row in rows}


def _about(name: str, metric: str, runs: Sequence[Measured]) -> dict[str, str]:
    """The columns of the page's table of what was measured."""
    run = next(run for run in runs if name in run.found.results)
    protocol, rows = run.found.protocol.get(name, {}), run.found.results[name]
    ways = dict.fromkeys(
        match.expand(r'\1 to \2').replace('_', ' ')
        for row in rows.values() for key in row if (match := _DIRECTION.fullmatch(key))
    )  # fmt: skip
    chance = protocol.get('chance') if metric == 'mean_recall' else None
    return {
        'protocol': str(protocol.get('name', '')),
        'metric': metric.replace('_', ' '),
        'direction': str(protocol.get('direction', ', '.join(ways))),
        'data': f'{protocol.get("dataset", "")}:{protocol.get("split", "")}',
        'languages': str(sum(not row.startswith(MEAN) for row in rows)),
        'items': str(protocol.get('items', '')),
        'chance': '' if chance is None else f'{chance:.2g}',
    }


def _protocol(name: str, runs: Sequence[Measured]) -> dict[str, list[Any]]:
    protocols = [run.found.protocol[name] for run in runs if name in run.found.protocol]
    keys = dict.fromkeys(itertools.chain(*protocols))
    values = {key: [protocol.get(key, '') for protocol in protocols] for key in keys}
    return {
        key.replace('_', ' '): [_words(x) for x in (own[:1] if own[1:] == own[:-1] else own)]
        for key, own in values.items()
    }


def _words(value: Any) -> str:
    if isinstance(value, list):
        return ', '.join(map(str, value))
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def _differences(
    name: str, runs: Sequence[Measured], other: int, groups: Groups,
    members: Mapping[str, Sequence[str]],
) -> Differences:  # fmt: skip
    present = {row for run in runs for row in run.found.results.get(name, {})}
    means = {row.removeprefix(MEAN): own for row, own in members.items() if row in present}
    found = compare(name, runs[0], runs[other], means)
    languages = [row for row in found.rows if not row.startswith(MEAN)]
    order = sorted(languages, key=lambda x: -found.rows[x].value)
    split = split_up(order, groups)
    return Differences(
        other, found, _axis(list(found.rows.values()), both_sides=True),
        [(row.removeprefix(MEAN), found.rows[row]) for row in found.rows if row.startswith(MEAN)],
        {group: [(x, found.rows[x]) for x in own] for group, own in split.items()},
    )  # fmt: skip
