"""The bootstrap: means, intervals, differences."""

import numpy as np
import pytest

from mural_jax.evaluation.metrics import bootstrap
from mural_jax.evaluation.metrics.bootstrap import Samples, chance_of_no_difference, interval, means


def test_the_mean_is_over_queries() -> None:
    found = means([Samples(np.array([0, 0, 1]), {'r1': np.array([100, 0, 50], np.float32)})])
    assert found == {'r1': 50}


def test_an_item_is_drawn_with_all_its_queries() -> None:
    own = Samples(np.array([0, 0, 1], np.int32), {'r1': np.array([90, 30, 0], np.float32)})
    drawn_SI = np.array([[1, 1], [2, 0], [0, 2]], np.float32)
    np.testing.assert_allclose(bootstrap.resampled([own], drawn_SI)['r1'], [40, 60, 0])


def test_a_draw_has_as_many_items_and_repeats() -> None:
    drawn_SI = bootstrap.draw(40, 200)
    assert (drawn_SI.sum(1) == 40).all() and drawn_SI.max() > 2
    np.testing.assert_array_equal(drawn_SI, bootstrap.draw(40, 200))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    """Means of 60 coins with p = 0.3, 300 times."""
    rng = np.random.default_rng(0)
    drawn_SI = bootstrap.draw(60)
    item_N = np.arange(60, dtype=np.int32)
    held = 0
    for _ in range(300):
        own = Samples(item_N, {'r1': (rng.random(60) < 0.3).astype(np.float32)})
        low, high = interval(bootstrap.resampled([own], drawn_SI)['r1'])
        held += low <= 0.3 <= high
    assert 0.89 < held / 300 < 0.98


def test_a_difference_that_is_there_is_found() -> None:
    rng = np.random.default_rng(1)
    worse = (rng.random(500) < 0.4).astype(np.float32)
    better = np.maximum(worse, rng.random(500) < 0.2)
    drawn_SI = bootstrap.draw(500)
    first, second = (
        bootstrap.resampled([Samples(np.arange(500), {'r1': values})], drawn_SI)['r1']
        for values in (worse, better)
    )
    assert chance_of_no_difference(second - first) < 0.01
    assert chance_of_no_difference(first - first) == 1
    assert np.isnan(interval(np.full(5, np.nan))).all()


def test_a_draw_without_queries_does_not_count() -> None:
    own = Samples(np.array([1]), {'r1': np.array([100], np.float32)})
    found = bootstrap.resampled([own], np.array([[2, 0], [0, 2]], np.float32))['r1']
    assert np.isnan(found[0]) and interval(found) == pytest.approx((100, 100))
