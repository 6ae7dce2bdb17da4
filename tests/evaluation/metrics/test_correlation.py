"""Spearman correlation against scipy, and its bootstrap against the definition."""

import numpy as np
import pytest
from evaluation.oracles import direction_of
from scipy import stats

from mural_jax.evaluation.metrics import correlation
from mural_jax.evaluation.metrics.correlation import (
    RatedEmbeddings,
    bootstrap_correlations,
    correlate_ratings,
    number_keys,
    spearman,
)
from mural_jax.types import UserError


def make_units(count: int) -> np.ndarray:
    return np.stack([direction_of(number) for number in range(count)])


@pytest.mark.parametrize('levels', [3, 1000])
def test_spearman_equals_scipy_with_and_without_ties(levels: int) -> None:
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, levels, 60), rng.integers(0, levels, 60)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)
    assert np.isnan(spearman(a, np.zeros(60)))


def test_each_draw_has_half_of_queries_with_one_pair_each(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    query_P = number_keys(rng.integers(0, 9, 60).tolist())
    place_P = np.arange(60.0)  # Identifies the pairs that are drawn.
    drawn = []
    monkeypatch.setattr(correlation, 'spearman', lambda a, b: drawn.append(a.astype(int)) or 0.5)
    bootstrap_correlations(place_P, place_P, query_P, draws=400)
    for pair_P in drawn:
        assert len(pair_P) == 4 and len({query_P[pair] for pair in pair_P}) == 4
    # A pair of a query with n pairs comes in 1/n of the draws that have the query, 4 in 9.
    counts = np.bincount(np.concatenate(drawn), minlength=60)
    expected = 400 * 4 / 9 / np.bincount(query_P)[query_P]
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected.max())


def test_spread_is_that_of_as_many_normal_pairs() -> None:
    """With correlation r it is about (1 - r^2) / sqrt(n) for the n pairs of a draw."""
    rng = np.random.default_rng(4)
    cosine_P = rng.normal(size=4000)
    rating_P = 0.7 * cosine_P + np.sqrt(1 - 0.49) * rng.normal(size=4000)
    query_P = np.repeat(np.arange(800), 5)
    value_S = bootstrap_correlations(cosine_P, rating_P, query_P)
    assert value_S.mean() == pytest.approx(spearman(cosine_P, rating_P), abs=0.01)
    assert 0.7 < value_S.std() / ((1 - 0.49) / np.sqrt(400)) < 1.4
    np.testing.assert_array_equal(value_S, bootstrap_correlations(cosine_P, rating_P, query_P))


@pytest.mark.parametrize(
    ('rating', 'left', 'message'),
    [
        ([1, 2], make_units(2), 'has 2 rated pairs; at least 3'),
        ([1, np.nan, 2], make_units(3), '1 of 3 examples of here have no rating'),
        ([2, 2, 2], make_units(3), 'All ratings of here are 2'),
        ([1, 2, 3], make_units(1)[[0, 0, 0]], 'same similarity'),
    ],
)
def test_pairs_without_correlation_are_refused(
    rating: list, left: np.ndarray, message: str
) -> None:
    right_PD = np.tile(direction_of('x'), (len(rating), 1))
    rated = RatedEmbeddings(left, right_PD, np.array(rating, float), np.arange(len(rating)))
    with pytest.raises(UserError, match=message):
        correlate_ratings(rated, 'here')


def test_three_queries_have_no_bootstrap() -> None:
    right_PD = np.tile(direction_of('x'), (3, 1))
    rated = RatedEmbeddings(make_units(3), right_PD, np.arange(3.0), np.arange(3))
    assert set(correlate_ratings(rated, 'here')) == {'spearman', 'pairs'}
