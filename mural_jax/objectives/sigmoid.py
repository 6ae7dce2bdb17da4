"""The pairwise sigmoid loss."""

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from mural_jax.objectives.pairwise import PairObjective, own_and_best
from mural_jax.similarity.ring import ADD, MAX
from mural_jax.similarity.tiles import PairTile, Scalars
from mural_jax.types import Array


class SigmoidTally(NamedTuple):
    """What the sigmoid remembers of an example, over its pairs that count."""

    own: Any
    best: Any
    loss: Any


@dataclasses.dataclass(frozen=True)
class Sigmoid(PairObjective):
    """Every pair by itself is classified as matching or not.

        L = -1/B sum_ij log sigmoid(z_ij (score_ij / t + b))

    with z_ij = 1 at i = j and -1 elsewhere (SigLIP, Zhai et al. 2023, arXiv:2303.15343). Two
    different pairs that share an id are ignored. The temperature t and the bias b are learned; the
    paper starts from t = 0.1 and b = -10, so that the many negatives weigh little at first.
    """

    scalars: ClassVar[tuple[str, ...]] = ('temperature', 'bias')
    merges: ClassVar[Any] = SigmoidTally(ADD, MAX, ADD)

    def tally(self, tile: PairTile, dim: int, scalars: Scalars) -> SigmoidTally:
        """See `TallyObjective`."""
        logit_QR = self._logit(tile, scalars)
        # log_sigmoid stays finite where log(sigmoid) would be log(0).
        log_p_QR = jax.nn.log_sigmoid(jnp.where(tile.positive_QR, logit_QR, -logit_QR))
        loss = -jnp.where(tile.counts_QR, log_p_QR, 0.0).sum(dim)
        return SigmoidTally(*own_and_best(tile, dim), loss)

    def loss(self, query: SigmoidTally, result: SigmoidTally, scalars: Scalars) -> Array:
        """See `TallyObjective`."""
        # Every pair stands in the tally of its query and in that of its result.
        return 0.5 * (query.loss + result.loss)

    def slope(
        self, tile: PairTile, query: SigmoidTally, result: SigmoidTally, scalars: Scalars
    ) -> tuple[Array, dict[str, Array]]:
        """-z_ij sigmoid(-z_ij logit_ij), divided by the temperature."""
        excess_QR = jax.nn.sigmoid(self._logit(tile, scalars)) - tile.positive_QR
        of_logit_QR = jnp.where(tile.counts_QR, excess_QR, 0.0)
        of_score_QR = of_logit_QR / scalars['temperature']
        of_temperature_QR = -of_score_QR * tile.score_QR / scalars['temperature']
        return of_score_QR, {'temperature': of_temperature_QR, 'bias': of_logit_QR}

    def _logit(self, tile: PairTile, scalars: Scalars) -> Array:
        return tile.score_QR / scalars['temperature'] + scalars['bias']
