"""Margin scores of sentence pairs, and pairs mined by them.

Artetxe & Schwenk 2019, arXiv:1811.01136. With c(x, y) the cosine and NN(x) the k nearest
sentences of the other side,

    b(x, y) = sum_{z in NN(x)} c(x, z) / 2k + sum_{z in NN(y)} c(y, z) / 2k
    cosine: c(x, y);    ratio: c(x, y) / b(x, y);    distance: c(x, y) - b(x, y).

Checked against the source of LASER's mine_bitexts.py (github.com/facebookresearch/LASER): k = 4,
only the k nearest of a sentence by cosine are candidates, and the four strategies are the same.
"""

from typing import Any, Literal, NamedTuple

import numpy as np

from mural_jax.evaluation.metrics.ranking import BLOCK_SCORES, TIE, Ranks, check_representations
from mural_jax.similarity.nearest import find_nearest
from mural_jax.types import UserError

K = 4  # neighbours, as LASER takes
Score = Literal['cosine', 'ratio', 'distance']
SCORE_KINDS = ('cosine', 'ratio', 'distance')
Strategy = Literal['max', 'intersection', 'forward', 'backward']
STRATEGIES = {
    'max': 'the best candidate of each sentence of either side, the highest score first; '
    'a pair is dropped if one of its sentences is taken',
    'intersection': 'pairs that are the best candidate of each other',
    'forward': 'of each text its best candidate of the pivot',
    'backward': 'of each sentence of the pivot its best text',
}


class Neighbours(NamedTuple):
    """The k nearest items of Q queries, in no particular order.

    place_QK: int64, the items. score_QK: float64, their cosines.
    """

    place_QK: np.ndarray
    score_QK: np.ndarray


class MinedPairs(NamedTuple):
    """P mined pairs by descending score: the places on both sides, int64 [P], float64 scores."""

    left_P: np.ndarray
    right_P: np.ndarray
    score_P: np.ndarray


