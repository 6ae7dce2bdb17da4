"""The contrastive softmax."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from mural_jax.objectives.pairwise import PairObjective, own_and_best
from mural_jax.similarity.ring import ADD, MAX, Merge
from mural_jax.similarity.tiles import PairTile, Scalars
from mural_jax.types import Array


class LogSum(NamedTuple):
    """A sum of exponentials, mass * exp(peak); peak is the largest exponent."""

    peak: Array
    mass: Array


def _add_log_sums(a: LogSum, b: LogSum) -> LogSum:
    # Relative to the larger peak no exponential overflows.
    peak = jnp.maximum(a.peak, b.peak)
    return LogSum(peak, a.mass * jnp.exp(a.peak - peak) + b.mass * jnp.exp(b.peak - peak))


# The exponent of an ignored pair. It is finite, so that differences of exponents stay finite; next
# to any real exponent, such as that of the own pair, the mass of ignored pairs becomes 0.
LOWEST = float(jnp.finfo(jnp.float32).min)


class SoftmaxTally(NamedTuple):
    """What the softmax remembers of an example, over its pairs that count."""

    own: Any
    best: Any
    log_sum: Any  # of the logits
    total: Any  # sum of the logits
    number: Any  # of pairs


@dataclasses.dataclass(frozen=True)
class Softmax(PairObjective):
    """Bidirectional in-batch softmax with additive margin and label smoothing.

        s_ij = (score_ij - m [i = j]) / t
        L = -1/B sum_i sum_j q_ij log softmax_j(s_ij), and the same over columns, added

    with q_ij = 1 - e + e / n_i at i = j and e / n_i elsewhere; n_i is the number of pairs of row i
    that count. Two different pairs that share an id are ignored. The sum of both directions is
    ALIGN's (Jia et al. 2021, arXiv:2102.05918); the margin is LaBSE's (Feng et al. 2022,
    arXiv:2007.01852), divided by the temperature together with the score.

    margin: m, in units of the score, at least 0 (LaBSE: 0.3).
    label_smoothing: e in [0, 1) (ALIGN: 0.1).
    """

    margin: float = 0.0
    label_smoothing: float = 0.0
    scalars: ClassVar[tuple[str, ...]] = ('temperature',)
    merges: ClassVar[Any] = SoftmaxTally(
        ADD, MAX, Merge(LogSum(LOWEST, 0), _add_log_sums), ADD, ADD
    )

    def tally(self, tile: PairTile, dim: int, scalars: Scalars) -> SoftmaxTally:
        """See `TallyObjective`."""
        logit_QR = self._logit(tile.score_QR, tile.positive_QR, scalars)
        exponent_QR = jnp.where(tile.counts_QR, logit_QR, LOWEST)
        # The loss does not depend on the peak, so neither does its gradient.
        peak = jax.lax.stop_gradient(exponent_QR.max(dim, keepdims=True))
        return SoftmaxTally(
            *own_and_best(tile, dim),
            log_sum=LogSum(peak.squeeze(dim), jnp.exp(exponent_QR - peak).sum(dim)),
            # Label smoothing needs the sum of the logits, the rest of the loss only their norm.
            total=jnp.where(tile.counts_QR, logit_QR, 0.0).sum(dim),
            number=jnp.broadcast_to(tile.counts_QR, tile.score_QR.shape).sum(dim),
        )

    def loss(self, query: SoftmaxTally, result: SoftmaxTally, scalars: Scalars) -> Array:
        """See `TallyObjective`."""
        return self._cross_entropy(query, scalars) + self._cross_entropy(result, scalars)

    def _cross_entropy(self, tally: SoftmaxTally, scalars: Scalars) -> Array:
        own_B = self._logit(tally.own, jnp.ones_like(tally.own), scalars) - tally.log_sum.peak
        # Both terms relative to the peak: the difference to log(mass) stays accurate.
        mean_B = tally.total / tally.number - tally.log_sum.peak
        target_B = (1 - self.label_smoothing) * own_B + self.label_smoothing * mean_B
        return jnp.log(tally.log_sum.mass) - target_B

    def slope(
        self, tile: PairTile, query: SoftmaxTally, result: SoftmaxTally, scalars: Scalars
    ) -> tuple[Array, dict[str, Array]]:
        """p_ij - q_ij, added over both directions, divided by the temperature."""
        logit_QR = self._logit(tile.score_QR, tile.positive_QR, scalars)

        def excess(tally: SoftmaxTally, dim: int) -> Array:
            """p_ij - q_ij of one direction, exact where the pair counts."""
            tally = jax.tree.map(lambda x: jnp.expand_dims(x, dim), tally)
            p_QR = jnp.exp(logit_QR - tally.log_sum.peak) / tally.log_sum.mass
            e = self.label_smoothing
            return p_QR - ((1 - e) * tile.positive_QR + e / tally.number)

        # Both directions read the same score, so their slopes add.
        of_logit_QR = jnp.where(tile.counts_QR, excess(query, 1) + excess(result, 0), 0.0)
        of_score_QR = of_logit_QR / scalars['temperature']
        return of_score_QR, {'temperature': -of_score_QR * logit_QR}

    def _logit(self, score: Array, positive: Array, scalars: Scalars) -> Array:
        return (score - self.margin * positive) / scalars['temperature']
