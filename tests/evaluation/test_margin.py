"""Margins, mining and thresholds against the definitions in float64 double loops."""

from typing import Any

import numpy as np
import pytest

from mural_jax.evaluation.metrics import margin
from mural_jax.types import UserError

DIM = 12


def units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def margin_by_force(left_ND: np.ndarray, right_MD: np.ndarray, k: int, score: str) -> np.ndarray:
    """One pair at a time, float64 [N, M]; what is not among the k nearest of the left is -inf."""
    left, right = left_ND.astype(np.float64), right_MD.astype(np.float64)
    cosine = [[float((a * b).sum()) for b in right] for a in left]
    columns = [[row[j] for row in cosine] for j in range(len(right))]
    found = np.full((len(left), len(right)), -np.inf)
    for i, row in enumerate(cosine):
        near = sorted(row, reverse=True)[:k]
        for j, value in enumerate(row):
            back = sorted(columns[j], reverse=True)[:k]
            around = (sum(near) / len(near) + sum(back) / len(back)) / 2
            if value >= near[-1]:
                made = {'cosine': value, 'ratio': value / around, 'distance': value - around}
                found[i, j] = made[score]
    return found


@pytest.mark.parametrize('score', margin.SCORE)
@pytest.mark.parametrize(('left', 'right', 'k'), [(30, 30, 4), (25, 40, 3), (7, 3, 4), (1, 5, 1)])
def test_margins_are_those_of_the_definition(score: Any, left: int, right: int, k: int) -> None:
    rng = np.random.default_rng(left)
    # All on one side, so that neighbours have cosines above 0.
    left_ND, right_MD = (abs(units(rng, size, DIM)) for size in (left, right))
    there, back = margin.both_nearest(left_ND, right_MD, k)
    assert there.place_QK.shape == (left, min(k, right))
    found = np.full((left, right), -np.inf)
    np.put_along_axis(found, there.place_QK, margin.margins(there, back, score), axis=1)
    np.testing.assert_allclose(
        found, margin_by_force(left_ND, right_MD, k, score), rtol=1e-12, atol=1e-12
    )


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    left_ND, right_MD = units(rng, 33, DIM), units(rng, 50, DIM)
    whole = margin.nearest(left_ND, right_MD, 4)
    monkeypatch.setattr(margin, 'SCORES', 50 * 7)
    for one, other in zip(margin.nearest(left_ND, right_MD, 4), whole):
        np.testing.assert_array_equal(one, other)


def test_a_ratio_to_nothing_is_refused() -> None:
    left_ND = np.eye(3, dtype=np.float32)
    there, back = margin.both_nearest(left_ND, -left_ND, 3)
    with pytest.raises(UserError, match="Take score='distance'"):
        margin.margins(there, back, 'ratio')
    assert np.isfinite(margin.margins(there, back, 'distance')).all()


def mined_by_force(forward: np.ndarray, backward: np.ndarray, by: str) -> set[tuple[int, int]]:
    """Pairs by a strategy from [N, M] scores of the candidates of each side."""
    there = [(forward[i].max(), i, int(forward[i].argmax())) for i in range(len(forward))]
    back = [(backward[:, j].max(), int(backward[:, j].argmax()), j) for j in range(len(forward[0]))]
    if by == 'forward':
        return {(i, j) for _, i, j in there}
    if by == 'backward':
        return {(i, j) for _, i, j in back}
    if by == 'intersection':
        return {(i, j) for _, i, j in there} & {(i, j) for _, i, j in back}
    kept: set[tuple[int, int]] = set()
    for _, i, j in sorted(there + back, key=lambda x: -x[0]):
        if all(i != a and j != b for a, b in kept):
            kept.add((i, j))
    return kept


@pytest.mark.parametrize('by', margin.STRATEGY)
@pytest.mark.parametrize('score', margin.SCORE)
def test_mining_is_that_of_the_definition(by: Any, score: Any) -> None:
    rng = np.random.default_rng(2)
    left_ND, right_MD = abs(units(rng, 40, DIM)), abs(units(rng, 55, DIM))
    pairs = margin.mine(left_ND, right_MD, 4, score, by)
    wanted = mined_by_force(
        margin_by_force(left_ND, right_MD, 4, score),
        margin_by_force(right_MD, left_ND, 4, score).T, by,
    )  # fmt: skip
    assert set(zip(pairs.left_P, pairs.right_P)) == wanted
    assert len(pairs.left_P) == len(wanted)
    assert (np.diff(pairs.score_P) <= 0).all()


def test_the_threshold_has_the_best_f1() -> None:
    """Of every threshold between two scores, ties among them."""
    rng = np.random.default_rng(3)
    for _ in range(50):
        score_P = -np.sort(-rng.integers(0, 12, 20) / 4)
        right_P, gold = rng.random(20) < 0.4, 15
        found = []
        for threshold in np.unique(score_P):
            taken = [right for score, right in zip(score_P, right_P) if score >= threshold]
            precision, recall = sum(taken) / len(taken), sum(taken) / gold
            found.append(2 * precision * recall / max(precision + recall, 1e-9))
        best = margin.best_threshold(score_P, right_P, gold)
        taken_P = score_P >= best
        f1 = 2 * right_P[taken_P].sum() / (taken_P.sum() + gold)
        assert f1 == pytest.approx(max(found))
    assert margin.best_threshold(np.empty(0), np.empty(0, bool), 5) == 0
    # Halfway to the next lower one.
    assert margin.best_threshold(np.array([3.0, 2.0, 1.0]), np.array([1, 1, 0], bool), 2) == 1.5
