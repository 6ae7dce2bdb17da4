"""Which pairs of a batch are positive, negative or ignored."""

from typing import NamedTuple

import jax.numpy as jnp

from mural_jax.types import Array, Tree

# Trinary labels of pairs, int8. Lingvo's Milan labels pairs in the same way.
POSITIVE, NEGATIVE, IGNORED = 1, 0, -1


class PairSide(NamedTuple):
    """One side of the pairs of a batch, or of a tile of it.

    represented: What the similarity of the space compares, a tree of [B, ...].
    ids_BN: Examples that share an id are never each other's negatives, int32.
    place_B: Place of an example in the global batch, int32.
    """

    represented: Tree
    ids_BN: Array
    place_B: Array


def shares_id(query_QN: Array, result_RN: Array) -> Array:
    """Whether two examples have an id in common, in whatever column, bool [Q, R]."""
    same_QR = jnp.zeros((len(query_QN), len(result_RN)), bool)
    # Column by column: comparing all columns at once would take [Q, R, N, N].
    for query_Q in query_QN.T:
        for result_R in result_RN.T:
            same_QR |= query_Q[:, None] == result_R[None, :]
    return same_QR


def label_own_pairs(query: PairSide, result: PairSide) -> Array:
    """Labels of a tile of pairs, int8 [Q, R].

    An example's own pair is positive. Another pair that shares an id is ignored: it is the same
    image or the same text, so it is no negative, and nobody says that it is a positive. All other
    pairs are negative.
    """
    own_QR = query.place_B[:, None] == result.place_B[None, :]
    other_QR = jnp.where(shares_id(query.ids_BN, result.ids_BN), IGNORED, NEGATIVE)
    return jnp.where(own_QR, POSITIVE, other_QR).astype(jnp.int8)
