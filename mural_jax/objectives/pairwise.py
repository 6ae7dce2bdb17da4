"""What objectives over all pairs of a batch share."""

import jax.numpy as jnp

from mural_jax.similarity.tiles import Pairs
from mural_jax.types import Array, UserError

WAYS = ('gathered', 'ring')


def check_way_and_tile(by: str, tile: int) -> None:
    if by not in WAYS:
        raise UserError(f'by={by!r} is not known; a contrastive loss goes by one of {WAYS}.')
    if tile < 1:
        raise UserError(f'tile={tile} must be at least 1: it is a number of queries and results.')


def top_share(score_BB: Array, ignore_BB: Array) -> Array:
    best_B = jnp.where(ignore_BB, -jnp.inf, score_BB).max(1)
    return jnp.mean(jnp.diagonal(score_BB) >= best_B)


def own_and_best(pairs: Pairs, dim: int) -> tuple[Array, Array]:
    """The score of the own pair, where the tile has it, and the best of those kept."""
    own = jnp.where(pairs.same_QR, pairs.score_QR, 0.0).sum(dim)
    return own, jnp.where(pairs.kept_QR, pairs.score_QR, -jnp.inf).max(dim)
