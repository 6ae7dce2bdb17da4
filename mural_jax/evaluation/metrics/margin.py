"""Margin scores of sentence pairs, and pairs mined by them.

Artetxe & Schwenk 2019, arXiv:1811.01136. With c(x, y) the cosine and NN(x) the k nearest of the
other side,

    b(x, y) = sum_{z in NN(x)} c(x, z) / 2k + sum_{z in NN(y)} c(y, z) / 2k
    cosine: c(x, y);    ratio: c(x, y) / b(x, y);    distance: c(x, y) - b(x, y).

Checked against the source of LASER's mine_bitexts.py (github.com/facebookresearch/LASER): k = 4,
of a sentence only its k nearest by cosine are candidates, and the four strategies are the same.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from mural_jax.evaluation.metrics.ranking import EQUAL, SCORES, Ranks, check_pair
from mural_jax.similarity import nearest as neighbours
from mural_jax.types import UserError

K = 4  # neighbours, as LASER takes
Score = Literal['cosine', 'ratio', 'distance']
SCORE = ('cosine', 'ratio', 'distance')
Strategy = Literal['max', 'intersection', 'forward', 'backward']
STRATEGY = {
    'max': 'the best candidate of each sentence of either side, the highest score first; '
    'a pair is dropped where one of its sentences is taken',
    'intersection': 'pairs that are the best candidate of each other',
    'forward': 'of each text its best candidate of the pivot',
    'backward': 'of each sentence of the pivot its best text',
}


class Near(NamedTuple):
    """The k nearest items of Q queries.

    place_QK: int64. score_QK: their scores, float64, in no order that counts.
    """

    place_QK: np.ndarray
    score_QK: np.ndarray


class Pairs(NamedTuple):
    """P mined pairs, by descending score: places on both sides, int64 [P], and float64 scores."""

    left_P: np.ndarray
    right_P: np.ndarray
    score_P: np.ndarray


def nearest(query_QD: np.ndarray, item_ND: np.ndarray, k: int) -> Near:
    """The k nearest items of each query, all where there are fewer, scored again in float64."""
    check_pair(query_QD, item_ND)
    _, place_QK = neighbours.find_nearest(query_QD, item_ND, min(k, len(item_ND)))
    score_QK = np.empty(place_QK.shape)
    size = max(1, SCORES // (place_QK.shape[1] * query_QD.shape[1]))
    for start in range(0, len(query_QD), size):
        rows = slice(start, start + size)
        near_BKD = item_ND[place_QK[rows]].astype(np.float64)
        score_QK[rows] = (near_BKD * query_QD[rows].astype(np.float64)[:, None]).sum(2)
    return Near(place_QK, score_QK)


def both_nearest(left_ND: np.ndarray, right_MD: np.ndarray, k: int) -> tuple[Near, Near]:
    """(neighbours of the left ones on the right, those of the right ones on the left)."""
    return nearest(left_ND, right_MD, k), nearest(right_MD, left_ND, k)


def margins(near: Near, back: Near, score: Score) -> np.ndarray:
    """The margin score of each candidate in `near`, float64 [Q, K]; `back`: of the other side.

    Raises UserError for ratio where b(x, y) is not above 0.
    """
    if score == 'cosine':
        return near.score_QK
    around_Q, around_N = near.score_QK.mean(1), back.score_QK.mean(1)
    around_QK = (around_Q[:, None] + around_N[near.place_QK]) / 2
    if score == 'distance':
        return near.score_QK - around_QK
    if (around_QK <= 0).any():
        raise UserError(
            "score='ratio' divides by the mean cosine of the nearest neighbours, which is "
            f"{around_QK.min():.3g} here: the ratio would mean nothing. Take score='distance'."
        )
    return near.score_QK / around_QK


def own_ranks(near: Near, margin_QK: np.ndarray) -> Ranks:
    """Where item q ranks for query q among its candidates; behind all where it is not one of them.

    Scores within EQUAL are a tie.
    """
    own_QK = near.place_QK == np.arange(len(margin_QK))[:, None]
    own_Q = np.where(own_QK, margin_QK, -np.inf).max(1)
    there_Q = np.isfinite(own_Q)
    apart_QK = margin_QK - np.where(there_Q, own_Q, 0)[:, None]
    above_Q = np.where(there_Q, (apart_QK > EQUAL).sum(1), margin_QK.shape[1])
    tied_Q = np.where(there_Q, (np.abs(apart_QK) <= EQUAL).sum(1), 1)
    return Ranks(above_Q, tied_Q, np.ones_like(tied_Q))


def mine(left_ND: np.ndarray, right_MD: np.ndarray, k: int, score: Score, by: Strategy) -> Pairs:
    """Pairs of the N left and M right sentences by a STRATEGY, before any threshold."""
    there, back = both_nearest(left_ND, right_MD, k)
    forward, forward_N = _best(there, margins(there, back, score))
    backward, backward_M = _best(back, margins(back, there, score))
    left, right = np.arange(len(forward)), np.arange(len(backward))
    if by == 'forward':
        found = Pairs(left, forward, forward_N)
    elif by == 'backward':
        found = Pairs(backward, right, backward_M)
    elif by == 'intersection':
        mutual = np.flatnonzero(backward[forward] == left)
        found = Pairs(mutual, forward[mutual], forward_N[mutual])
    else:
        columns = (left, backward), (forward, right), (forward_N, backward_M)
        found = Pairs(*(np.concatenate(column) for column in columns))
        return _each_once(_sorted(found))
    return _sorted(found)


def _best(near: Near, margin_QK: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place, score) of the best candidate of each query."""
    best_Q1 = margin_QK.argmax(1)[:, None]
    columns = near.place_QK, margin_QK
    place_Q, score_Q = (np.take_along_axis(column, best_Q1, 1)[:, 0] for column in columns)
    return place_Q, score_Q


