"""Objectives over pairs: a score matrix and labels go in, a loss comes out.

An objective says what has to be remembered of a query or a result while it meets the other side
(`tally`), how the tallies of two tiles merge (`merges`), and what loss follows from them (`loss`).
That alone gives the loss with all scores at once, where jax differentiates it. With `slope`, the
gradient by a score, the same objective runs tile by tile around a ring of devices.
"""

import dataclasses
from typing import Annotated, Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from mural_jax.config.changes import MEANS
from mural_jax.similarity.base import Similarity
from mural_jax.similarity.labels import IGNORED, NEGATIVE, PairSide, label_own_pairs
from mural_jax.similarity.tiles import (
    PairTile,
    Scalars,
    accuracy_of,
    make_tile,
    own_scores,
    pair_sides,
    tiled_loss,
)
from mural_jax.types import Array, Tree, UserError

WAYS = {
    'gathered': 'the whole score matrix at once; every device holds its rows',
    'ring': 'tile by tile, in memory that does not grow with the batch',
}


class HardNegatives(NamedTuple):
    """One more query and one more result for each example, nearly right and matching nothing.

    query, result: Representations, trees of [B, ...]. real_query_B, real_result_B: Which of them
    count, bool [B].
    """

    query: Tree
    result: Tree
    real_query_B: Array
    real_result_B: Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairObjective:
    """A loss over all pairs of a batch.

    by: How it is computed, one of WAYS; loss and gradients are the same.
    tile: Queries and results that the ring compares at once, at least 1 (256 is ours).
    Raises UserError for another way or tile.

    A kind declares `scalars`, the learned scalars of the space that it reads; `needs_own_scores`
    (see `TallyObjective`); and `label_pairs`, which pairs are positive, negative and ignored.
    """

    by: Annotated[str, MEANS] = 'gathered'
    tile: Annotated[int, MEANS] = 256
    scalars: ClassVar[tuple[str, ...]] = ()
    needs_own_scores: ClassVar[bool] = False
    merges: ClassVar[Any]

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise UserError(f'by={self.by!r} must be one of {", ".join(WAYS)}.')
        if self.tile < 1:
            raise UserError(f'tile={self.tile} must be at least 1: queries compared at once.')

    @property
    def takes_hard_negatives(self) -> bool:
        """Hard negatives are further columns of the whole score matrix."""
        return self.by == 'gathered'

    def label_pairs(self, query: PairSide, result: PairSide) -> Array:
        """See `TallyObjective`: own pairs are positive, pairs that share an id are ignored."""
        return label_own_pairs(query, result)

    def tally(self, tile: PairTile, dim: int, scalars: Scalars) -> Any:
        """See `TallyObjective`."""
        raise NotImplementedError

    def loss(self, query: Any, result: Any, scalars: Scalars) -> Array:
        """See `TallyObjective`."""
        raise NotImplementedError

    def slope(
        self, tile: PairTile, query: Any, result: Any, scalars: Scalars
    ) -> tuple[Array, dict[str, Array]]:
        """See `TallyObjective`."""
        raise NotImplementedError

    def __call__(
        self,
        similarity: Similarity,
        query: Tree,
        result: Tree,
        ids_BN: Array,
        scalars: Scalars,
        hard: HardNegatives | None = None,
    ) -> tuple[Array, dict[str, Array]]:
        """(loss, logs) of the global batch.

        query, result: Representations, trees of [B, ...]; queries are the left side of the space.
        ids_BN: int32. hard: Only where `takes_hard_negatives`.
        Logs: `accuracy`, the share of queries and results whose own partner scores highest in the
        batch, in [0, 1], and every scalar.
        """
        if self.by == 'ring':
            assert hard is None, 'the task checks this before the run starts'
            loss, accuracy = tiled_loss(self, similarity, query, result, ids_BN, scalars)
            return loss, {'accuracy': accuracy, **scalars}
        own_B = own_scores(self, similarity, query, result)
        own = None if own_B is None else (own_B, own_B)
        # The whole batch is one tile.
        tile = make_tile(self, similarity, *pair_sides(query, result, ids_BN), own)
        tallies = self.tally(tile, 1, scalars), self.tally(tile, 0, scalars)
        # Hard negatives do not count here: accuracy compares with the batch, as around the ring.
        accuracy = accuracy_of(tallies)
        if hard is not None:
            tallies = self._add_hard_negatives(tallies, similarity, query, result, hard, scalars)
        loss = jnp.mean(self.loss(*tallies, scalars))
        return loss, {'accuracy': jax.lax.stop_gradient(accuracy), **scalars}

    def _add_hard_negatives(
        self,
        tallies: tuple[Any, Any],
        similarity: Similarity,
        query: Tree,
        result: Tree,
        hard: HardNegatives,
        scalars: Scalars,
    ) -> tuple[Any, Any]:
        """The tallies after each side has met the hard negatives of the other."""
        more_results = PairTile(
            similarity.score(query, hard.result), _label_real(hard.real_result_B)[None, :]
        )
        more_queries = PairTile(
            similarity.score(hard.query, result), _label_real(hard.real_query_B)[:, None]
        )
        # A query meets hard results and a result hard queries, each in one direction only.
        more = self.tally(more_results, 1, scalars), self.tally(more_queries, 0, scalars)
        return tuple(merge_tallies(self.merges, *pair) for pair in zip(tallies, more))


def merge_tallies(merges: Any, a: Any, b: Any) -> Any:
    """The tally of an example after both tiles."""
    return jax.tree.map(lambda how, a, b: how.merge(a, b), merges, a, b)


def own_and_best(tile: PairTile, dim: int) -> tuple[Array, Array]:
    """(score of the own pair where the tile holds it, highest score of the pairs that count)."""
    own = jnp.where(tile.positive_QR, tile.score_QR, 0.0).sum(dim)
    return own, jnp.where(tile.counts_QR, tile.score_QR, -jnp.inf).max(dim)


def _label_real(real_B: Array) -> Array:
    """Labels of columns of hard negatives, int8 [B]."""
    return jnp.where(real_B, NEGATIVE, IGNORED).astype(jnp.int8)
