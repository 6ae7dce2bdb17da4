"""Scores query by query: their means, intervals by bootstrap, and whether two runs differ."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 1000  # of a bootstrap; ours, as many as Crisscrossed Captions takes
SEED = 0  # Two evaluations draw the same items, so that they are compared in pairs.
LEVEL = 0.95  # of an interval

Values = dict[str, float]
# Metrics -> those and what is made of them alone, such as the mean recall; of arrays too.
Combine = Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]


class Samples(NamedTuple):
    """Queries of one kind, such as all texts of a language.

    item_N: int32, the place in the split of what a query belongs to, such as its picture. Items are
    what is drawn again, with all their queries. values: {metric: float32 [N]}, whose mean over the
    queries is the metric.
    """

    item_N: np.ndarray
    values: Mapping[str, np.ndarray]

    def among(self, places: Sequence[int]) -> 'Samples':
        """The same where item i is the item `places[i]` of a larger split."""
        return self._replace(item_N=np.asarray(places, np.int32)[self.item_N])


def means(samples: Sequence[Samples]) -> Values:
    """{metric: mean over its queries}."""
    return {
        name: float(np.mean(value_N, dtype=np.float64))
        for sample in samples for name, value_N in sample.values.items()
    }  # fmt: skip


def draw(size: int, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """How often each of `size` items is in each draw with replacement, float32 [draws, size]."""
    rng = np.random.default_rng([seed, size])
    return rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float32)


def resampled(samples: Sequence[Samples], drawn_SI: np.ndarray) -> dict[str, np.ndarray]:
    """{metric: its mean in each draw, float64 [S]}; NaN in a draw without any of its queries."""
    found = {}
    for sample in samples:
        size = drawn_SI.shape[1]
        count_S = drawn_SI @ np.bincount(sample.item_N, minlength=size).astype(np.float32)
        for name, value_N in sample.values.items():
            sum_I = np.bincount(sample.item_N, weights=value_N, minlength=size)
            with np.errstate(invalid='ignore'):
                found[name] = (drawn_SI @ sum_I) / count_S
    return found


def mean_of(draws: Sequence[np.ndarray]) -> np.ndarray:
    """The mean in each draw of the languages that have queries in it; NaN of none, [S]."""
    value_LS = np.stack(draws)
    there_LS = np.isfinite(value_LS)
    with np.errstate(invalid='ignore'):
        return np.where(there_LS, value_LS, 0).sum(0) / there_LS.sum(0)


def interval(value_S: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """(low, high): the middle `level` of draws (percentile bootstrap); NaN without any."""
    kept = value_S[np.isfinite(value_S)]
    if not len(kept):
        return float('nan'), float('nan')
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def chance_of_no_difference(difference_S: np.ndarray) -> float:
    """Two-sided p-value of a paired bootstrap, in [0, 1].

    p = 2 min(P(difference <= 0), P(difference >= 0)) over draws, at most 1; a draw without a
    difference counts for both sides, and one is added to each so that p is never 0.
    """
    kept = difference_S[np.isfinite(difference_S)]
    sides = ((kept <= 0).sum() + 1, (kept >= 0).sum() + 1)
    return float(min(1.0, 2 * min(sides) / (len(kept) + 1)))
