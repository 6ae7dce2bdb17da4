"""Slow metrics that follow their definitions one pair at a time, in float64."""

import hashlib
from typing import Any

import numpy as np

from mural_jax.evaluation.metrics.ranking import Ranks


def random_units(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Random float32 vectors of length 1 along the last axis."""
    vectors = rng.normal(size=shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def direction_of(content: Any) -> np.ndarray:
    """A unit vector that depends on the content alone."""
    seed = int.from_bytes(hashlib.sha256(repr(content).encode()).digest()[:8], 'big')
    vector_D = np.random.default_rng(seed).normal(size=6)
    return (vector_D / np.linalg.norm(vector_D)).astype(np.float32)


def rank_by_force(query_QD: np.ndarray, item_ND: np.ndarray, right: list[np.ndarray]) -> Ranks:
    rows = []
    for query_D, own in zip(query_QD.astype(np.float64), right):
        scores = [float((query_D * item_D).sum()) for item_D in item_ND.astype(np.float64)]
        best = max(scores[i] for i in own)
        tied = [i for i, score in enumerate(scores) if score == best]
        rows.append((sum(s > best for s in scores), len(tied), sum(i in own for i in tied)))
    return Ranks(*(np.array(column) for column in zip(*rows)))


def accuracy_by_force(query: list[np.ndarray], item: list[np.ndarray]) -> float:
    """Percent of queries whose nearest item has their own index; equal items share."""
    right = 0.0
    for i, a in enumerate(query):
        scores = [float((a.astype(np.float64) * b.astype(np.float64)).sum()) for b in item]
        best = [j for j, value in enumerate(scores) if value == max(scores)]
        right += (i in best) / len(best)
    return 100 * right / len(query)


def margin_by_force(left_ND: np.ndarray, right_MD: np.ndarray, k: int, score: str) -> np.ndarray:
    """Margin scores, float64 [N, M]; -inf outside the k nearest of the left sentence."""
    left, right = left_ND.astype(np.float64), right_MD.astype(np.float64)
    cosine = [[float((a * b).sum()) for b in right] for a in left]
    columns = [[row[j] for row in cosine] for j in range(len(right))]
    margin_NM = np.full((len(left), len(right)), -np.inf)
    for i, row in enumerate(cosine):
        near = sorted(row, reverse=True)[:k]
        for j, value in enumerate(row):
            back = sorted(columns[j], reverse=True)[:k]
            around = (sum(near) / len(near) + sum(back) / len(back)) / 2
            if value >= near[-1]:
                by_kind = {'cosine': value, 'ratio': value / around, 'distance': value - around}
                margin_NM[i, j] = by_kind[score]
    return margin_NM


def mine_by_force(forward: np.ndarray, backward: np.ndarray, strategy: str) -> set[tuple[int, int]]:
    """Pairs by a strategy, from [N, M] scores of the candidates of each side."""
    there = [(forward[i].max(), i, int(forward[i].argmax())) for i in range(len(forward))]
    back = [(backward[:, j].max(), int(backward[:, j].argmax()), j) for j in range(len(forward[0]))]
    if strategy == 'forward':
        return {(i, j) for _, i, j in there}
    if strategy == 'backward':
        return {(i, j) for _, i, j in back}
    if strategy == 'intersection':
        return {(i, j) for _, i, j in there} & {(i, j) for _, i, j in back}
    pairs: set[tuple[int, int]] = set()
    for _, i, j in sorted(there + back, key=lambda x: -x[0]):
        if all(i != a and j != b for a, b in pairs):
            pairs.add((i, j))
    return pairs


def clip_benchmark_recall(score_QN: np.ndarray, right_QN: np.ndarray, k: int) -> float:
    """R@K of LAION-AI/CLIP_benchmark clip_benchmark/metrics/zeroshot_retrieval.py, in percent.

    A query counts if at least one right item is among its k best: `recall_at_k` is the share of
    its right items that are found, and `evaluate` takes the mean of "> 0" over the queries.
    """
    best_QK = np.argsort(-score_QN, axis=1, kind='stable')[:, :k]
    found_Q = np.take_along_axis(right_QN, best_QK, axis=1).sum(1) / right_QN.sum(1)
    return 100 * float((found_Q > 0).mean())
