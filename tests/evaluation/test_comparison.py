"""Differences of runs: values, intervals and p by hand, Holm's correction, what is not compared."""

import numpy as np
import pytest
from evaluation.galleries import measured
from scipy import stats

from mural_jax.evaluation import scores
from mural_jax.evaluation.metrics import bootstrap
from mural_jax.evaluation.metrics.bootstrap import Samples
from mural_jax.evaluation.report.comparison import (
    Measured,
    comparable,
    compare,
    differing,
    draws_of,
    holm,
    paired,
)
from mural_jax.evaluation.scores import Found

GROUPS = {'few': ('be', 'ga'), 'many': ('en', 'de', 'fr')}
NAME = 'image_text/set0'


def runs() -> tuple[Measured, Measured]:
    return measured(GROUPS, 0.4), measured(GROUPS, 0.5)


def accuracy(values: dict[str, np.ndarray], **protocol: object) -> Measured:
    """An evaluator `x` of accuracies, query by query."""
    size = len(next(iter(values.values())))
    rows = {language: {'accuracy': float(value_N.mean())} for language, value_N in values.items()}
    own = {
        language: [Samples(np.arange(size), {'accuracy': value_N.astype(np.float32)})]
        for language, value_N in values.items()
    }
    return Measured(Found({'x': protocol}, {'x': rows}, {}, {}), {'x': (size, own)})


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1]) and not len(holm([]))


def test_a_difference_by_hand() -> None:
    first, second = runs()
    found = compare(NAME, first, second, GROUPS)
    assert found.metric == 'mean_recall' and not found.why_not
    one, other = (run.found.results[NAME] for run in (first, second))
    drawn = [scores.draws(run.samples[NAME][1], run.samples[NAME][0]) for run in (first, second)]
    apart_LS = [drawn[1][x]['mean_recall'] - drawn[0][x]['mean_recall'] for x in GROUPS['many']]
    assert found.rows['en'].value == pytest.approx(
        other['en']['mean_recall'] - one['en']['mean_recall']
    )
    low, high = np.quantile(apart_LS[0], [0.025, 0.975])
    assert (found.rows['en'].low, found.rows['en'].high) == pytest.approx((low, high), abs=1e-4)
    mean = found.rows['mean_many']
    assert mean.value == pytest.approx(
        other['mean_many']['mean_recall'] - one['mean_many']['mean_recall']
    )
    low, high = np.quantile(np.mean(apart_LS, axis=0), [0.025, 0.975])
    assert (mean.low, mean.high) == pytest.approx((low, high), abs=1e-4)
    assert np.isnan(mean.adjusted) and mean.holds


def test_p_is_that_of_other_tests() -> None:
    """Beside the paired t-test of scipy, with its own bootstrap interval."""
    rng = np.random.default_rng(3)
    first_N = rng.normal(0, 1, 200)
    for shift in (0.0, 0.12, 0.2):
        second_N = first_N + rng.normal(shift, 1, 200)
        found = compare('x', accuracy({'en': first_N}), accuracy({'en': second_N}), {})
        wanted = stats.ttest_rel(second_N, first_N).pvalue
        assert found.rows['en'].p == pytest.approx(wanted, abs=0.03 + 0.1 * wanted)
        theirs = stats.bootstrap(
            (second_N - first_N,), np.mean, method='percentile', n_resamples=2000, rng=rng
        ).confidence_interval
        assert found.rows['en'].low == pytest.approx(theirs.low, abs=0.02)
        assert found.rows['en'].high == pytest.approx(theirs.high, abs=0.02)


def test_the_same_run_does_not_differ() -> None:
    first, _ = runs()
    rows = compare(NAME, first, first, GROUPS).rows
    assert all(row.value == row.low == row.high == 0 and row.p == 1 for row in rows.values())
    assert not any(row.holds for row in rows.values())


