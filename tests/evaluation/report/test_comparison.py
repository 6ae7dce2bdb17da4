"""Differences of runs: values, intervals and p by hand, Holm's correction, obstacles."""

import numpy as np
import pytest
from evaluation.galleries import make_scores
from scipy import stats

from mural_jax.evaluation import scores
from mural_jax.evaluation.metrics import bootstrap
from mural_jax.evaluation.metrics.bootstrap import QuerySamples
from mural_jax.evaluation.report.comparison import (
    RunScores,
    choose_metric,
    compare_runs,
    differing_entries,
    draw_differences,
    holm_correction,
    subtract_samples,
)
from mural_jax.evaluation.scores import CheckpointScores

GROUPS = {'few': ('be', 'ga'), 'many': ('en', 'de', 'fr')}
NAME = 'image_text/set0'
Runs = tuple[RunScores, RunScores]


@pytest.fixture
def runs() -> Runs:
    return make_scores(GROUPS, 0.4), make_scores(GROUPS, 0.5)


def make_accuracies(values: dict[str, np.ndarray], **protocol: object) -> RunScores:
    """Scores of an evaluator `x`: accuracies query by query, by language."""
    size = len(next(iter(values.values())))
    rows = {language: {'accuracy': float(value_N.mean())} for language, value_N in values.items()}
    samples = {
        language: [QuerySamples(np.arange(size), {'accuracy': value_N.astype(np.float32)})]
        for language, value_N in values.items()
    }
    return RunScores(CheckpointScores({'x': protocol}, {'x': rows}, {}, {}), {'x': (size, samples)})


def test_holm_correction_by_hand() -> None:
    adjusted = holm_correction([0.01, 0.04, 0.03, 0.005])
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm_correction([0.5, 0.9]) == pytest.approx([1, 1]) and not len(holm_correction([]))


def draw_apart(runs: Runs) -> list[np.ndarray]:
    """The differences in each draw of the languages of the group `many`, by hand."""
    first, second = (
        scores.draw_metrics(run.samples[NAME][1], run.samples[NAME][0]) for run in runs
    )
    return [second[x]['mean_recall'] - first[x]['mean_recall'] for x in GROUPS['many']]


def test_difference_of_language_by_hand(runs: Runs) -> None:
    comparison = compare_runs(NAME, *runs, GROUPS)
    assert comparison.metric == 'mean_recall' and not comparison.obstacle
    first, second = (run.scores.results[NAME]['en']['mean_recall'] for run in runs)
    row = comparison.rows['en']
    assert row.value == pytest.approx(second - first)
    low, high = np.quantile(draw_apart(runs)[0], [0.025, 0.975])
    assert (row.low, row.high) == pytest.approx((low, high), abs=1e-4)


def test_difference_of_group_mean_by_hand(runs: Runs) -> None:
    mean = compare_runs(NAME, *runs, GROUPS).rows['mean_many']
    first, second = (run.scores.results[NAME]['mean_many']['mean_recall'] for run in runs)
    assert mean.value == pytest.approx(second - first)
    low, high = np.quantile(np.mean(draw_apart(runs), axis=0), [0.025, 0.975])
    assert (mean.low, mean.high) == pytest.approx((low, high), abs=1e-4)
    assert np.isnan(mean.adjusted) and mean.significant


@pytest.mark.parametrize('shift', [0.0, 0.12, 0.2])
def test_p_and_interval_agree_with_scipy(shift: float) -> None:
    """The paired t-test, and scipy's own bootstrap."""
    rng = np.random.default_rng(3)
    first_N = rng.normal(0, 1, 200)
    second_N = first_N + rng.normal(shift, 1, 200)
    runs = make_accuracies({'en': first_N}), make_accuracies({'en': second_N})
    row = compare_runs('x', *runs, {}).rows['en']
    expected = stats.ttest_rel(second_N, first_N).pvalue
    assert row.p == pytest.approx(expected, abs=0.03 + 0.1 * expected)
    theirs = stats.bootstrap(
        (second_N - first_N,), np.mean, method='percentile', n_resamples=2000, rng=rng
    ).confidence_interval
    assert row.low == pytest.approx(theirs.low, abs=0.02)
    assert row.high == pytest.approx(theirs.high, abs=0.02)


def test_run_does_not_differ_from_itself(runs: Runs) -> None:
    first, _ = runs
    rows = compare_runs(NAME, first, first, GROUPS).rows
    assert all(row.value == row.low == row.high == 0 and row.p == 1 for row in rows.values())
    assert not any(row.significant for row in rows.values())


