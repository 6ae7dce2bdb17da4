"""A loss over all pairs of a batch from tiles of pairs: no device sees all scores at once.

Q and R in tensor names: the queries and results of a tile.
"""

from functools import partial
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from mural_jax.similarity.labels import shares_id
from mural_jax.similarity.measures import cosine
from mural_jax.similarity.ring import ADD, sweep
from mural_jax.types import Array


class Side(NamedTuple):
    """One side of the pairs."""

    vector_BD: Array
    ids_BN: Array
    place_B: Array  # in the global batch, int32


class Pairs(NamedTuple):
    """A tile of pairs."""

    score_QR: Array
    same_QR: Array  # bool: a query and its own result
    kept_QR: Array  # bool: not ignored


class Pairwise(Protocol):
    """A loss that needs to know of a pair only its score, and sums over each side.

    `tile`: queries and results that are compared at once. `how`: a `ring.Merge` for each entry
    of a tally. A tally has at least `own` and `best`, the score of the example's own pair and the
    best of those kept, from which the accuracy follows.
    """

    tile: int
    how: Any

    def tally(self, pairs: Pairs, dim: int, *scalars: Array) -> Any:
        """What the tile says of each query (`dim` 1) or result (0): reductions along `dim`."""
        ...

    def loss(self, query: Any, result: Any, *scalars: Array) -> Array:
        """The loss of each example, [B], from the tallies of both sides; their mean counts."""
        ...

    def slope(
        self, pairs: Pairs, query: Any, result: Any, *scalars: Array
    ) -> tuple[Array, tuple[Array, ...]]:
        """B dL/dscore, [Q, R], and what each pair adds to B dL of each of the scalars."""
        ...


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def tiled(
    objective: Pairwise, query_BD: Array, result_BD: Array, ids_BN: Array, scalars: tuple
) -> tuple[Array, Array]:
    """(loss, accuracy in [0, 1]) over the global batch; the gradient of accuracy is zero.

    The backward pass computes the scores again. Between the passes only tallies are kept.
    """
    return _forward(objective, query_BD, result_BD, ids_BN, scalars)[0]


def _forward(
    objective: Pairwise, query_BD: Array, result_BD: Array, ids_BN: Array, scalars: tuple
) -> tuple[tuple[Array, Array], tuple]:
    def meet(query: Side, result: Side, scalars: tuple) -> tuple[Any, Any]:
        pairs = _pairs(query, result)
        return objective.tally(pairs, 1, *scalars), objective.tally(pairs, 0, *scalars)

    sides = _sides(query_BD, result_BD, ids_BN)
    tallies = sweep(meet, (objective.how, objective.how), *sides, scalars, objective.tile)
    loss = jnp.mean(objective.loss(*tallies, *scalars))
    accuracy = 0.5 * sum(jnp.mean(tally.own >= tally.best) for tally in tallies)
    return (loss, accuracy), (query_BD, result_BD, ids_BN, scalars, tallies)


def _backward(objective: Pairwise, kept: tuple, slopes: tuple[Array, Array]) -> tuple:
    query_BD, result_BD, ids_BN, scalars, tallies = kept
    # Within the tiles, so that the sums over them are the results.
    weight = slopes[0] / len(query_BD)

    def meet(query: tuple, result: tuple, whole: tuple) -> tuple[Any, Any]:
        (of_query, query_tally), (of_result, result_tally), (weight, scalars) = query, result, whole
        pairs = _pairs(of_query, of_result)
        slope_QR, of_scalars = objective.slope(pairs, query_tally, result_tally, *scalars)
        slope_QR *= weight
        slope_QD = _matmul(slope_QR, of_result.vector_BD)
        slope_RD = _matmul(slope_QR.T, of_query.vector_BD)
        return (slope_QD, tuple(weight * x_QR.sum(1) for x_QR in of_scalars)), slope_RD

    query, result = zip(_sides(query_BD, result_BD, ids_BN), tallies)
    how = (ADD, (ADD,) * len(scalars)), ADD
    (query_slope_BD, of_scalars), result_slope_BD = sweep(
        meet, how, query, result, (weight, scalars), objective.tile
    )
    return query_slope_BD, result_slope_BD, None, tuple(jnp.sum(x_B) for x_B in of_scalars)


tiled.defvjp(_forward, _backward)


def _sides(query_BD: Array, result_BD: Array, ids_BN: Array) -> tuple[Side, Side]:
    place_B = jnp.arange(len(ids_BN))
    return Side(query_BD, ids_BN, place_B), Side(result_BD, ids_BN, place_B)


def _pairs(query: Side, result: Side) -> Pairs:
    same_QR = query.place_B[:, None] == result.place_B[None, :]
    kept_QR = same_QR | ~shares_id(query.ids_BN, result.ids_BN)
    return Pairs(cosine(query.vector_BD, result.vector_BD), same_QR, kept_QR)


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
