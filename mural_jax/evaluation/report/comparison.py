"""Whether two runs differ: a paired bootstrap over the items that both were scored on."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mural_jax.evaluation.evaluators.base import MEAN
from mural_jax.evaluation.metrics import bootstrap
from mural_jax.evaluation.metrics.bootstrap import (
    DRAWS,
    QuerySamples,
    bootstrap_p_value,
    percentile_interval,
)
from mural_jax.evaluation.metrics.recall import add_mean_recall
from mural_jax.evaluation.scores import CheckpointScores, Groups, SamplesByLanguage

LEVEL = 0.05  # significance level of the tests (ours)
# Protocol entries in which compared runs may differ: the space belongs to the model, and languages
# are compared one by one.
MAY_DIFFER = ('space', 'languages')


class RunScores(NamedTuple):
    """A run's scores, and its samples: {evaluator: (number of items, {language: samples})}."""

    scores: CheckpointScores
    samples: Mapping[str, tuple[int, SamplesByLanguage]]


class Difference(NamedTuple):
    """The second run minus the first, with a 95% interval and the p-value of no difference.

    adjusted: p after Holm's correction over the languages; NaN for the mean of a group.
    """

    value: float
    low: float
    high: float
    p: float
    adjusted: float

    @property
    def significant(self) -> bool:
        """Whether p is at most LEVEL: after the correction, or for a mean without one."""
        return (self.p if np.isnan(self.adjusted) else self.adjusted) <= LEVEL


class Comparison(NamedTuple):
    """How two runs differ by one evaluator.

    rows: the differences of `metric` by language and `mean_GROUP`.
    obstacle: why the runs cannot be compared, '' if they can.
    notes: what differs between the protocols without preventing the comparison.
    """

    metric: str
    rows: dict[str, Difference]
    obstacle: str = ''
    notes: str = ''


def compare_runs(name: str, first: RunScores, second: RunScores, groups: Groups) -> Comparison:
    """Returns how the second run differs from the first by the evaluator `name`.

    The mean of a group is over those of its languages that both runs were scored in.
    """
    metric, obstacle = choose_metric(name, first, second)
    if obstacle:
        return Comparison(metric, {}, obstacle)
    size, one = first.samples[name]
    _, other = second.samples[name]
    differences = {x: subtract_samples(one[x], other[x]) for x in one if x in other}
    # One set of draws for all languages, so that the mean of a group has draws too.
    draws = draw_differences(differences, size, metric)
    values = {
        x: second.scores.results[name][x][metric] - first.scores.results[name][x][metric]
        for x in draws
    }
    adjusted = holm_correction([bootstrap_p_value(draws[x]) for x in draws])
    rows = {x: _summarize(values[x], draws[x], p) for x, p in zip(draws, adjusted)}
    for group, members in groups.items():
        shared = [x for x in members if x in draws]
        if shared:
            mean = float(np.mean([values[x] for x in shared]))
            mean_S = bootstrap.mean_over_draws([draws[x] for x in shared])
            rows[MEAN + group] = _summarize(mean, mean_S)
    return Comparison(metric, rows, '', _note_differences(name, first.scores, second.scores))


def choose_metric(name: str, first: RunScores, second: RunScores) -> tuple[str, str]:
    """Returns (the metric to compare, why the runs cannot be compared by an evaluator or '')."""
    results = [run.scores.results.get(name, {}) for run in (first, second)]
    if not all(results):
        return '', 'only one of the runs was scored by it'
    metric = first.scores.headline(name)
    # First, since different protocols make any further comparison meaningless.
    different = differing_entries(first.scores.protocol[name], second.scores.protocol[name])
    if different:
        words = '; '.join(f'{key} is “{a}” and “{b}”' for key, a, b in different)
        return metric, f'the protocols differ: {words}'
    if name not in first.samples or name not in second.samples:
        return metric, 'a run has no scores of it query by query'
    (size, one), (other_size, other) = first.samples[name], second.samples[name]
    shared = [x for x in one if x in other]
    if not shared:
        return metric, 'no language has scores query by query in both runs'
    # Paired draws need the same queries in the same order.
    if size != other_size or not all(_have_same_queries(one[x], other[x]) for x in shared):
        return metric, 'the queries are not the same: the data was prepared differently'
    rows = [result.get(x, {}) for result in results for x in shared]
    if metric not in _list_metrics(one[shared[0]]) or not all(metric in row for row in rows):
        return metric, f'{metric} is no mean over queries'
    return metric, ''