def find_neighbours(query_QD: np.ndarray, item_ND: np.ndarray, k: int) -> Neighbours:
    """Returns the k nearest items of each query, or all items if there are fewer than k.

    They are found in float32 and scored again in float64.
    """
    check_representations(query_QD, item_ND)
    _, place_QK = find_nearest(query_QD, item_ND, min(k, len(item_ND)))
    score_QK = np.empty(place_QK.shape)
    # Blocks bound the memory of the gathered neighbours [B, K, D].
    size = max(1, BLOCK_SCORES // (place_QK.shape[1] * query_QD.shape[1]))
    for start in range(0, len(query_QD), size):
        rows = slice(start, start + size)
        near_BKD = item_ND[place_QK[rows]].astype(np.float64)
        score_QK[rows] = (near_BKD * query_QD[rows].astype(np.float64)[:, None]).sum(2)
    return Neighbours(place_QK, score_QK)


def find_both_neighbours(
    left_ND: np.ndarray, right_MD: np.ndarray, k: int
) -> tuple[Neighbours, Neighbours]:
    """Returns (neighbours of the left sentences on the right, of the right ones on the left)."""
    return find_neighbours(left_ND, right_MD, k), find_neighbours(right_MD, left_ND, k)


def margin_scores(there: Neighbours, back: Neighbours, score: Score) -> np.ndarray:
    """Returns the margin score of each candidate in `there`, float64 [Q, K].

    back: the neighbours in the other direction. Raises UserError for 'ratio' if some b(x, y) is
    not above 0.
    """
    if score == 'cosine':
        return there.score_QK
    # Half of b(x, y) each: the mean cosine around x, and around y.
    around_Q, around_N = there.score_QK.mean(1), back.score_QK.mean(1)
    around_QK = (around_Q[:, None] + around_N[there.place_QK]) / 2
    if score == 'distance':
        return there.score_QK - around_QK
    if (around_QK <= 0).any():
        raise UserError(
            "score='ratio' divides by the mean cosine of the nearest neighbours, which is "
            f"{around_QK.min():.3g} here: the ratio would mean nothing. Take score='distance'."
        )
    return there.score_QK / around_QK


def rank_own(neighbours: Neighbours, margin_QK: np.ndarray) -> Ranks:
    """Returns the rank of item q for each query q among its candidates.

    An item that is not a candidate ranks behind all of them. Scores within TIE are equal.
    """
    # Item q belongs to query q.
    is_own_QK = neighbours.place_QK == np.arange(len(margin_QK))[:, None]
    own_Q = np.where(is_own_QK, margin_QK, -np.inf).max(1)
    is_candidate_Q = np.isfinite(own_Q)
    apart_QK = margin_QK - np.where(is_candidate_Q, own_Q, 0)[:, None]
    above_Q = np.where(is_candidate_Q, (apart_QK > TIE).sum(1), margin_QK.shape[1])
    tied_Q = np.where(is_candidate_Q, (np.abs(apart_QK) <= TIE).sum(1), 1)
    return Ranks(above_Q, tied_Q, np.ones_like(tied_Q))


def mine_pairs(
    left_ND: np.ndarray, right_MD: np.ndarray, k: int, score: Score, strategy: Strategy
) -> MinedPairs:
    """Returns the pairs of N left and M right sentences by a strategy, before any threshold."""
    there, back = find_both_neighbours(left_ND, right_MD, k)
    forward, forward_N = _best_candidates(there, margin_scores(there, back, score))
    backward, backward_M = _best_candidates(back, margin_scores(back, there, score))
    # Candidates from each side, before the strategy chooses among them.
    left, right = np.arange(len(forward)), np.arange(len(backward))
    if strategy == 'forward':
        return _sort_by_score(MinedPairs(left, forward, forward_N))
    if strategy == 'backward':
        return _sort_by_score(MinedPairs(backward, right, backward_M))
    if strategy == 'intersection':
        mutual = np.flatnonzero(backward[forward] == left)
        return _sort_by_score(MinedPairs(mutual, forward[mutual], forward_N[mutual]))
    # 'max': the candidates of both sides compete for the same sentences.
    columns = (left, backward), (forward, right), (forward_N, backward_M)
    return _use_each_once(_sort_by_score(MinedPairs(*map(np.concatenate, columns))))


def _best_candidates(
    neighbours: Neighbours, margin_QK: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns (place, score) of the best candidate of each query, [Q] each."""
    best_Q1 = margin_QK.argmax(1)[:, None]
    columns = neighbours.place_QK, margin_QK
    place_Q, score_Q = (np.take_along_axis(column, best_Q1, 1)[:, 0] for column in columns)
    return place_Q, score_Q


def _sort_by_score(pairs: MinedPairs) -> MinedPairs:
    order = np.argsort(-pairs.score_P, kind='stable')
    return MinedPairs(*(column[order] for column in pairs))


def _use_each_once(pairs: MinedPairs) -> MinedPairs:
    """Returns, from the highest score on, the pairs whose sentences are both still free."""
    used_left: set[int] = set()
    used_right: set[int] = set()
    rows = []
    for number, (left, right) in enumerate(zip(pairs.left_P.tolist(), pairs.right_P.tolist())):
        if left not in used_left and right not in used_right:
            used_left.add(left)
            used_right.add(right)
            rows.append(number)
    return MinedPairs(*(column[rows] for column in pairs))


def choose_threshold(score_P: np.ndarray, right_P: np.ndarray, gold: int) -> float:
    """Returns the threshold with the best F1 = 2 right / (taken + gold), 0 if there are no pairs.

    Pairs at or above the threshold are taken. It lies halfway to the next lower score, as in the
    BUCC scripts of LASER and XTREME; pairs with equal scores are taken together. Among equal F1
    the highest threshold wins.

    Args:
      score_P: the scores, descending.
      right_P: bool, whether each pair is a gold pair.
      gold: number of gold pairs.
    """
    if not len(score_P):
        return 0.0
    # If the threshold falls behind pair i, the first i + 1 pairs are taken.
    taken_P = np.arange(1, len(score_P) + 1)
    f1_P = 2 * np.cumsum(right_P) / (taken_P + gold)
    lower_P = np.append(score_P[1:], score_P[-1])
    # A threshold can only fall behind the last of several equal scores.
    is_last_P = np.append(score_P[1:] < score_P[:-1], True)
    best = int(np.where(is_last_P, f1_P, -1).argmax())
    return float((score_P[best] + lower_P[best]) / 2)


def check_score(score: Any, k: Any) -> None:
    """Raises UserError for an unknown score, or k below 1."""
    if score not in SCORE_KINDS:
        raise UserError(f'score={score!r} must be one of {", ".join(SCORE_KINDS)}.')
    if k < 1:
        raise UserError(f'k={k} must be at least 1, the neighbours of a margin; LASER takes {K}.')


def describe_score(score: str, k: int) -> str:
    """Returns a score in the words of a protocol."""
    means = f'the mean cosine of the {k} nearest of both sides (arXiv:1811.01136)'
    return {
        'cosine': 'cosine',
        'ratio': f'margin: cosine divided by {means}',
        'distance': f'margin: cosine less {means}',
    }[score]
