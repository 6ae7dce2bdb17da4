"""Values per query: their means, bootstrap intervals, and a test whether two runs differ."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

DRAWS = 1000  # bootstrap draws (ours; as many as Crisscrossed Captions takes)
SEED = 0  # Fixed, so that two evaluations draw the same items and can be compared in pairs.
LEVEL = 0.95  # of a confidence interval


class QuerySamples(NamedTuple):
    """The metric values of queries of one kind, such as all texts of a language.

    item_N: int32, for each query the place in the split of the item it belongs to, such as its
    image. The bootstrap draws items, each with all its queries.
    values: {metric: float32 [N]}; the metric is the mean over the queries.
    """

    item_N: np.ndarray
    values: Mapping[str, np.ndarray]

    def map_items(self, places: Sequence[int]) -> 'QuerySamples':
        """Returns the same samples with item i numbered `places[i]`, its place in the split."""
        return self._replace(item_N=np.asarray(places, np.int32)[self.item_N])


def mean_metrics(samples: Sequence[QuerySamples]) -> dict[str, float]:
    """Returns {metric: its mean over the queries}."""
    return {
        name: float(np.mean(value_N, dtype=np.float64))
        for sample in samples
        for name, value_N in sample.values.items()
    }


def draw_items(size: int, draws: int = DRAWS, seed: int = SEED) -> np.ndarray:
    """Returns how often each of `size` items is in each draw, float32 [draws, size].

    Each draw takes `size` items with replacement.
    """
    # Multinomial counts are draws with replacement, without listing the items.
    rng = np.random.default_rng([seed, size])
    return rng.multinomial(size, np.full(size, 1 / size), size=draws).astype(np.float32)


def resample_means(samples: Sequence[QuerySamples], drawn_SI: np.ndarray) -> dict[str, np.ndarray]:
    """Returns {metric: its mean in each draw, float64 [S]}; NaN if a draw has none of its queries.

    drawn_SI: how often each item is in each draw, see `draw_items`.
    """
    means = {}
    for sample in samples:
        size = drawn_SI.shape[1]
        # Sums and counts per item first: then all draws are one matrix product.
        count_S = drawn_SI @ np.bincount(sample.item_N, minlength=size).astype(np.float32)
        for name, value_N in sample.values.items():
            sum_I = np.bincount(sample.item_N, weights=value_N, minlength=size)
            with np.errstate(invalid='ignore'):
                means[name] = (drawn_SI @ sum_I) / count_S
    return means


def mean_over_draws(values: Sequence[np.ndarray]) -> np.ndarray:
    """Returns the mean over languages in each draw, [S], given one [S] for each language.

    A language without queries in a draw does not count there; NaN if no language has any.
    """
    value_LS = np.stack(values)
    # In a draw without any item of a language its value is NaN.
    valid_LS = np.isfinite(value_LS)
    with np.errstate(invalid='ignore'):
        return np.where(valid_LS, value_LS, 0).sum(0) / valid_LS.sum(0)


def percentile_interval(value_S: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """Returns (low, high), the middle `level` of the draws; NaN if there is no finite draw."""
    finite = value_S[np.isfinite(value_S)]
    if not len(finite):
        return float('nan'), float('nan')
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def bootstrap_p_value(difference_S: np.ndarray) -> float:
    """Returns the two-sided p-value of a paired bootstrap, in (0, 1].

    p = 2 min(P(difference <= 0), P(difference >= 0)) over the draws, at most 1. A difference of
    exactly 0 counts for both sides, and one is added to each side so that p is never 0.
    """
    finite = difference_S[np.isfinite(difference_S)]
    # S draws cannot show a p below 2 / (S + 1).
    sides = ((finite <= 0).sum() + 1, (finite >= 0).sum() + 1)
    return float(min(1.0, 2 * min(sides) / (len(finite) + 1)))
