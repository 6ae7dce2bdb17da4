"""Spearman correlation of similarities with ratings, and its spread over samples of queries."""

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from mural_jax.evaluation.metrics.bootstrap import DRAWS, SEED
from mural_jax.types import UserError

FEWEST = 3  # pairs; of two the correlation is 1 or -1 whatever the model


class Rated(NamedTuple):
    """P pairs with their ratings.

    left_PD, right_PD: unit vectors. rating_P: finite. query_P: the number of each pair's query.
    """

    left_PD: np.ndarray
    right_PD: np.ndarray
    rating_P: np.ndarray
    query_P: np.ndarray


def agreement(rated: Rated, where: str) -> dict[str, float]:
    """{metric: value} of pairs, correlations times 100. Raises UserError where there is none.

    The bootstrap is there from four queries on: half of fewer have no correlation.
    """
    _check_ratings(rated.rating_P, where)
    cosine_P = (rated.left_PD.astype(np.float64) * rated.right_PD).sum(1)
    if np.ptp(cosine_P) == 0:
        raise UserError(f'All pairs of {where} have the same similarity: the model tells nothing.')
    found = {'spearman': 100 * spearman(cosine_P, rated.rating_P), 'pairs': float(len(cosine_P))}
    drawn_S = sampled(cosine_P, rated.rating_P, rated.query_P)
    drawn_S = drawn_S[np.isfinite(drawn_S)]
    if not len(drawn_S):
        return found
    return found | {
        'spearman_bootstrap_mean': 100 * float(drawn_S.mean()),
        'spearman_bootstrap_std': 100 * float(drawn_S.std()),
    }


def _check_ratings(rating_P: np.ndarray, where: str) -> None:
    if len(rating_P) < FEWEST:
        raise UserError(f'{where} has {len(rating_P)} rated pairs; {FEWEST} are needed at least.')
    missing = int((~np.isfinite(rating_P)).sum())
    if missing:
        raise UserError(
            f'{missing} of {len(rating_P)} examples of {where} have no rating. Name a data set '
            'whose examples are rated, such as one of `mural data ingest crisscrossed`.'
        )
    if np.ptp(rating_P) == 0:
        raise UserError(
            f'All ratings of {where} are {rating_P[0]:g}: nothing correlates with that.'
        )


def spearman(a_P: np.ndarray, b_P: np.ndarray) -> float:
    """Pearson correlation of ranks, in [-1, 1], ties at the mean of theirs; NaN of a constant."""
    from scipy.stats import rankdata  # Only here: it takes a second to import.

    rank_P, other_P = (rankdata(x) - (len(x) + 1) / 2 for x in (a_P, b_P))
    length = math.sqrt((rank_P @ rank_P) * (other_P @ other_P))
    return float(rank_P @ other_P / length) if length else math.nan


def sampled(
    cosine_P: np.ndarray, rating_P: np.ndarray, query_P: np.ndarray, draws: int = DRAWS,
    seed: int = SEED,
) -> np.ndarray:  # fmt: skip
    """The correlation in each draw, float64 [draws]; NaN where it has none.

    "For each correlation estimate, we sample half of the queries and for each selected query, we
    choose one of the items for which CxC supplies a paired rating", 1,000 times: Parekh et al.
    2021, arXiv:2004.15020, as Jiang et al. 2022, arXiv:2203.06875, section 4.2.1 repeats it. Their
    data comes without code for it. Ours: half, rounded down, is drawn without replacement; each
    item of the first side is a query. That fits the spread which ALIGN (arXiv:2102.05918) prints,
    0.4, 0.8 and 1.2 for STS, SIS and SITS: 12,500 captions, 2,500 pictures and, of SITS, 2,500
    pictures rather than 12,500 captions, which would spread by 0.4. PromCSE's code draws 2,500
    pictures for STS too, with replacement, and prints 1.0 to 1.2.
    """
    order_P = np.argsort(query_P, kind='stable')
    count_Q = np.bincount(query_P)
    first_Q = np.cumsum(count_Q) - count_Q
    rng = np.random.default_rng(seed)
    found = np.empty(draws)
    for draw in range(draws):
        chosen_H = rng.permutation(len(count_Q))[: len(count_Q) // 2]
        pair_H = order_P[first_Q[chosen_H] + rng.integers(count_Q[chosen_H])]
        found[draw] = spearman(cosine_P[pair_H], rating_P[pair_H])
    return found


def numbered(keys: Sequence[Hashable]) -> np.ndarray:
    """The number of each key, from 0 in their order, int [P]."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], int)
