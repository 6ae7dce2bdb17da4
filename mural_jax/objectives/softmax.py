"""Contrastive objectives over the global batch.

Each in two ways, with the same loss and gradients. `by='gathered'`: all scores at once, a
global [B, B] of which every device holds its rows. `by='ring'`: tiles of scores, computed again
in the backward pass, in memory that does not depend on the batch (`tiles`).
"""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from mural_jax.objectives.pairwise import check_way_and_tile, own_and_best, top_share
from mural_jax.similarity.labels import shares_id
from mural_jax.similarity.measures import cosine
from mural_jax.similarity.ring import ADD, MAX, Merge
from mural_jax.similarity.tiles import Pairs, tiled
from mural_jax.types import Array


class Norm(NamedTuple):
    """The sum of exponentials mass exp(peak), peak the largest exponent."""

    peak: Array
    mass: Array


def _add(a: Norm, b: Norm) -> Norm:
    peak = jnp.maximum(a.peak, b.peak)
    return Norm(peak, a.mass * jnp.exp(a.peak - peak) + b.mass * jnp.exp(b.peak - peak))


# The exponent of an ignored pair, finite so that differences are. Beside any real peak, of which
# the pair of an example with itself is one, the mass of ignored pairs becomes 0.
LOWEST = float(jnp.finfo(jnp.float32).min)


class Hard(NamedTuple):
    """More queries and results, each nearly right for an example, that match nothing.

    Embeddings, unit norm, float32 [B, D], and which of them count, bool [B].
    """

    query_BD: Array
    result_BD: Array
    query_B: Array
    result_B: Array


