"""The bootstrap: means, draws, intervals and p-values."""

import numpy as np
import pytest

from mural_jax.evaluation.metrics.bootstrap import (
    QuerySamples,
    bootstrap_p_value,
    draw_items,
    mean_metrics,
    percentile_interval,
    resample_means,
)


def test_mean_is_over_queries_not_items() -> None:
    samples = QuerySamples(np.array([0, 0, 1]), {'r1': np.array([100, 0, 50], np.float32)})
    assert mean_metrics([samples]) == {'r1': 50}


def test_item_is_drawn_with_all_its_queries() -> None:
    own = QuerySamples(np.array([0, 0, 1], np.int32), {'r1': np.array([90, 30, 0], np.float32)})
    drawn_SI = np.array([[1, 1], [2, 0], [0, 2]], np.float32)
    np.testing.assert_allclose(resample_means([own], drawn_SI)['r1'], [40, 60, 0])


def test_draw_has_as_many_items_with_repeats() -> None:
    drawn_SI = draw_items(40, 200)
    assert (drawn_SI.sum(1) == 40).all() and drawn_SI.max() > 2


def test_draws_are_the_same_every_time() -> None:
    np.testing.assert_array_equal(draw_items(40, 200), draw_items(40, 200))


def test_interval_covers_truth_as_often_as_it_claims() -> None:
    """Means of 60 coins with p = 0.3, 300 times."""
    rng = np.random.default_rng(0)
    drawn_SI = draw_items(60)
    item_N = np.arange(60, dtype=np.int32)
    covered = 0
    for _ in range(300):
        own = QuerySamples(item_N, {'r1': (rng.random(60) < 0.3).astype(np.float32)})
        low, high = percentile_interval(resample_means([own], drawn_SI)['r1'])
        covered += low <= 0.3 <= high
    assert 0.89 < covered / 300 < 0.98


def test_p_value_detects_real_difference() -> None:
    rng = np.random.default_rng(1)
    worse = (rng.random(500) < 0.4).astype(np.float32)
    better = np.maximum(worse, rng.random(500) < 0.2)
    drawn_SI = draw_items(500)
    first, second = (
        resample_means([QuerySamples(np.arange(500), {'r1': values})], drawn_SI)['r1']
        for values in (worse, better)
    )
    assert bootstrap_p_value(second - first) < 0.01
    assert bootstrap_p_value(first - first) == 1


def test_interval_without_finite_draws_is_nan() -> None:
    assert np.isnan(percentile_interval(np.full(5, np.nan))).all()


def test_draw_without_queries_does_not_count() -> None:
    own = QuerySamples(np.array([1]), {'r1': np.array([100], np.float32)})
    value_S = resample_means([own], np.array([[2, 0], [0, 2]], np.float32))['r1']
    assert np.isnan(value_S[0]) and percentile_interval(value_S) == pytest.approx((100, 100))