def test_false_alarms_are_as_rare_as_the_level() -> None:
    """60 comparisons of 20 languages without any difference."""
    rng = np.random.default_rng(0)
    false_alarms = 0
    for _ in range(60):
        first, second = (
            make_accuracies({f'l{i}': rng.normal(size=50) for i in range(20)}) for _ in range(2)
        )
        rows = compare_runs('x', first, second, {}).rows
        false_alarms += any(row.significant for row in rows.values())
    # P(more of 60 at 0.05) is 0.1%; the bootstrap is a little too sure.
    assert false_alarms <= 9


def test_real_difference_is_significant_among_many_languages() -> None:
    """The smallest p of the draws, times the number of languages, is below the level."""
    values = {f'l{i}': np.zeros(40) for i in range(204)}
    better = values | {'l7': np.ones(40)}
    rows = compare_runs('x', make_accuracies(values), make_accuracies(better), {}).rows
    assert [name for name, row in rows.items() if row.significant] == ['l7']


def test_draws_are_those_of_the_intervals(runs: Runs) -> None:
    first, second = runs
    size, one = first.samples[NAME]
    differences = {x: subtract_samples(one[x], second.samples[NAME][1][x]) for x in one}
    draws = draw_differences(differences, size, 'mean_recall')
    by_hand = bootstrap.resample_means(differences['be'], bootstrap.draw_items(size))
    recalls = [value_S for name, value_S in by_hand.items() if '_r' in name and 'rank' not in name]
    np.testing.assert_allclose(draws['be'], np.mean(recalls, axis=0), atol=1e-4)


def test_draw_without_queries_of_one_language_counts_for_the_others() -> None:
    """The mean has it; the language alone has an interval of the draws with its queries."""
    first, second = (make_accuracies({'en': np.zeros(40)}) for _ in range(2))
    for run, value in ((first, 0.0), (second, 1.0)):
        rare = QuerySamples(np.array([3]), {'accuracy': np.full(1, value)})
        run.samples['x'][1]['ga'] = [rare]
        run.scores.results['x']['ga'] = {'accuracy': value}
    rows = compare_runs('x', first, second, {'g': ('en', 'ga')}).rows
    assert rows['ga'].low == rows['ga'].high == 1
    assert rows['mean_g'].low == 0 and rows['mean_g'].high == 0.5 and rows['mean_g'].value == 0.5


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'caption': 'all'}, 'the protocols differ: caption is “not said” and “all”'),
        ({'items': 61}, 'items is “60” and “61”'),
    ],
)
def test_different_protocols_are_not_compared(change: dict, words: str, runs: Runs) -> None:
    first, second = runs
    second.scores.protocol[NAME].update(change)
    comparison = compare_runs(NAME, first, second, GROUPS)
    assert words in comparison.obstacle and not comparison.rows


def test_other_space_and_languages_are_compared_and_noted(runs: Runs) -> None:
    first, second = runs
    second.scores.protocol[NAME].update(space='text_text', languages=['be', 'en'])
    del second.samples[NAME][1]['ga']
    comparison = compare_runs(NAME, first, second, GROUPS)
    assert set(comparison.rows) == {'be', 'en', 'de', 'fr', 'mean_few', 'mean_many'}
    assert comparison.rows['mean_few'].value == comparison.rows['be'].value
    assert 'the space is text_text, and image_text' in comparison.notes
    assert 'languages' in comparison.notes


def test_space_may_differ_between_protocols() -> None:
    assert not differing_entries({'space': 'a'}, {'space': 'b'})


def test_evaluator_without_samples_is_not_compared(runs: Runs) -> None:
    assert 'query by query' in choose_metric('hidden', *runs)[1]


def test_evaluator_of_one_run_is_not_compared(runs: Runs) -> None:
    empty = RunScores(CheckpointScores({}, {}, {}, {}), {})
    assert 'only one' in choose_metric(NAME, runs[0], empty)[1]


def test_other_queries_are_not_compared(runs: Runs) -> None:
    first, second = runs
    size, one = second.samples[NAME]
    moved = {x: [part._replace(item_N=part.item_N[::-1]) for part in own] for x, own in one.items()}
    other = RunScores(second.scores, {NAME: (size, moved)})
    assert 'not the same' in choose_metric(NAME, first, other)[1]


def test_runs_without_shared_language_are_not_compared(runs: Runs) -> None:
    first, second = runs
    other = RunScores(second.scores, {NAME: (second.samples[NAME][0], {})})
    assert 'no language' in choose_metric(NAME, first, other)[1]


def test_metric_that_is_no_mean_over_queries_is_not_compared(runs: Runs) -> None:
    for run in runs:
        run.scores.protocol[NAME]['headline'] = 'spearman'
        for row in run.scores.results[NAME].values():
            row['spearman'] = 0.5
    assert 'spearman is no mean over queries' in choose_metric(NAME, *runs)[1]
