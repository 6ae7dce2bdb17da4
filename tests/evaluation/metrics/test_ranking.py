"""Ranks against rankings made by hand and against a float64 double loop."""

import numpy as np
import pytest
from evaluation.oracles import random_units, rank_by_force

from mural_jax.evaluation.metrics import ranking
from mural_jax.evaluation.metrics.ranking import Ranks, rank_queries, rank_score_matrix
from mural_jax.types import UserError


def assert_same(ranks: Ranks, expected: Ranks) -> None:
    for one, other in zip(ranks, expected):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize('scale', [1.0, 37.0])
def test_ranks_equal_float64_double_loop(scale: float) -> None:
    rng = np.random.default_rng(0)
    query_QD, item_ND = scale * random_units(rng, 60, 24), scale * random_units(rng, 90, 24)
    # So close to each other that float32 cannot tell them apart.
    item_ND[30:60] = item_ND[:30] * (1 + 1e-7)
    right = [np.unique(rng.integers(0, 90, rng.integers(1, 5))) for _ in range(60)]
    assert_same(rank_queries(query_QD, item_ND, right), rank_by_force(query_QD, item_ND, right))


def test_few_and_many_ties_are_counted() -> None:
    rng = np.random.default_rng(1)
    item_ND = random_units(rng, 70, 8)
    item_ND[5:10] = item_ND[0]  # few
    item_ND[20:] = item_ND[20]  # more than MAX_NEAR, so the whole row is scored again
    query_QD = np.concatenate([item_ND[[0, 20, 3]], random_units(rng, 5, 8)])
    right = [np.array([0, 6]), np.array([25]), np.array([3])] + [np.array([i]) for i in range(5)]
    ranks = rank_queries(query_QD, item_ND, right)
    assert_same(ranks, rank_by_force(query_QD, item_ND, right))
    assert (ranks.tied_Q[0], ranks.right_Q[0], ranks.tied_Q[1]) == (6, 2, 50)


def test_ranks_do_not_depend_on_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    query_QD, item_ND = random_units(rng, 50, 6), random_units(rng, 40, 6)
    right = [np.array([i % 40]) for i in range(50)]
    whole = rank_queries(query_QD, item_ND, right)
    monkeypatch.setattr(ranking, 'BLOCK_SCORES', 40 * 7)
    assert_same(rank_queries(query_QD, item_ND, right), whole)


def test_score_matrix_is_ranked_with_ties() -> None:
    rng = np.random.default_rng(3)
    score_QN = rng.integers(0, 6, (20, 15)).astype(np.float32)
    right = [np.unique(rng.integers(0, 15, 3)) for _ in range(20)]
    ranks = rank_score_matrix(score_QN, right)
    for row, own in enumerate(right):
        best = score_QN[row, own].max()
        assert ranks.above_Q[row] == (score_QN[row] > best).sum()
        assert ranks.right_Q[row] == (score_QN[row, own] == best).sum()


# Two items above, then five tied ones of which two are right. C(3, m) of the C(5, m) choices of
# the first m tied items hold no right one.
HIT_RATES = {1: 0, 2: 0, 3: 1 - 3 / 5, 4: 1 - 3 / 10, 5: 1 - 1 / 10, 6: 1, 10: 1}
TIED = Ranks(np.array([2]), np.array([5]), np.array([2]))


@pytest.mark.parametrize(('k', 'rate'), HIT_RATES.items())
def test_hit_rate_is_mean_over_orders_of_ties(k: int, rate: float) -> None:
    assert TIED.hit_rate(k)[0] == pytest.approx(rate)


def test_expected_rank_is_mean_over_orders_of_ties() -> None:
    """Ranks 3 to 7; the first of two right items among five is at (5 + 1) / (2 + 1) on average."""
    assert TIED.expected_rank()[0] == pytest.approx(4)


@pytest.mark.parametrize(
    ('query', 'item', 'message'),
    [
        (np.ones((2, 3), np.float32), np.ones((2, 4), np.float32), '3 dimensions and items 4'),
        (np.full((2, 3), np.nan, np.float32), np.ones((2, 3), np.float32), '2 of 2 embeddings'),
        (np.ones((0, 3), np.float32), np.ones((2, 3), np.float32), 'each needs one row'),
    ],
)
def test_incomparable_embeddings_are_refused(
    query: np.ndarray, item: np.ndarray, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        rank_queries(query, item, [np.array([0])] * len(query))
