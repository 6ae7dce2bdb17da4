"""Which other example comes with an example of a stream."""

from collections.abc import Callable

import numpy as np

from mural_jax.data.reading.order import index_shuffle, uniform
from mural_jax.data.reading.pool import Pool

AHEAD = 2**16  # number of following positions among which a partner is drawn


def draw_partners(
    pool: Pool,
    find_members: Callable[[np.ndarray], np.ndarray],
    member_B: np.ndarray,
    position_B: np.ndarray,
    candidates: int,
    seed: int,
) -> np.ndarray:
    """A partner of each member, int64 [B]: one from the next AHEAD positions of the stream.

    The partner of a position is always the same one. Among `candidates` members, the one with the
    most similar text is taken. `find_members` maps positions to members, [N] -> [N].
    """
    # Another seed than that of the examples: these use their own random numbers.
    random_BC = uniform(seed + 1, position_B, candidates)
    ahead_BC = position_B[:, None] + 1 + (random_BC * AHEAD).astype(np.int64)
    other_BC = find_members(ahead_BC.ravel()).reshape(ahead_BC.shape)
    return pool.choose_most_similar(member_B, other_BC)


def shuffle_members(pool: Pool, member_B: np.ndarray) -> np.ndarray:
    """Another member of the same draw for each member, int64 [B], always the same one."""
    draw_B = np.searchsorted(pool.base_S, member_B, side='right') - 1
    base_B = pool.base_S[draw_B]
    return base_B + index_shuffle(member_B - base_B, pool.sizes[draw_B], 0, draw_B)
