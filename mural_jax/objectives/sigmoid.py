"""The pairwise sigmoid loss of SigLIP."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from mural_jax.objectives.pairwise import check_way_and_tile, own_and_best, top_share
from mural_jax.similarity.labels import shares_id
from mural_jax.similarity.measures import cosine
from mural_jax.similarity.ring import ADD, MAX
from mural_jax.similarity.tiles import Pairs, tiled
from mural_jax.types import Array


class SigmoidTally(NamedTuple):
    """What sigmoid keeps of an example, over the pairs that are not ignored."""

    own: Any
    best: Any
    loss: Any


@dataclasses.dataclass(frozen=True)
class Sigmoid:
    """Every pair by itself, matching or not (SigLIP, Zhai et al. 2023, arXiv:2303.15343).

        L = -1/B sum_ij log sigmoid(z_ij (x_i . y_j / t + b))

    with z_ij = 1 at i = j and -1 elsewhere. Two different pairs that share an id are left out.
    The scale 1/t and the bias b are learned; the paper starts from t = 0.1 and b = -10, so that
    the many negatives weigh little at first.

    by, tile: as of `Softmax`.
    """

    by: str = 'gathered'
    tile: int = 256
    how: ClassVar = SigmoidTally(ADD, MAX, ADD)

    def __post_init__(self) -> None:
        check_way_and_tile(self.by, self.tile)

    def __call__(
        self, query_BD: Array, result_BD: Array, ids_BN: Array, temperature: Array, bias: Array
    ) -> tuple[Array, dict[str, Array]]:
        """Both embeddings unit norm, float32 [B, D]; ids int32 [B, N] -> loss, logs.

        Logs: `accuracy` as of `Softmax`, `temperature` and `bias`.
        """
        scalars = {'temperature': temperature, 'bias': bias}
        if self.by == 'ring':
            loss, accuracy = tiled(self, query_BD, result_BD, ids_BN, (temperature, bias))
            return loss, {'accuracy': accuracy, **scalars}
        score_BB = cosine(query_BD, result_BD)
        same_BB = jnp.eye(len(score_BB), dtype=bool)
        ignore_BB = shares_id(ids_BN, ids_BN) & ~same_BB
        logit_BB = score_BB / temperature + bias
        log_p_BB = jax.nn.log_sigmoid(jnp.where(same_BB, logit_BB, -logit_BB))
        loss = -jnp.where(ignore_BB, 0.0, log_p_BB).sum(1).mean()
        accuracy = 0.5 * (top_share(score_BB, ignore_BB) + top_share(score_BB.T, ignore_BB.T))
        return loss, {'accuracy': accuracy, **scalars}

    def tally(self, pairs: Pairs, dim: int, temperature: Array, bias: Array) -> SigmoidTally:
        """As in `Pairwise`."""
        logit_QR = pairs.score_QR / temperature + bias
        log_p_QR = jax.nn.log_sigmoid(jnp.where(pairs.same_QR, logit_QR, -logit_QR))
        loss = -jnp.where(pairs.kept_QR, log_p_QR, 0.0).sum(dim)
        return SigmoidTally(*own_and_best(pairs, dim), loss)

    def loss(self, query: SigmoidTally, result: SigmoidTally, *scalars: Array) -> Array:
        """As in `Pairwise`. Every pair is in the sums of queries and of results."""
        return 0.5 * (query.loss + result.loss)

    def slope(
        self,
        pairs: Pairs,
        query: SigmoidTally,
        result: SigmoidTally,
        temperature: Array,
        bias: Array,
    ) -> tuple[Array, tuple[Array, Array]]:
        """-z_ij sigmoid(-z_ij logit_ij), by the temperature."""
        logit_QR = pairs.score_QR / temperature + bias
        excess_QR = jax.nn.sigmoid(logit_QR) - pairs.same_QR
        of_logit_QR = jnp.where(pairs.kept_QR, excess_QR, 0.0)
        of_score_QR = of_logit_QR / temperature
        return of_score_QR, (-of_score_QR * pairs.score_QR / temperature, of_logit_QR)
