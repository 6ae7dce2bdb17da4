"""Scores of queries against results, and which pairs may count.

Q and R in tensor names: queries and results, all of a batch or a tile of them.
"""

import jax
import jax.numpy as jnp

from mural_jax.types import Array


def cosine(query_QD: Array, result_RD: Array) -> Array:
    """x_i . y_j of unit vectors, float32 [Q, R], at full float32 precision on every backend."""
    return jnp.matmul(query_QD, result_RD.T, precision=jax.lax.Precision.HIGHEST)


def shares_id(query_QN: Array, result_RN: Array) -> Array:
    """Whether two examples have an id in common, in whatever column, bool [Q, R]."""
    same_QR = jnp.zeros((len(query_QN), len(result_RN)), bool)
    for query_Q in query_QN.T:
        for result_R in result_RN.T:
            same_QR |= query_Q[:, None] == result_R[None, :]
    return same_QR
