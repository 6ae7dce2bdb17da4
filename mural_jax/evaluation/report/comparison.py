"""Whether two runs differ: a paired bootstrap over the items that both were scored on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mural_jax.evaluation.evaluators.base import MEAN
from mural_jax.evaluation.metrics import bootstrap
from mural_jax.evaluation.metrics.bootstrap import DRAWS, Samples, chance_of_no_difference, interval
from mural_jax.evaluation.metrics.recall import combined
from mural_jax.evaluation.report.tables import headline
from mural_jax.evaluation.scores import Found, Groups

LEVEL = 0.05  # of the tests; ours
# What a protocol says of the model, not of what is asked of it; languages are compared one by one.
OF_THE_MODEL = ('head', 'languages')

BySamples = Mapping[str, Sequence[Samples]]


class Measured(NamedTuple):
    """A run's scores, and by evaluator (number of items, {language: samples})."""

    found: Found
    samples: Mapping[str, tuple[int, BySamples]]


class Difference(NamedTuple):
    """The second run minus the first, its 95% interval, and p of no difference.

    adjusted: p after Holm's correction over the languages, NaN for the mean of a group.
    """

    value: float
    low: float
    high: float
    p: float
    adjusted: float

    @property
    def holds(self) -> bool:
        """Whether it stands after the correction; of a mean, without one."""
        return (self.p if np.isnan(self.adjusted) else self.adjusted) <= LEVEL


class Comparison(NamedTuple):
    """Of one evaluator: differences of `metric` by language and `mean_GROUP`, or why not."""

    metric: str
    rows: dict[str, Difference]
    why_not: str = ''
    notes: str = ''


def compare(name: str, first: Measured, second: Measured, groups: Groups) -> Comparison:
    """How the second run differs from the first by one evaluator.

    groups: languages by name; the mean of a group is over those that both runs were scored in.
    """
    metric, why_not = comparable(name, first, second)
    if why_not:
        return Comparison(metric, {}, why_not)
    size, one = first.samples[name]
    _, other = second.samples[name]
    shared = {x: paired(one[x], other[x]) for x in one if x in other}
    draws = draws_of(shared, size, metric)
    values = {
        x: second.found.results[name][x][metric] - first.found.results[name][x][metric]
        for x in draws
    }
    adjusted = holm([chance_of_no_difference(draws[x]) for x in draws])
    rows = {x: _difference(values[x], draws[x], p) for x, p in zip(draws, adjusted)}
    for group, members in groups.items():
        there = [x for x in members if x in draws]
        if there:
            mean = float(np.mean([values[x] for x in there]))
            rows[MEAN + group] = _difference(mean, bootstrap.mean_of([draws[x] for x in there]))
    return Comparison(metric, rows, '', _notes(name, first.found, second.found))


def comparable(name: str, first: Measured, second: Measured) -> tuple[str, str]:
    """(the metric to compare, why the runs cannot be compared by an evaluator or '')."""
    results = [one.found.results.get(name, {}) for one in (first, second)]
    if not all(results):
        return '', 'only one of the runs was scored by it'
    metric = headline(next(iter(results[0].values())))
    different = differing(first.found.protocol[name], second.found.protocol[name])
    if different:
        words = '; '.join(f'{key} is “{a}” and “{b}”' for key, a, b in different)
        return metric, f'the protocols differ: {words}'
    if name not in first.samples or name not in second.samples:
        return metric, 'a run has no scores of it query by query'
    (size, one), (other_size, other) = first.samples[name], second.samples[name]
    shared = [x for x in one if x in other]
    if not shared:
        return metric, 'no language has scores query by query in both runs'
    if size != other_size or not all(_same_queries(one[x], other[x]) for x in shared):
        return metric, 'the queries are not the same: the data was prepared differently'
    rows = [result.get(x, {}) for result in results for x in shared]
    if metric not in _values(one[shared[0]]) or not all(metric in row for row in rows):
        return metric, f'{metric} is no mean over queries'
    return metric, ''


def differing(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(what, in the first protocol, in the second) of all that two protocols do not share."""
    keys = [key for key in {**first, **second} if key not in OF_THE_MODEL]
    return [
        (key.replace('_', ' '), first.get(key, 'not said'), second.get(key, 'not said'))
        for key in keys if first.get(key) != second.get(key)
    ]  # fmt: skip


def paired(first: Sequence[Samples], second: Sequence[Samples]) -> list[Samples]:
    """Query by query, the second minus the first of the metrics of both."""
    return [
        Samples(a.item_N, {name: b.values[name] - a.values[name] for name in a.values
                           if name in b.values})
        for a, b in zip(first, second)
    ]  # fmt: skip


def draws_of(differences: BySamples, size: int, metric: str) -> dict[str, np.ndarray]:
    """{language: the difference of `metric` in each draw of the items, float32 [S]}.

    Metrics are means, and means of means, so the difference of two is that of their queries.
    The smallest p of S draws is 2 / (S + 1). After a correction over L languages it must be able
    to fall well below the level: S is at least 4 L / level (ours), in parts of 1,000 draws.
    """
    columns = [
        (language, name, part.item_N, part.values[name])
        for language, parts in differences.items() for part in parts for name in part.values
    ]  # fmt: skip
    sum_CI, count_CI = (
        np.array([np.bincount(item_N, weight(v_N), size) for *_, item_N, v_N in columns], 'float32')
        for weight in (lambda v_N: v_N, np.ones_like)
    )
    found: dict[str, list[np.ndarray]] = {}
    for seed in range(max(1, -(-4 * len(differences) // int(LEVEL * DRAWS)))):
        drawn_IS = bootstrap.draw(size, seed=seed).T
        with np.errstate(invalid='ignore'):
            value_CS = (sum_CI @ drawn_IS) / (count_CI @ drawn_IS)
        rows: dict[str, dict[str, np.ndarray]] = {}
        for (language, name, *_), value_S in zip(columns, value_CS):
            rows.setdefault(language, {})[name] = value_S
        for language, values in rows.items():
            found.setdefault(language, []).append(combined(values)[metric])
    return {language: np.concatenate(parts) for language, parts in found.items()}


def holm(p: Sequence[float]) -> np.ndarray:
    """p-values after Holm's step-down correction (Holm 1979, Scand. J. Statist. 6:65-70), [L].

    Those at most a: the chance that one or more of them is no difference is at most a.
    """
    order = np.argsort(p, kind='stable')
    times = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.minimum(np.maximum.accumulate(times * np.asarray(p)[order]), 1)
    return adjusted


def _difference(value: float, draw_S: np.ndarray, adjusted: float = np.nan) -> Difference:
    p = chance_of_no_difference(draw_S)
    return Difference(float(value), *interval(draw_S), p, float(adjusted))


def _same_queries(first: Sequence[Samples], second: Sequence[Samples]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a.item_N, b.item_N) for a, b in zip(first, second)
    )


def _values(samples: Sequence[Samples]) -> dict[str, np.ndarray]:
    """All metrics that samples give, with those made of them."""
    return combined({name: value_N[:1] for one in samples for name, value_N in one.values.items()})


def _notes(name: str, first: Found, second: Found) -> str:
    """What differs between the protocols and yet is compared."""
    one, other = first.protocol[name], second.protocol[name]
    notes = []
    if one.get('head') != other.get('head'):
        notes.append(f'the head is {other.get("head")}, and {one.get("head")} in the first run')
    if one.get('languages') != other.get('languages'):
        notes.append('the languages are those that both were scored in')
    return '; '.join(notes)
