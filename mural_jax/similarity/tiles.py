"""A loss over all pairs of a batch from tiles of pairs: no device ever sees the whole score matrix.

Q and R in tensor names: queries and results of a tile.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from mural_jax.similarity.base import Similarity
from mural_jax.similarity.labels import IGNORED, POSITIVE, PairSide
from mural_jax.similarity.ring import ADD, sweep
from mural_jax.types import Array, Tree

Scalars = Mapping[str, Array]  # Learned scalars of a space: temperature, bias.


class PairTile(NamedTuple):
    """Pairs of some queries with some results.

    score_QR: Score matrix, float32. label_QR: POSITIVE, NEGATIVE or IGNORED, int8.
    own_Q, own_R: Score of the own pair of each query and of each result, which may lie in another
    tile; None for an objective that does not declare `needs_own_scores`.
    """

    score_QR: Array
    label_QR: Array
    own_Q: Array | None = None
    own_R: Array | None = None

    @property
    def positive_QR(self) -> Array:
        return self.label_QR == POSITIVE

    @property
    def counts_QR(self) -> Array:
        """Positive and negative pairs, bool."""
        return self.label_QR != IGNORED


class TallyObjective(Protocol):
    """A loss that is built from one tally for each query and one for each result.

    A tally is what has to be remembered of an example while it meets the other side tile by tile:
    a NamedTuple of arrays [B], at least `own` (score of its own pair) and `best` (highest score
    of its pairs that count), from which the accuracy follows.

    merges: A `ring.Merge` for each entry of a tally.
    needs_own_scores: Whether `tally` reads the own scores of a tile (a hinge does).
    """

    @property
    def tile(self) -> int: ...

    @property
    def merges(self) -> Any: ...

    @property
    def needs_own_scores(self) -> bool: ...

    def label_pairs(self, query: PairSide, result: PairSide) -> Array:
        """Labels of a tile of pairs, int8 [Q, R]."""
        ...

    def tally(self, tile: PairTile, dim: int, scalars: Scalars) -> Any:
        """Tallies of the queries (`dim` 1) or results (0) of a tile: reductions along `dim`."""
        ...

    def loss(self, query: Any, result: Any, scalars: Scalars) -> Array:
        """Loss of each example, [B], from its merged tallies on both sides; the mean counts."""
        ...

    def slope(
        self, tile: PairTile, query: Any, result: Any, scalars: Scalars
    ) -> tuple[Array, dict[str, Array]]:
        """B dL/dscore, [Q, R], and the share of each pair in B dL/dscalar, [Q, R] by scalar."""
        ...


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def tiled_loss(
    objective: TallyObjective,
    similarity: Similarity,
    query: Tree,
    result: Tree,
    ids_BN: Array,
    scalars: Scalars,
) -> tuple[Array, Array]:
    """(loss, accuracy in [0, 1]) over the global batch; accuracy has no gradient.

    query, result: Representations, trees of [B, ...]. The backward pass computes every score
    again; between the passes only the tallies are kept.
    """
    return _forward(objective, similarity, query, result, ids_BN, scalars)[0]


def make_tile(
    objective: TallyObjective,
    similarity: Similarity,
    query: PairSide,
    result: PairSide,
    own: tuple[Array, Array] | None = None,
) -> PairTile:
    """The pairs of two sides: scores, labels, and own scores where they are given."""
    score_QR = similarity.score(query.represented, result.represented)
    return PairTile(score_QR, objective.label_pairs(query, result), *(own or ()))


def pair_sides(query: Tree, result: Tree, ids_BN: Array) -> tuple[PairSide, PairSide]:
    """Both sides of a whole batch, with the places of their examples."""
    place_B = jnp.arange(len(ids_BN))
    return PairSide(query, ids_BN, place_B), PairSide(result, ids_BN, place_B)


def own_scores(
    objective: TallyObjective, similarity: Similarity, query: Tree, result: Tree
) -> Array | None:
    """Score of every example's own pair, float32 [B], for an objective that needs it beforehand."""
    if not objective.needs_own_scores:
        return None

    def score_one(one: Tree, other: Tree) -> Array:
        single = [jax.tree.map(lambda x: x[None], tree) for tree in (one, other)]
        return similarity.score(*single)[0, 0]

    return jax.vmap(score_one)(query, result)