def _sorted(pairs: Pairs) -> Pairs:
    order = np.argsort(-pairs.score_P, kind='stable')
    return Pairs(*(column[order] for column in pairs))


def _each_once(pairs: Pairs) -> Pairs:
    """The first pairs of which neither sentence was taken before."""
    left_taken: set[int] = set()
    right_taken: set[int] = set()
    kept = []
    for number, (left, right) in enumerate(zip(pairs.left_P.tolist(), pairs.right_P.tolist())):
        if left not in left_taken and right not in right_taken:
            left_taken.add(left)
            right_taken.add(right)
            kept.append(number)
    return Pairs(*(column[kept] for column in pairs))


def best_threshold(score_P: np.ndarray, right_P: np.ndarray, gold: int) -> float:
    """The threshold of the highest F1 = 2 right / (taken + gold), where a score at or above it is
    taken.

    score_P: descending. right_P: bool. It lies halfway to the next lower score, as in BUCC's
    scripts of LASER and XTREME; equal scores are taken together. The first of equal F1; 0 where
    there are no pairs.
    """
    if not len(score_P):
        return 0.0
    taken_P = np.arange(1, len(score_P) + 1)
    f1_P = 2 * np.cumsum(right_P) / (taken_P + gold)
    lower_P = np.append(score_P[1:], score_P[-1])
    last_P = np.append(score_P[1:] < score_P[:-1], True)
    best = int(np.where(last_P, f1_P, -1).argmax())
    return float((score_P[best] + lower_P[best]) / 2)


def check_score(score: Any, k: Any) -> None:
    """Raises UserError for a score that is not there, and k below 1."""
    if score not in SCORE:
        raise UserError(f'score={score!r} must be one of {", ".join(SCORE)}.')
    if k < 1:
        raise UserError(f'k={k} must be at least 1, the neighbours of a margin; LASER takes {K}.')


def in_words(score: str, k: int) -> str:
    """A score for a protocol."""
    means = f'the mean cosine of the {k} nearest of both sides (arXiv:1811.01136)'
    return {
        'cosine': 'cosine',
        'ratio': f'margin: cosine divided by {means}',
        'distance': f'margin: cosine less {means}',
    }[score]
