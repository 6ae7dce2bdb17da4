"""Margins, mining and thresholds against their definitions in float64 double loops."""

from typing import Any

import numpy as np
import pytest
from evaluation.oracles import margin_by_force, mine_by_force, random_units

from mural_jax.evaluation.metrics import margin
from mural_jax.types import UserError

DIM = 12


@pytest.mark.parametrize('score', margin.SCORE_KINDS)
@pytest.mark.parametrize(('left', 'right', 'k'), [(30, 30, 4), (25, 40, 3), (7, 3, 4), (1, 5, 1)])
def test_margins_equal_double_loop(score: Any, left: int, right: int, k: int) -> None:
    rng = np.random.default_rng(left)
    # All coordinates positive, so that neighbours have cosines above 0.
    left_ND, right_MD = (abs(random_units(rng, size, DIM)) for size in (left, right))
    there, back = margin.find_both_neighbours(left_ND, right_MD, k)
    assert there.place_QK.shape == (left, min(k, right))
    margin_NM = np.full((left, right), -np.inf)
    np.put_along_axis(margin_NM, there.place_QK, margin.margin_scores(there, back, score), axis=1)
    np.testing.assert_allclose(
        margin_NM, margin_by_force(left_ND, right_MD, k, score), rtol=1e-12, atol=1e-12
    )


def test_neighbours_do_not_depend_on_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    left_ND, right_MD = random_units(rng, 33, DIM), random_units(rng, 50, DIM)
    whole = margin.find_neighbours(left_ND, right_MD, 4)
    monkeypatch.setattr(margin, 'BLOCK_SCORES', 50 * 7)
    for one, other in zip(margin.find_neighbours(left_ND, right_MD, 4), whole):
        np.testing.assert_array_equal(one, other)


def test_ratio_to_negative_mean_is_refused_and_distance_is_not() -> None:
    left_ND = np.eye(3, dtype=np.float32)
    there, back = margin.find_both_neighbours(left_ND, -left_ND, 3)
    with pytest.raises(UserError, match="Take score='distance'"):
        margin.margin_scores(there, back, 'ratio')
    assert np.isfinite(margin.margin_scores(there, back, 'distance')).all()


@pytest.mark.parametrize('strategy', margin.STRATEGIES)
@pytest.mark.parametrize('score', margin.SCORE_KINDS)
def test_mining_equals_double_loop(strategy: Any, score: Any) -> None:
    rng = np.random.default_rng(2)
    left_ND, right_MD = abs(random_units(rng, 40, DIM)), abs(random_units(rng, 55, DIM))
    pairs = margin.mine_pairs(left_ND, right_MD, 4, score, strategy)
    forward = margin_by_force(left_ND, right_MD, 4, score)
    backward = margin_by_force(right_MD, left_ND, 4, score).T
    expected = mine_by_force(forward, backward, strategy)
    assert set(zip(pairs.left_P, pairs.right_P)) == expected
    assert len(pairs.left_P) == len(expected)
    assert (np.diff(pairs.score_P) <= 0).all()


def test_threshold_has_best_f1_of_all_thresholds() -> None:
    """Ties among the scores included."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        score_P = -np.sort(-rng.integers(0, 12, 20) / 4)
        right_P, gold = rng.random(20) < 0.4, 15
        scores = []
        for threshold in np.unique(score_P):
            taken = [right for score, right in zip(score_P, right_P) if score >= threshold]
            precision, recall = sum(taken) / len(taken), sum(taken) / gold
            scores.append(2 * precision * recall / max(precision + recall, 1e-9))
        best = margin.choose_threshold(score_P, right_P, gold)
        taken_P = score_P >= best
        f1 = 2 * right_P[taken_P].sum() / (taken_P.sum() + gold)
        assert f1 == pytest.approx(max(scores))


def test_threshold_of_no_pairs_is_zero() -> None:
    assert margin.choose_threshold(np.empty(0), np.empty(0, bool), 5) == 0


def test_threshold_lies_halfway_to_next_lower_score() -> None:
    score_P, right_P = np.array([3.0, 2.0, 1.0]), np.array([1, 1, 0], bool)
    assert margin.choose_threshold(score_P, right_P, 2) == 1.5