def test_no_more_than_the_level_of_true_nothings_hold() -> None:
    """Of 60 comparisons of 20 languages without a difference few find any."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(60):
        first, second = (
            accuracy({f'l{i}': rng.normal(size=50) for i in range(20)}) for _ in range(2)
        )
        rows = compare('x', first, second, {}).rows
        wrong += any(row.holds for row in rows.values())
    assert wrong <= 9  # P(more of 60 at 0.05) is 0.1%; the bootstrap is a little too sure


def test_a_real_difference_can_hold_among_many_languages() -> None:
    """The smallest p of the draws, times the number of languages, is below the level."""
    first_N = np.zeros(40)
    values = {f'l{i}': first_N for i in range(204)}
    better = values | {'l7': np.ones(40)}
    found = compare('x', accuracy(values), accuracy(better), {})
    assert found.rows['l7'].holds and not found.rows['l8'].holds
    assert sum(row.holds for row in found.rows.values()) == 1


def test_draws_are_those_of_the_intervals() -> None:
    first, second = runs()
    size, one = first.samples[NAME]
    both = {x: paired(one[x], second.samples[NAME][1][x]) for x in one}
    found = draws_of(both, size, 'mean_recall')
    drawn_SI = bootstrap.draw(size)
    by_hand = bootstrap.resampled(both['be'], drawn_SI)
    recalls = [value_S for name, value_S in by_hand.items() if '_r' in name and 'rank' not in name]
    np.testing.assert_allclose(found['be'], np.mean(recalls, axis=0), atol=1e-4)


def test_a_draw_without_queries_of_a_language_counts_for_the_others() -> None:
    """Of the mean; the language alone has an interval of the draws that have queries of it."""
    rare = [Samples(np.array([3]), {'accuracy': np.array([1], np.float32)})]
    first, second = (accuracy({'en': np.zeros(40)}) for _ in range(2))
    for run, more in ((first, 0.0), (second, 1.0)):
        run.samples['x'][1]['ga'] = [rare[0]._replace(values={'accuracy': np.full(1, more)})]
        run.found.results['x']['ga'] = {'accuracy': more}
    found = compare('x', first, second, {'g': ('en', 'ga')}).rows
    assert found['ga'].low == found['ga'].high == 1
    assert found['mean_g'].low == 0 and found['mean_g'].high == 0.5 and found['mean_g'].value == 0.5


@pytest.mark.parametrize(
    ('change', 'words'),
    [
        ({'caption': 'all'}, 'the protocols differ: caption is “not said” and “all”'),
        ({'items': 61}, 'items is “60” and “61”'),
    ],
)
def test_protocols_that_differ_are_not_compared(change: dict, words: str) -> None:
    first, second = runs()
    second.found.protocol[NAME].update(change)
    found = compare(NAME, first, second, GROUPS)
    assert words in found.why_not and not found.rows


def test_another_head_or_other_languages_are_compared_and_said() -> None:
    first, second = runs()
    second.found.protocol[NAME].update(head='text_text', languages=['be', 'en'])
    del second.samples[NAME][1]['ga']
    found = compare(NAME, first, second, GROUPS)
    assert set(found.rows) == {'be', 'en', 'de', 'fr', 'mean_few', 'mean_many'}
    assert found.rows['mean_few'].value == found.rows['be'].value
    assert 'the head is text_text, and image_text' in found.notes and 'languages' in found.notes
    assert not differing({'head': 'a'}, {'head': 'b'})


def test_what_has_no_samples_is_not_compared() -> None:
    first, second = runs()
    assert 'query by query' in comparable('hidden', first, second)[1]
    assert 'only one' in comparable(NAME, first, Measured(Found({}, {}, {}, {}), {}))[1]
    size, one = second.samples[NAME]
    moved = {x: [part._replace(item_N=part.item_N[::-1]) for part in own] for x, own in one.items()}
    assert (
        'not the same' in comparable(NAME, first, Measured(second.found, {NAME: (size, moved)}))[1]
    )
    assert 'no language' in comparable(NAME, first, Measured(second.found, {NAME: (size, {})}))[1]
    for run in (first, second):
        for row in run.found.results[NAME].values():
            row.pop('mean_recall')
            row['spearman'] = 0.5
    assert 'spearman is no mean over queries' in comparable(NAME, first, second)[1]
