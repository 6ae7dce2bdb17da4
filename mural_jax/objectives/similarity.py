"""Scores of all queries against all results, and which pairs may count."""

import jax
import jax.numpy as jnp

from mural_jax.types import Array


def cosine(query_BD: Array, result_BD: Array) -> Array:
    """x_i . y_j of unit vectors, float32 [B, B], at full float32 precision on every backend."""
    return jnp.matmul(query_BD, result_BD.T, precision=jax.lax.Precision.HIGHEST)


def shares_id(ids_BN: Array) -> Array:
    """Whether two examples have an id in common, in whatever column, bool [B, B]."""
    same_BB = jnp.zeros((len(ids_BN), len(ids_BN)), bool)
    for left_B in ids_BN.T:
        for right_B in ids_BN.T:
            same_BB |= left_B[:, None] == right_B[None, :]
    return same_BB
