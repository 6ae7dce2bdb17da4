"""The nearest of many vectors, exact, in little memory."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.types import Array, UserError

QUERIES, ITEMS = 1024, 1 << 16  # of one block of scores, 256 MiB; ours
TILE = 128  # items of which the best one stands for all at first; ours


def find_nearest(
    query_QD: np.ndarray, item_ND: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """What `Nearest` finds, of items that are asked for once."""
    return Nearest(item_ND)(query_QD, k)


class Nearest:
    """Finds the nearest of N items, which lie on the device in blocks."""

    def __init__(self, item_ND: np.ndarray):
        self.size, self.dim = item_ND.shape
        width = min(ITEMS, -(-self.size // TILE) * TILE)
        self._blocks = [
            (start, *_padded(item_ND[start : start + width], width))
            for start in range(0, self.size, width)
        ]

    def __call__(self, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores, best first, float32 [Q, k]; numbers of the items, int64 [Q, k]).

        The score is the dot product; of equal ones the first item comes first. Raises UserError
        where k is more than the items there are, or the two are not of one space.
        """
        if not 0 < k <= self.size:
            raise UserError(
                f'k={k} nearest of {self.size} items cannot be found: give 1 to {self.size}.'
            )
        if query_QD.shape[1:] != (self.dim,):
            raise UserError(
                f'Queries have {query_QD.shape[1]} dimensions and items {self.dim}: they are not '
                'of one space.'
            )
        rows = min(QUERIES, len(query_QD))
        scores, places = [], []
        for begin in range(0, len(query_QD), rows):
            query_BD, _ = _padded(query_QD[begin : begin + rows], rows)
            best_BK, place_BK = jnp.full((rows, k), -jnp.inf), jnp.zeros((rows, k), jnp.int32)
            for start, item_MD, real in self._blocks:
                best_BK, place_BK = _block(k, query_BD, item_MD, real, start, best_BK, place_BK)
            scores.append(best_BK)
            places.append(place_BK)
        return (
            np.concatenate([np.asarray(x) for x in scores])[: len(query_QD)],
            np.concatenate([np.asarray(x) for x in places])[: len(query_QD)].astype(np.int64),
        )


def _padded(rows: np.ndarray, size: int) -> tuple[Array, int]:
    """(the rows and zeros up to `size`, on the device; how many are real)."""
    filled = np.zeros((size, rows.shape[1]), np.float32)
    filled[: len(rows)] = rows
    return jnp.asarray(filled), len(rows)


@partial(jax.jit, static_argnums=0)
def _block(
    k: int,
    query_BD: Array,
    item_MD: Array,
    real: Array,
    start: Array,
    best_BK: Array,
    place_BK: Array,
) -> tuple[Array, Array]:
    """The best so far and those of a block of items, of which `real` are no padding.

    The k best items are in the k tiles with the best peaks: only these are sorted.
    """
    score_BM = jnp.matmul(query_BD, item_MD.T, precision='highest')
    score_BM = jnp.where(jnp.arange(len(item_MD))[None] < real, score_BM, -jnp.inf)
    tile_BTM = score_BM.reshape(len(query_BD), -1, TILE)
    kept = min(k, tile_BTM.shape[1])
    _, tile_BK = jax.lax.top_k(tile_BTM.max(2), kept)
    tile_BK = jnp.sort(tile_BK, axis=1)  # so that of equal scores the first item wins
    score_BKM = jnp.take_along_axis(tile_BTM, tile_BK[:, :, None], axis=1)
    number_BKM = start + tile_BK[:, :, None] * TILE + jnp.arange(TILE)[None, None]
    all_scores = jnp.concatenate([best_BK, score_BKM.reshape(len(query_BD), -1)], axis=1)
    all_places = jnp.concatenate([place_BK, number_BKM.reshape(len(query_BD), -1)], axis=1)
    best_BK, chosen_BK = jax.lax.top_k(all_scores, k)
    return best_BK, jnp.take_along_axis(all_places, chosen_BK, axis=1)
