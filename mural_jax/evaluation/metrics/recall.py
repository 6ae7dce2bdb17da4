"""Recall of retrieval, both directions, ties counted fairly."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mural_jax.evaluation.metrics.bootstrap import Samples
from mural_jax.evaluation.metrics.ranking import Ranks, ranks, ranks_of_scores

RANKS = (1, 5, 10)
PROTOCOL = {
    'recall': 'percent of queries of which a right item ranks in the first K',
    'rank': 'of the first right item, from 1; mean and median over queries',
    'ties': 'items of equal score share their ranks: the expected recall over their orders',
    'mean_recall': 'mean of R@1, R@5, R@10 in both directions, six numbers; rsum is their sum',
}


def both_ways(
    left_ND: np.ndarray, right_MD: np.ndarray, owner_M: np.ndarray, left: str, right: str,
    fold: int = 0,
) -> list[Samples]:  # fmt: skip
    """Recalls between N left items and M right ones in both directions.

    owner_M: which left item a right one belongs to. fold: left items are cut into parts of so many,
    and each is a gallery of its own with what belongs to it; 0 for one gallery.
    """
    count = len(left_ND)
    fold = fold or count
    parts: list[list[Samples]] = []
    for start in range(0, count - fold + 1, fold):
        chosen_M = np.flatnonzero((owner_M >= start) & (owner_M < start + fold))
        owner = owner_M[chosen_M] - start
        one_ND, other_MD = left_ND[start : start + fold], right_MD[chosen_M]
        found = (
            ranks(one_ND, other_MD, owned(owner, fold)),
            ranks(other_MD, one_ND, list(owner[:, None])),
        )
        items = np.arange(start, start + fold), owner + start
        parts.append(_named(found, items, left, right))
    return [_joined(column) for column in zip(*parts)]


def both_ways_of(score_NN: np.ndarray, left: str, right: str) -> list[Samples]:
    """The same of scores of N pairs, a row for each left item and a column for each right one."""
    pairs = np.arange(len(score_NN))
    own = list(pairs[:, None])
    found = ranks_of_scores(score_NN, own), ranks_of_scores(score_NN.T, own)
    return _named(found, (pairs, pairs), left, right)


def owned(owner_M: np.ndarray, count: int) -> list[np.ndarray]:
    """For each of `count` items the numbers of what belongs to it."""
    order = np.argsort(owner_M, kind='stable')
    ends = np.cumsum(np.bincount(owner_M, minlength=count))
    return np.split(order, ends[:-1])


def _named(
    found: Sequence[Ranks], items: Sequence[np.ndarray], left: str, right: str
) -> list[Samples]:
    names = f'{left}_to_{right}', f'{right}_to_{left}'
    return [
        Samples(
            item_N.astype(np.int32),
            {f'{name}_r{k}': (100 * ranked.found(k)).astype(np.float32) for k in RANKS}
            | {f'{name}_mean_rank': ranked.first().astype(np.float32)},
        )
        for name, ranked, item_N in zip(names, found, items)
    ]


def _joined(parts: Sequence[Samples]) -> Samples:
    values = {
        name: np.concatenate([part.values[name] for part in parts]) for name in parts[0].values
    }
    return Samples(np.concatenate([part.item_N for part in parts]), values)


def combined(values: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics, and the mean and the sum of all recalls; of numbers or of arrays of draws."""
    recalls = [value for name, value in values.items() if name.endswith(tuple(_ENDS))]
    if not recalls:
        return dict(values)
    total = sum(recalls[1:], recalls[0])
    return {**values, 'mean_recall': total / len(recalls), 'rsum': total}


_ENDS = [f'_r{k}' for k in RANKS]


def medians(samples: Sequence[Samples]) -> dict[str, float]:
    """The median rank of each direction."""
    return {
        name.replace('mean_rank', 'median_rank'): float(np.median(value_N))
        for sample in samples for name, value_N in sample.values.items()
        if name.endswith('mean_rank')
    }  # fmt: skip


def chance(size: int) -> float:
    """The mean recall of a random order of `size` items, percent."""
    return float(np.mean([100 * min(k / size, 1) for k in RANKS]))


def mean_over(results: dict[str, dict[str, float]], languages: Sequence[str]) -> dict[str, float]:
    """The mean of every metric over the languages that have results."""
    rows = [results[language] for language in languages if language in results]
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]} if rows else {}
