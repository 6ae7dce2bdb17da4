"""Which pairs of a batch are positive, negative or ignored."""

import jax.numpy as jnp

from mural_jax.types import Array


def shares_id(query_QN: Array, result_RN: Array) -> Array:
    """Whether two examples have an id in common, in whatever column, bool [Q, R]."""
    same_QR = jnp.zeros((len(query_QN), len(result_RN)), bool)
    for query_Q in query_QN.T:
        for result_R in result_RN.T:
            same_QR |= query_Q[:, None] == result_R[None, :]
    return same_QR
