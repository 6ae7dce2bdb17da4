"""The nearest of many items, exact, in bounded memory."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.similarity.base import Similarity
from mural_jax.similarity.measures import COSINE
from mural_jax.types import Array, Tree, UserError

# Size of a block of scores: 256 MiB (ours).
QUERIES, ITEMS = 1024, 1 << 16
TILE = 128  # items whose best score stands for all of them in the first selection (ours)


def find_nearest(
    query: Tree, items: Tree, k: int, similarity: Similarity = COSINE
) -> tuple[np.ndarray, np.ndarray]:
    """The result of `NearestFinder`, for items that are searched once."""
    return NearestFinder(items, similarity)(query, k)


class NearestFinder:
    """Finds the nearest of N items, which stay on the device in blocks.

    items: Representations, a tree of NumPy arrays [N, ...]; they are the right side of the
    similarity, queries are the left one.
    """

    def __init__(self, items: Tree, similarity: Similarity = COSINE):
        self.similarity = similarity
        self.size = _count(items)
        self.dim = jax.tree.leaves(items)[0].shape[-1]
        width = min(ITEMS, -(-self.size // TILE) * TILE)
        self._blocks = []
        for start in range(0, self.size, width):
            block = _take(items, start, width)
            self._blocks.append((start, _pad(block, width), _count(block)))

    def __call__(self, query: Tree, k: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores, best first, float32 [Q, k]; numbers of the items, int64 [Q, k]).

        Of equal scores the first item comes first. Raises UserError if k is larger than the number
        of items, or queries and items are not of one space.
        """
        if not 0 < k <= self.size:
            raise UserError(
                f'k={k} nearest of {self.size} items cannot be found: give 1 to {self.size}.'
            )
        count, dim = _count(query), jax.tree.leaves(query)[0].shape[-1]
        if dim != self.dim:
            raise UserError(
                f'Queries have {dim} dimensions and items {self.dim}: they are not of one space.'
            )
        rows = min(QUERIES, count)
        scores, numbers = [], []
        for start in range(0, count, rows):
            block = _pad(_take(query, start, rows), rows)
            score_BK, number_BK = jnp.full((rows, k), -jnp.inf), jnp.zeros((rows, k), jnp.int32)
            for first, items, real in self._blocks:
                score_BK, number_BK = _merge_block(
                    k, self.similarity, block, items, real, first, score_BK, number_BK
                )
            scores.append(score_BK)
            numbers.append(number_BK)
        # Copied to the host only now: until here the device never waits.
        return (
            np.concatenate([np.asarray(x) for x in scores])[:count],
            np.concatenate([np.asarray(x) for x in numbers])[:count].astype(np.int64),
        )


def _count(tree: Tree) -> int:
    return len(jax.tree.leaves(tree)[0])


def _take(tree: Tree, start: int, count: int) -> Tree:
    return jax.tree.map(lambda x: x[start : start + count], tree)


def _pad(tree: Tree, size: int) -> Tree:
    """The rows and zeros up to `size`, on the device; float32 where they are numbers."""

    def pad(rows: np.ndarray) -> Any:
        kind = np.float32 if np.issubdtype(rows.dtype, np.floating) else rows.dtype
        padded = np.zeros((size, *rows.shape[1:]), kind)
        padded[: len(rows)] = rows
        return jnp.asarray(padded)

    return jax.tree.map(pad, tree)


@partial(jax.jit, static_argnums=(0, 1))
def _merge_block(
    k: int,
    similarity: Similarity,
    query: Tree,
    items: Tree,
    real: Array,
    first: Array,
    score_BK: Array,
    number_BK: Array,
) -> tuple[Array, Array]:
    """The k best of the best so far and of a block of items, of which `real` are no padding."""
    score_BM = similarity.score(query, items)
    size, width = score_BM.shape
    score_BM = jnp.where(jnp.arange(width)[None] < real, score_BM, -jnp.inf)
    # The k best items lie in the k tiles with the highest peaks, so only these tiles are sorted.
    tile_BTM = score_BM.reshape(size, -1, TILE)
    _, tile_BK = jax.lax.top_k(tile_BTM.max(2), min(k, tile_BTM.shape[1]))
    tile_BK = jnp.sort(tile_BK, axis=1)  # So that of equal scores the first item wins.
    candidate_BKM = jnp.take_along_axis(tile_BTM, tile_BK[:, :, None], axis=1)
    place_BKM = first + tile_BK[:, :, None] * TILE + jnp.arange(TILE)[None, None]
    all_scores = jnp.concatenate([score_BK, candidate_BKM.reshape(size, -1)], axis=1)
    all_numbers = jnp.concatenate([number_BK, place_BKM.reshape(size, -1)], axis=1)
    score_BK, chosen_BK = jax.lax.top_k(all_scores, k)
    return score_BK, jnp.take_along_axis(all_numbers, chosen_BK, axis=1)