def differing_entries(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, Any, Any]]:
    """Returns (entry, its value in the first protocol, in the second) of all that must agree."""
    keys = [key for key in {**first, **second} if key not in MAY_DIFFER]
    return [
        (key.replace('_', ' '), first.get(key, 'not said'), second.get(key, 'not said'))
        for key in keys
        if first.get(key) != second.get(key)
    ]


def subtract_samples(
    first: Sequence[QuerySamples], second: Sequence[QuerySamples]
) -> list[QuerySamples]:
    """Returns, query by query, the second minus the first of the metrics that both have."""
    return [
        QuerySamples(
            a.item_N,
            {name: b.values[name] - a.values[name] for name in a.values if name in b.values},
        )
        for a, b in zip(first, second)
    ]


def draw_differences(
    differences: SamplesByLanguage, size: int, metric: str
) -> dict[str, np.ndarray]:
    """Returns {language: the difference of `metric` in each draw of the items, float32 [S]}.

    Metrics are means, and means of means, so the difference of two metrics is the metric of the
    differences of their queries. The smallest p of S draws is 2 / (S + 1). After a correction over
    L languages it must still be able to fall well below the level: S is at least 4 L / level
    (ours), in parts of 1,000 draws.
    """
    columns = [
        (language, name, part.item_N, part.values[name])
        for language, parts in differences.items()
        for part in parts
        for name in part.values
    ]
    # All languages and metrics are columns C of one matrix product with the draws.
    sum_CI, count_CI = (
        np.array([np.bincount(item_N, weight(v_N), size) for *_, item_N, v_N in columns], 'float32')
        for weight in (lambda v_N: v_N, np.ones_like)
    )
    parts_of: dict[str, list[np.ndarray]] = {}
    # In parts of 1,000 draws, which bounds the memory for all metrics of a draw.
    for seed in range(max(1, -(-4 * len(differences) // int(LEVEL * DRAWS)))):
        drawn_IS = bootstrap.draw_items(size, seed=seed).T
        with np.errstate(invalid='ignore'):
            value_CS = (sum_CI @ drawn_IS) / (count_CI @ drawn_IS)
        rows: dict[str, dict[str, np.ndarray]] = {}
        for (language, name, *_), value_S in zip(columns, value_CS):
            rows.setdefault(language, {})[name] = value_S
        for language, values in rows.items():
            parts_of.setdefault(language, []).append(add_mean_recall(values)[metric])
    return {language: np.concatenate(parts) for language, parts in parts_of.items()}


def holm_correction(p: Sequence[float]) -> np.ndarray:
    """Returns p-values after Holm's step-down correction, [L].

    Holm 1979, Scand. J. Statist. 6:65-70. If all differences with an adjusted p of at most a are
    called real, the chance that one or more of them is not is at most a.
    """
    # The smallest p is multiplied by L, the next by L - 1, and so on.
    order = np.argsort(p, kind='stable')
    times = np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    # An adjusted p is never below that of a smaller p.
    adjusted[order] = np.minimum(np.maximum.accumulate(times * np.asarray(p)[order]), 1)
    return adjusted


def _summarize(value: float, draw_S: np.ndarray, adjusted: float = np.nan) -> Difference:
    p = bootstrap_p_value(draw_S)
    return Difference(float(value), *percentile_interval(draw_S), p, float(adjusted))


def _have_same_queries(first: Sequence[QuerySamples], second: Sequence[QuerySamples]) -> bool:
    return len(first) == len(second) and all(
        np.array_equal(a.item_N, b.item_N) for a, b in zip(first, second)
    )


def _list_metrics(samples: Sequence[QuerySamples]) -> set[str]:
    """Returns the metrics that samples give, with those that combine others."""
    return set(add_mean_recall({name: 0.0 for one in samples for name in one.values}))


def _note_differences(name: str, first: CheckpointScores, second: CheckpointScores) -> str:
    """Returns what differs between the protocols and yet is compared, in words."""
    one, other = first.protocol[name], second.protocol[name]
    notes = []
    if one.get('space') != other.get('space'):
        notes.append(f'the space is {other.get("space")}, and {one.get("space")} in the first run')
    if one.get('languages') != other.get('languages'):
        notes.append('the languages are those that both were scored in')
    return '; '.join(notes)
