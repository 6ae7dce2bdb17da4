"""Recall of retrieval, both directions, ties counted fairly."""

from collections.abc import Sequence

import numpy as np

RANKS = (1, 5, 10)
PROTOCOL = {
    'recall': 'percent of queries whose right item ranks in the first K',
    'ties': 'items of equal score share their ranks: the expected recall over their orders',
    'mean_recall': 'mean of R@1, R@5, R@10 in both directions, six numbers',
    'relevance': 'by example: each query has one right item',
}


def recall(
    query_QD: np.ndarray, result_RD: np.ndarray, right_Q: np.ndarray, chunk: int = 1024
) -> list[float]:
    """R@1, R@5, R@10 in percent.

    Both embeddings are float32 unit vectors; `right_Q`, int [Q], is the right result of each
    query.
    """
    found = np.zeros(len(RANKS))
    for start in range(0, len(query_QD), chunk):
        score_QR = query_QD[start : start + chunk] @ result_RD.T
        found += _found(score_QR, right_Q[start : start + chunk])
    return list(100 * found / len(query_QD))


def _found(score_QR: np.ndarray, right_Q: np.ndarray) -> np.ndarray:
    """How many queries find their right result in the first K, for each K.

    With g results above the right one and t tied with it, itself included, its rank is any of
    g + 1 ... g + t alike.
    """
    own_Q1 = np.take_along_axis(score_QR, right_Q[:, None], axis=1)
    above_Q = (score_QR > own_Q1).sum(1)
    tied_Q = (score_QR == own_Q1).sum(1)
    return np.array([np.clip((k - above_Q) / tied_Q, 0, 1).sum() for k in RANKS])


def both_ways(left_ND: np.ndarray, right_ND: np.ndarray, left: str, right: str) -> dict[str, float]:
    """Recalls of N pairs in both directions, named `left_to_right_r1` and so on, and their mean."""
    pairs = np.arange(len(left_ND))
    recalls = recall(left_ND, right_ND, pairs), recall(right_ND, left_ND, pairs)
    return _named(recalls, left, right)


def both_ways_of(score_NN: np.ndarray, left: str, right: str) -> dict[str, float]:
    """The same of scores, a row for each left item and a column for each right one."""
    pairs = np.arange(len(score_NN))
    recalls = [list(100 * _found(score, pairs) / len(pairs)) for score in (score_NN, score_NN.T)]
    return _named(recalls, left, right)


def _named(recalls: Sequence[Sequence[float]], left: str, right: str) -> dict[str, float]:
    values = {
        f'{name}_r{k}': value
        for name, found in zip((f'{left}_to_{right}', f'{right}_to_{left}'), recalls)
        for k, value in zip(RANKS, found)
    }
    return values | {'mean_recall': float(np.mean(list(values.values())))}


def chance(size: int) -> float:
    """The mean recall of a random order of `size` items, percent."""
    return float(np.mean([100 * min(k / size, 1) for k in RANKS]))


def mean_over(results: dict[str, dict[str, float]], languages: list[str]) -> dict[str, float]:
    """The mean of every metric over the languages that have results."""
    rows = [results[language] for language in languages if language in results]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}
