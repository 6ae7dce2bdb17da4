"""Scores of queries against results, and which pairs may count.

Q and R in tensor names: queries and results, all of a batch or a tile of them.
"""

import jax
import jax.numpy as jnp

from mural_jax.types import Array


def cosine(query_QD: Array, result_RD: Array) -> Array:
    """x_i . y_j of unit vectors, float32 [Q, R], at full float32 precision on every backend."""
    return jnp.matmul(query_QD, result_RD.T, precision=jax.lax.Precision.HIGHEST)
