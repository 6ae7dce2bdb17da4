"""Recall against rankings made by hand."""

import numpy as np
import pytest

from mural_jax.evaluation.retrieval import both_ways, chance, mean_over, recall


def test_ranks_made_by_hand() -> None:
    """Twelve results on a line; the right one of query q has exactly q results above it."""
    results = np.eye(12, dtype=np.float32)
    queries = np.stack([np.linspace(1, 0.1, 12, dtype=np.float32)] * 12)
    right = np.arange(12)
    np.testing.assert_allclose(
        recall(queries, results, right), [100 / 12, 500 / 12, 1000 / 12], rtol=1e-6
    )


def test_chunks_change_nothing() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50, 4)).astype(np.float32)
    assert recall(a, b, np.arange(50), chunk=7) == recall(a, b, np.arange(50), chunk=1000)


def test_ties_are_shared() -> None:
    """All twenty alike: each rank is as likely, so R@K is K / 20. No order can be lucky."""
    same = np.ones((20, 3), np.float32)
    np.testing.assert_allclose(recall(same, same, np.arange(20)), [5, 25, 50])


def test_chance_is_the_recall_of_ties() -> None:
    assert chance(20) == pytest.approx((5 + 25 + 50) / 3)
    assert chance(4) == pytest.approx((25 + 100 + 100) / 3)


def test_both_directions_and_their_mean() -> None:
    left = np.array([[1, 0], [0.8, 0.6]], np.float32)
    right = np.array([[0.8, 0.6], [0.6, 0.8]], np.float32)
    scores = both_ways(left, right, 'image', 'text')
    assert list(scores) == [
        'image_to_text_r1', 'image_to_text_r5', 'image_to_text_r10',
        'text_to_image_r1', 'text_to_image_r5', 'text_to_image_r10', 'mean_recall',
    ]  # fmt: skip
    assert scores['image_to_text_r1'] == 50  # the second picture prefers the first text
    assert scores['text_to_image_r1'] == 50  # the first text prefers the second picture
    assert scores['image_to_text_r5'] == 100
    assert scores['mean_recall'] == pytest.approx((50 + 100 + 100) / 3)


def test_the_mean_is_over_languages_that_were_scored() -> None:
    results = {'be': {'mean_recall': 10.0}, 'ga': {'mean_recall': 30.0}}
    assert mean_over(results, ['be', 'ga', 'en']) == {'mean_recall': 20.0}
    assert mean_over(results, ['en']) == {}