def accuracy_of(tallies: Any) -> Array:
    """Share of queries and results whose own pair scores highest, in [0, 1]; ties count."""
    return 0.5 * sum(jnp.mean(tally.own >= tally.best) for tally in tallies)


def _forward(
    objective: TallyObjective,
    similarity: Similarity,
    query: Tree,
    result: Tree,
    ids_BN: Array,
    scalars: Scalars,
) -> tuple[tuple[Array, Array], tuple]:
    # Before the sweep: a tile knows only the own scores of pairs that lie in it.
    own_B = own_scores(objective, similarity, query, result)

    def compare(row: tuple, column: tuple, scalars: Scalars) -> tuple[Any, Any]:
        tile = _make_tile(objective, similarity, row, column)
        return objective.tally(tile, 1, scalars), objective.tally(tile, 0, scalars)

    rows, columns = ((side, own_B) for side in pair_sides(query, result, ids_BN))
    merges = objective.merges, objective.merges
    tallies = sweep(compare, merges, rows, columns, scalars, objective.tile)
    loss = jnp.mean(objective.loss(*tallies, scalars))
    residuals = (query, result, ids_BN, scalars, own_B, tallies)
    return (loss, accuracy_of(tallies)), residuals


def _backward(
    objective: TallyObjective, similarity: Similarity, residuals: tuple, slopes: tuple
) -> tuple:
    query, result, ids_BN, scalars, own_B, tallies = residuals
    # Scaled within the tiles, so that the sums over them are the gradients already.
    scale = slopes[0] / len(ids_BN)

    def compare(row: tuple, column: tuple, shared: tuple) -> tuple[Any, Any]:
        (row, query_tally), (column, result_tally), (scale, scalars) = row, column, shared
        # Masks and other integers of a representation have no gradient.
        (row_floats, row_rest), (column_floats, column_rest) = (
            _split_floats(side.represented) for side, _ in (row, column)
        )

        def score(row_floats: Tree, column_floats: Tree) -> Array:
            left, right = _join(row_floats, row_rest), _join(column_floats, column_rest)
            return similarity.score(left, right)

        # The similarity differentiates itself: no objective knows how a score is computed.
        _, pull_back = jax.vjp(score, row_floats, column_floats)
        tile = _make_tile(objective, similarity, row, column)
        slope_QR, scalar_slopes = objective.slope(tile, query_tally, result_tally, scalars)
        row_slope, column_slope = pull_back(scale * slope_QR)
        of_scalars = {name: scale * x_QR.sum(1) for name, x_QR in scalar_slopes.items()}
        return (row_slope, of_scalars), column_slope

    sides = pair_sides(query, result, ids_BN)
    rows, columns = (((side, own_B), tally) for side, tally in zip(sides, tallies))
    add_query, add_result = (
        jax.tree.map(lambda _: ADD, _split_floats(tree)[0]) for tree in (query, result)
    )
    merges = (add_query, dict.fromkeys(scalars, ADD)), add_result
    (query_slope, of_scalars), result_slope = sweep(
        compare, merges, rows, columns, (scale, scalars), objective.tile
    )
    return query_slope, result_slope, None, {k: jnp.sum(x_B) for k, x_B in of_scalars.items()}


tiled_loss.defvjp(_forward, _backward)


def _make_tile(
    objective: TallyObjective, similarity: Similarity, row: tuple, column: tuple
) -> PairTile:
    """The pairs of (side, own scores) of both sides, as the sweep carries them."""
    (query, own_Q), (result, own_R) = row, column
    own = None if own_Q is None else (own_Q, own_R)
    return make_tile(objective, similarity, query, result, own)


def _split_floats(tree: Tree) -> tuple[Tree, Tree]:
    """(the tree with None in place of its integers and masks, the whole tree)."""
    floats = jax.tree.map(lambda x: x if jnp.issubdtype(x.dtype, jnp.inexact) else None, tree)
    return floats, tree


def _join(floats: Tree, tree: Tree) -> Tree:
    """The tree with other floats."""
    return jax.tree.map(
        lambda new, old: old if new is None else new, floats, tree, is_leaf=lambda x: x is None
    )
