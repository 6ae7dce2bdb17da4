"""Similarities of one vector an example: the dot product and the cosine."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.similarity.base import Head
from mural_jax.types import Array, Encoding


@dataclasses.dataclass(frozen=True)
class Dot:
    """The dot product of two vectors, x . y, as the heads give them."""

    form: ClassVar[str] = 'dense'
    candidates: ClassVar[str] = ''

    def represent(self, encoding: Encoding, head: Head) -> Array:
        """The projected vector, float32 [B, D]."""
        return head(encoding.pooled_BD).astype(jnp.float32)

    def score(self, left: Array, right: Array) -> Array:
        """x_i . y_j, float32 [Q, R], at full float32 precision on every backend."""
        return jnp.matmul(left, right.T, precision=jax.lax.Precision.HIGHEST)

    def score_pairs(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """x_p . y_p, float64 [P]."""
        return (right.astype(np.float64) * left.astype(np.float64)).sum(1)

    def rounding(self, left: np.ndarray, right: np.ndarray) -> float:
        """Bound of the rounding error of a float32 sum of D products, for the longest vectors."""
        longest = np.linalg.norm(left, axis=1).max() * np.linalg.norm(right, axis=1).max()
        return float(left.shape[1] ** 0.5 * 2.0**-22 * max(longest, 1e-30))


@dataclasses.dataclass(frozen=True)
class Cosine(Dot):
    """The cosine of the angle between two vectors, x . y / (|x| |y|), in [-1, 1]."""

    def represent(self, encoding: Encoding, head: Head) -> Array:
        """The projected vector brought to length 1, float32 [B, D]."""
        return unit_norm(head(encoding.pooled_BD))


COSINE = Cosine()


def unit_norm(x: Array) -> Array:
    """x / |x| over the last dimension, in float32; a zero vector stays zero."""
    x = x.astype(jnp.float32)
    # The floor keeps the gradient of a zero vector (a padded token) finite.
    return x * jax.lax.rsqrt(jnp.maximum((x**2).sum(-1, keepdims=True), 1e-12))
