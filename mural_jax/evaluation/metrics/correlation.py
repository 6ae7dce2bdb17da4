"""Spearman correlation of similarities with ratings, and its spread over samples of queries."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from mural_jax.evaluation.metrics.bootstrap import DRAWS, SEED
from mural_jax.types import UserError

FEWEST = 3  # pairs; the correlation of two pairs is 1 or -1 whatever the model


class RatedEmbeddings(NamedTuple):
    """P embedded pairs with their ratings.

    left_PD, right_PD: unit vectors. rating_P: finite ratings. query_P: the number of the query of
    each pair, from 0 without gaps.
    """

    left_PD: np.ndarray
    right_PD: np.ndarray
    rating_P: np.ndarray
    query_P: np.ndarray


def correlate_ratings(rated: RatedEmbeddings, where: str) -> dict[str, float]:
    """Returns {metric: value}, correlations times 100.

    The bootstrap metrics need at least four queries, because half of fewer have no correlation.
    Raises UserError if there is no correlation; `where` names the data in its message.
    """
    _check_ratings(rated.rating_P, where)
    # In float64: rounding would break or make ties, which ranks depend on.
    cosine_P = (rated.left_PD.astype(np.float64) * rated.right_PD).sum(1)
    if np.ptp(cosine_P) == 0:
        raise UserError(
            f'All pairs of {where} have the same similarity: the model tells none apart.'
        )
    metrics = {'spearman': 100 * spearman(cosine_P, rated.rating_P), 'pairs': float(len(cosine_P))}
    value_S = bootstrap_correlations(cosine_P, rated.rating_P, rated.query_P)
    # A draw whose ratings or cosines are all equal has no correlation.
    value_S = value_S[np.isfinite(value_S)]
    if not len(value_S):
        return metrics
    return metrics | {
        'spearman_bootstrap_mean': 100 * float(value_S.mean()),
        'spearman_bootstrap_std': 100 * float(value_S.std()),
    }


def _check_ratings(rating_P: np.ndarray, where: str) -> None:
    """Raises UserError if ratings are too few, missing, or all equal."""
    if len(rating_P) < FEWEST:
        raise UserError(f'{where} has {len(rating_P)} rated pairs; at least {FEWEST} are needed.')
    missing = int((~np.isfinite(rating_P)).sum())
    if missing:
        raise UserError(
            f'{missing} of {len(rating_P)} examples of {where} have no rating. Name a data set '
            'whose examples are rated, such as one of `mural data ingest crisscrossed`.'
        )
    if np.ptp(rating_P) == 0:
        raise UserError(
            f'All ratings of {where} are {rating_P[0]:g}: nothing can correlate with a constant.'
        )


def spearman(a_P: np.ndarray, b_P: np.ndarray) -> float:
    """Returns the Pearson correlation of the ranks, in [-1, 1]; NaN if one side is constant.

    Tied values share the mean of their ranks.
    """
    from scipy.stats import rankdata  # Imported here because it takes a second.

    rank_P, other_P = (rankdata(x) - (len(x) + 1) / 2 for x in (a_P, b_P))
    length = math.sqrt((rank_P @ rank_P) * (other_P @ other_P))
    return float(rank_P @ other_P / length) if length else math.nan


def bootstrap_correlations(
    cosine_P: np.ndarray,
    rating_P: np.ndarray,
    query_P: np.ndarray,
    draws: int = DRAWS,
    seed: int = SEED,
) -> np.ndarray:
    """Returns the correlation in each draw of queries, float64 [draws]; NaN if a draw has none.

    "For each correlation estimate, we sample half of the queries and for each selected query, we
    choose one of the items for which CxC supplies a paired rating", 1,000 times: Parekh et al.
    2021, arXiv:2004.15020, as Jiang et al. 2022, arXiv:2203.06875, section 4.2.1 repeats it. Their
    data comes without code for it. Ours: half, rounded down, is drawn without replacement; each
    item of the first side is a query. That fits the spread that ALIGN (arXiv:2102.05918) prints,
    0.4, 0.8 and 1.2 for STS, SIS and SITS: 12,500 captions, 2,500 images and, for SITS, 2,500
    images rather than 12,500 captions, which would spread by 0.4. PromCSE's code draws 2,500
    images for STS too, with replacement, and prints 1.0 to 1.2.
    """
    # The pairs of query q are order_P[first_Q[q] : first_Q[q] + count_Q[q]].
    order_P = np.argsort(query_P, kind='stable')
    count_Q = np.bincount(query_P)
    first_Q = np.cumsum(count_Q) - count_Q
    rng = np.random.default_rng(seed)
    value_S = np.empty(draws)
    for draw in range(draws):
        drawn_Q = rng.permutation(len(count_Q))[: len(count_Q) // 2]
        drawn_P = order_P[first_Q[drawn_Q] + rng.integers(count_Q[drawn_Q])]
        value_S[draw] = spearman(cosine_P[drawn_P], rating_P[drawn_P])
    return value_S


def number_keys(keys: Sequence[Hashable]) -> np.ndarray:
    """Returns a number for each key, int [P]: equal keys share one, from 0 by first appearance."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], int)
