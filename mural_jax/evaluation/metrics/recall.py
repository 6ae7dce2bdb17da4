"""Recall of retrieval in both directions, with ties counted fairly."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mural_jax.evaluation.metrics.bootstrap import QuerySamples
from mural_jax.evaluation.metrics.ranking import (
    Ranks,
    count_rows,
    rank_queries,
    rank_score_matrix,
    take_rows,
)
from mural_jax.similarity.base import Similarity, Swapped
from mural_jax.similarity.measures import COSINE
from mural_jax.types import Tree

RANKS = (1, 5, 10)
PROTOCOL = {
    'recall': 'percent of queries with a right item among the first K',
    'rank': 'of the first right item, from 1; mean and median over queries',
    'ties': 'items of equal score share their ranks: the expected recall over their orders',
    'mean_recall': 'mean of R@1, R@5, R@10 in both directions, six numbers; rsum is their sum',
}


def recall_both_ways(
    left_items: Tree,
    right_items: Tree,
    owner_M: np.ndarray,
    left: str,
    right: str,
    fold: int = 0,
    similarity: Similarity = COSINE,
) -> list[QuerySamples]:
    """Returns the recalls between N left and M right items: [left to right, right to left].

    Args:
      left_items, right_items: representations of both sides of a space, trees of [N, ...].
      owner_M: the left item to which each right item belongs.
      left, right: the names of the sides in metrics, such as 'image' and 'text'.
      fold: cuts the left items into galleries of this size, each with the right items that belong
        to it; left items that fill no gallery are left out. 0 for one gallery.
      similarity: how the space compares its left side with its right one.
    """
    count = count_rows(left_items)
    # One gallery is one fold of everything.
    fold = fold or count
    parts: list[list[QuerySamples]] = []
    for start in range(0, count - fold + 1, fold):
        # Right items follow the left item that they belong to.
        chosen_M = np.flatnonzero((owner_M >= start) & (owner_M < start + fold))
        own_M = owner_M[chosen_M] - start
        one = take_rows(left_items, slice(start, start + fold))
        other = take_rows(right_items, chosen_M)
        ranks = (
            rank_queries(one, other, group_by_owner(own_M, fold), similarity),
            rank_queries(other, one, list(own_M[:, None]), Swapped(similarity)),
        )
        # The bootstrap draws left items, with the right items that belong to them.
        items = np.arange(start, start + fold), own_M + start
        parts.append(_name_metrics(ranks, items, left, right))
    return [_concatenate(column) for column in zip(*parts)]


def recall_of_scores(score_NN: np.ndarray, left: str, right: str) -> list[QuerySamples]:
    """Returns the recalls of N pairs in both directions, as `recall_both_ways` does.

    score_NN: a row for each left item and a column for each right one; pairs are on the diagonal.
    """
    pairs = np.arange(len(score_NN))
    own = list(pairs[:, None])
    ranks = rank_score_matrix(score_NN, own), rank_score_matrix(score_NN.T, own)
    return _name_metrics(ranks, (pairs, pairs), left, right)


def group_by_owner(owner_M: np.ndarray, count: int) -> list[np.ndarray]:
    """Returns for each of `count` owners the numbers of its items."""
    # Sorted by owner, the items of each are one slice.
    order = np.argsort(owner_M, kind='stable')
    ends = np.cumsum(np.bincount(owner_M, minlength=count))
    return np.split(order, ends[:-1])


def _name_metrics(
    ranks: Sequence[Ranks], items: Sequence[np.ndarray], left: str, right: str
) -> list[QuerySamples]:
    names = f'{left}_to_{right}', f'{right}_to_{left}'
    return [
        QuerySamples(
            item_N.astype(np.int32),
            {f'{name}_r{k}': (100 * own.hit_rate(k)).astype(np.float32) for k in RANKS}
            | {f'{name}_mean_rank': own.expected_rank().astype(np.float32)},
        )
        for name, own, item_N in zip(names, ranks, items)
    ]


def _concatenate(parts: Sequence[QuerySamples]) -> QuerySamples:
    values = {
        name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values
    }
    return QuerySamples(np.concatenate([part.item_N for part in parts]), values)


def add_mean_recall(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the metrics with `mean_recall` and `rsum` of all recalls, if there are any.

    The values are numbers, or arrays with one number for each draw.
    """
    # The same for draws as for numbers, so the mean recall has an interval too.
    recalls = [value for name, value in values.items() if name.endswith(_ENDS)]
    if not recalls:
        return dict(values)
    total = sum(recalls[1:], recalls[0])
    return {**values, 'mean_recall': total / len(recalls), 'rsum': total}


_ENDS = tuple(f'_r{k}' for k in RANKS)


def median_ranks(samples: Sequence[QuerySamples]) -> dict[str, float]:
    """Returns the median rank in each direction."""
    return {
        name.replace('mean_rank', 'median_rank'): float(np.median(value_N))
        for sample in samples
        for name, value_N in sample.values.items()
        if name.endswith('mean_rank')
    }


def chance_mean_recall(size: int) -> float:
    """Returns the mean recall of a random order of `size` items, in percent."""
    return float(np.mean([100 * min(k / size, 1) for k in RANKS]))


def mean_over_languages(
    results: Mapping[str, Mapping[str, float]], languages: Sequence[str]
) -> dict[str, float]:
    """Returns the mean of every metric over those languages that have results."""
    rows = [results[language] for language in languages if language in results]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}
