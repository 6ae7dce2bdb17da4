"""Exact neighbours against a sort of all scores."""

import numpy as np
import pytest
from similarity.test_measures import make_tokens

from mural_jax.similarity import nearest
from mural_jax.similarity.late_interaction import LateInteraction
from mural_jax.similarity.nearest import find_nearest
from mural_jax.types import UserError


@pytest.mark.parametrize(('queries', 'items', 'k'), [(5, 3, 3), (40, 1000, 10), (130, 700, 200)])
def test_nearest_equal_sort_of_all_scores(
    queries: int, items: int, k: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest, 'QUERIES', 64)
    monkeypatch.setattr(nearest, 'ITEMS', 256)
    rng = np.random.default_rng(0)
    # Small whole numbers: scores are exact, and many are equal.
    query_QD = rng.integers(-3, 4, (queries, 8)).astype(np.float32)
    item_ND = rng.integers(-3, 4, (items, 8)).astype(np.float32)
    score_QK, place_QK = find_nearest(query_QD, item_ND, k)
    score_QN = query_QD @ item_ND.T
    order_QN = np.argsort(-score_QN, axis=1, kind='stable')[:, :k]
    np.testing.assert_array_equal(place_QK, order_QN)
    np.testing.assert_array_equal(score_QK, np.take_along_axis(score_QN, order_QN, axis=1))


def test_negative_scores_come_before_padding() -> None:
    score_QK, place_QK = find_nearest(np.ones((1, 2), np.float32), -np.ones((3, 2), np.float32), 3)
    assert place_QK.tolist() == [[0, 1, 2]] and (score_QK == -2).all()


def test_impossible_k_and_width_are_refused() -> None:
    ones = np.ones((2, 3), np.float32)
    with pytest.raises(UserError, match='k=3 nearest of 2 items'):
        find_nearest(ones, ones, 3)
    with pytest.raises(UserError, match='3 dimensions and items 2'):
        find_nearest(ones, ones[:, :2], 1)


def test_nearest_by_late_interaction_equal_sort() -> None:
    """Items of another form, which only their similarity knows how to compare."""
    similarity = LateInteraction('symmetric')
    query, items = make_tokens(0, 5, 3), make_tokens(1, 40, 4)
    _, number_QK = find_nearest(query, items, 3, similarity)
    order_QN = np.argsort(-np.asarray(similarity.score(query, items)), axis=1, kind='stable')
    np.testing.assert_array_equal(number_QK, order_QN[:, :3])