class SoftmaxTally(NamedTuple):
    """What softmax keeps of an example, over the pairs that are not ignored."""

    own: Any
    best: Any
    norm: Any  # of the logits
    total: Any  # of the logits
    number: Any


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Bidirectional in-batch softmax with additive margin and label smoothing.

        s_ij = (x_i . y_j - m [i = j]) / t
        L = -1/B sum_i sum_j q_ij log softmax_j(s_ij), and the same over columns, added

    with q_ij = 1 - e + e / n_i at i = j and e / n_i elsewhere, n_i the pairs of row i that are
    not ignored. Two different pairs that share an id are ignored: neither positive nor negative.
    Sum of both directions as in ALIGN (Jia et al. 2021, arXiv:2102.05918); margin as in LaBSE
    (Feng et al. 2022, arXiv:2007.01852), divided by the temperature with the cosine.

    margin: m, in cosine, at least 0 (LaBSE: 0.3). label_smoothing: e in [0, 1) (ALIGN: 0.1).
    by: 'gathered' or 'ring'. tile: of the ring, the queries and results compared at once, at
    least 1 (256 is ours). Raises UserError where these two do not fit.
    """

    margin: float = 0.0
    label_smoothing: float = 0.0
    by: str = 'gathered'
    tile: int = 256
    how: ClassVar = SoftmaxTally(ADD, MAX, Merge(Norm(LOWEST, 0), _add), ADD, ADD)

    def __post_init__(self) -> None:
        check_way_and_tile(self.by, self.tile)

    def __call__(
        self, query_BD: Array, result_BD: Array, ids_BN: Array, temperature: Array,
        hard: Hard | None = None,
    ) -> tuple[Array, dict[str, Array]]:  # fmt: skip
        """Both embeddings unit norm, float32 [B, D]; ids int32 [B, N] -> loss, logs.

        hard: more columns of the scores, negatives of every query and of every result; only
        where all scores are gathered. Logs: `accuracy`, the share of queries and results whose
        own partner scores highest (without the margin, of the batch), in [0, 1], and
        `temperature`.
        """
        if self.by == 'ring':
            assert hard is None, 'checked where the run is made'
            loss, accuracy = tiled(self, query_BD, result_BD, ids_BN, (temperature,))
            return loss, {'accuracy': accuracy, 'temperature': temperature}
        score_BB = cosine(query_BD, result_BD)
        same_BB = jnp.eye(len(score_BB), dtype=bool)
        ignore_BB = shares_id(ids_BN, ids_BN) & ~same_BB
        logit_BB = self._logit(score_BB, same_BB, temperature)
        sides = [(logit_BB, ignore_BB), (logit_BB.T, ignore_BB.T)]
        if hard:
            sides = [
                _widened(*side, cosine(own_BD, more_BD) / temperature, real_B)
                for side, own_BD, more_BD, real_B in (
                    (sides[0], query_BD, hard.result_BD, hard.result_B),
                    (sides[1], result_BD, hard.query_BD, hard.query_B),
                )
            ]
        rows, columns = (self._cross_entropy(*side) for side in sides)
        accuracy = 0.5 * (top_share(score_BB, ignore_BB) + top_share(score_BB.T, ignore_BB.T))
        return rows + columns, {'accuracy': accuracy, 'temperature': temperature}

    def _logit(self, score: Array, same: Array, temperature: Array) -> Array:
        return (score - self.margin * same) / temperature

    def _cross_entropy(self, logit_BB: Array, ignore_BB: Array) -> Array:
        log_p_BB = jax.nn.log_softmax(jnp.where(ignore_BB, -jnp.inf, logit_BB))
        hit_B = jnp.diagonal(log_p_BB)
        number_B = (~ignore_BB).sum(1)
        spread_B = jnp.where(ignore_BB, 0.0, log_p_BB).sum(1) / number_B
        return -jnp.mean((1 - self.label_smoothing) * hit_B + self.label_smoothing * spread_B)

    def tally(self, pairs: Pairs, dim: int, temperature: Array) -> SoftmaxTally:
        """As in `Pairwise`."""
        kept_QR = pairs.kept_QR
        logit_QR = self._logit(pairs.score_QR, pairs.same_QR, temperature)
        exponent_QR = jnp.where(kept_QR, logit_QR, LOWEST)
        peak = exponent_QR.max(dim, keepdims=True)
        return SoftmaxTally(
            *own_and_best(pairs, dim),
            norm=Norm(peak.squeeze(dim), jnp.exp(exponent_QR - peak).sum(dim)),
            total=jnp.where(kept_QR, logit_QR, 0.0).sum(dim),
            number=kept_QR.sum(dim),
        )

    def loss(self, query: SoftmaxTally, result: SoftmaxTally, temperature: Array) -> Array:
        """As in `Pairwise`."""
        return self._entropy(query, temperature) + self._entropy(result, temperature)

    def _entropy(self, tally: SoftmaxTally, temperature: Array) -> Array:
        hit_B = self._logit(tally.own, jnp.ones_like(tally.own), temperature) - tally.norm.peak
        spread_B = tally.total / tally.number - tally.norm.peak
        gain_B = (1 - self.label_smoothing) * hit_B + self.label_smoothing * spread_B
        return jnp.log(tally.norm.mass) - gain_B

    def slope(
        self, pairs: Pairs, query: SoftmaxTally, result: SoftmaxTally, temperature: Array
    ) -> tuple[Array, tuple[Array]]:
        """p_ij - q_ij of both directions, by the temperature."""
        logit_QR = self._logit(pairs.score_QR, pairs.same_QR, temperature)

        def excess(tally: SoftmaxTally, dim: int) -> Array:
            """p_ij - q_ij, exact only where the pair is kept."""
            tally = jax.tree.map(lambda x: jnp.expand_dims(x, dim), tally)
            p_QR = jnp.exp(logit_QR - tally.norm.peak) / tally.norm.mass
            e = self.label_smoothing
            return p_QR - ((1 - e) * pairs.same_QR + e / tally.number)

        of_logit_QR = jnp.where(pairs.kept_QR, excess(query, 1) + excess(result, 0), 0.0)
        of_score_QR = of_logit_QR / temperature
        return of_score_QR, (-of_score_QR * logit_QR,)


def _widened(
    logit_BB: Array, ignore_BB: Array, more_BN: Array, real_N: Array
) -> tuple[Array, Array]:
    """(logits, which of them are ignored) with more columns, those that are real."""
    ignore_BN = jnp.broadcast_to(~real_N[None], more_BN.shape)
    return (
        jnp.concatenate([logit_BB, more_BN], axis=1),
        jnp.concatenate([ignore_BB, ignore_BN], axis=1),
    )
