"""Contrastive objectives over the global batch."""

import dataclasses

import jax
import jax.numpy as jnp

from mural_jax.objectives.similarity import cosine, shares_id
from mural_jax.types import Array


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
    """

    margin: float = 0.0
    label_smoothing: float = 0.0

    def __call__(
        self, query_BD: Array, result_BD: Array, ids_BN: Array, temperature: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Both embeddings unit norm, float32 [B, D]; ids int32 [B, N] -> loss, logs.

        Logs: `accuracy`, the share of queries and results whose own partner scores highest
        (without the margin), in [0, 1], and `temperature`.
        """
        score_BB = cosine(query_BD, result_BD)
        same_BB = jnp.eye(len(score_BB), dtype=bool)
        ignore_BB = shares_id(ids_BN) & ~same_BB
        logit_BB = (score_BB - self.margin * same_BB) / temperature
        rows = self._cross_entropy(logit_BB, ignore_BB)
        columns = self._cross_entropy(logit_BB.T, ignore_BB.T)
        accuracy = 0.5 * (_top(score_BB, ignore_BB) + _top(score_BB.T, ignore_BB.T))
        return rows + columns, {'accuracy': accuracy, 'temperature': temperature}

    def _cross_entropy(self, logit_BB: Array, ignore_BB: Array) -> Array:
        log_p_BB = jax.nn.log_softmax(jnp.where(ignore_BB, -jnp.inf, logit_BB))
        hit_B = jnp.diagonal(log_p_BB)
        number_B = (~ignore_BB).sum(1)
        spread_B = jnp.where(ignore_BB, 0.0, log_p_BB).sum(1) / number_B
        return -jnp.mean((1 - self.label_smoothing) * hit_B + self.label_smoothing * spread_B)


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """Every pair by itself, matching or not (SigLIP, Zhai et al. 2023, arXiv:2303.15343).

        L = -1/B sum_ij log sigmoid(z_ij (x_i . y_j / t + b))

    with z_ij = 1 at i = j and -1 elsewhere. Two different pairs that share an id are left out.
    The scale 1/t and the bias b are learned; the paper starts from t = 0.1 and b = -10, so that
    the many negatives weigh little at first.
    """

    def __call__(
        self, query_BD: Array, result_BD: Array, ids_BN: Array, temperature: Array, bias: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Both embeddings unit norm, float32 [B, D]; ids int32 [B, N] -> loss, logs.

        Logs: `accuracy` as of `Softmax`, `temperature` and `bias`.
        """
        score_BB = cosine(query_BD, result_BD)
        same_BB = jnp.eye(len(score_BB), dtype=bool)
        ignore_BB = shares_id(ids_BN) & ~same_BB
        logit_BB = score_BB / temperature + bias
        log_p_BB = jax.nn.log_sigmoid(jnp.where(same_BB, logit_BB, -logit_BB))
        loss = -jnp.where(ignore_BB, 0.0, log_p_BB).sum(1).mean()
        accuracy = 0.5 * (_top(score_BB, ignore_BB) + _top(score_BB.T, ignore_BB.T))
        return loss, {'accuracy': accuracy, 'temperature': temperature, 'bias': bias}


def _top(score_BB: Array, ignore_BB: Array) -> Array:
    best_B = jnp.where(ignore_BB, -jnp.inf, score_BB).max(1)
    return jnp.mean(jnp.diagonal(score_BB) >= best_B)
