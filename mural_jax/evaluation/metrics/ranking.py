"""Ranks of the right items: exact at any size, ties included, with bounded memory.

Scores are dot products of float32 embeddings. The devices compute them in float32; scores too
close to the right item's for that precision are computed again in float64, so the ranks are those
of float64 scores.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mural_jax.similarity.base import Similarity
from mural_jax.similarity.measures import COSINE
from mural_jax.types import Array, Tree, UserError

BLOCK_SCORES = 1 << 25  # scores of a block of queries, 128 MiB (ours)
MAX_NEAR = 16  # near items that are scored again one by one; with more, the whole row is (ours)
BLOCK_PAIRS = 1 << 22  # pairs that a block of queries may score again, 64 MiB of numbers (ours)
EXACT_PAIRS = 1 << 14  # pairs scored in float64 at a time (ours)
TIE = 1e-12  # float64 scores of unit vectors that differ by no more are equal


class Ranks(NamedTuple):
    """How many items score above and like the best right item of each of Q queries.

    above_Q: items with a higher score. tied_Q: items with its score, itself included. right_Q: how
    many of the tied items are right. int64 [Q].
    """

    above_Q: np.ndarray
    tied_Q: np.ndarray
    right_Q: np.ndarray

    def hit_rate(self, k: int) -> np.ndarray:
        """Returns the chance that the first k items hold a right one, float64 [Q].

        Items of equal score stand in any order with equal chance. With t tied items, r of them
        right, and room for m of them among the first k: 1 - C(t - r, m) / C(t, m).
        """
        room_Q = np.clip(k - self.above_Q, 0, self.tied_Q)
        missed_Q = np.ones(len(room_Q))
        # The quotient of binomials as a product of chances, place by place.
        for place in range(int(room_Q.max(initial=0))):
            left_Q = self.tied_Q - place
            wrong_Q = np.clip(left_Q - self.right_Q, 0, None)
            missed_Q = np.where(
                place < room_Q, missed_Q * wrong_Q / np.maximum(left_Q, 1), missed_Q
            )
        return 1 - missed_Q

    def expected_rank(self) -> np.ndarray:
        """Returns the expected rank of the first right item, from 1, float64 [Q].

        a + (t + 1) / (r + 1), with a items above, t tied and r of them right.
        """
        return self.above_Q + (self.tied_Q + 1) / (self.right_Q + 1)


def rank_queries(
    query: Tree, items: Tree, right: Sequence[np.ndarray], similarity: Similarity = COSINE
) -> Ranks:
    """Returns the rank of the best right item of each query among N items.

    query, items: representations, trees of NumPy arrays [Q, ...] and [N, ...]; queries are the left
    side of the similarity. right: for each query the numbers of its right items, at least one,
    int [>= 1]. All processes must call this with the same arguments; each ranks its share of the
    queries.
    """
    check_representations(query, items)
    if jax.process_count() == 1:
        return _rank_locally(similarity, query, items, right)
    count = count_rows(query)
    share = -(-count // jax.process_count())
    own = np.arange(share) + share * jax.process_index()
    # The last process fills its share with copies of the last query; they are cut off below.
    own = np.minimum(own, count - 1)
    own_right = [right[i] for i in own]
    ranks = np.stack(_rank_locally(similarity, take_rows(query, own), items, own_right))
    gathered = multihost_utils.process_allgather(ranks)
    joined = np.concatenate([*np.asarray(gathered)], axis=1)[:, :count]
    return Ranks(*joined)


def rank_score_matrix(score_QN: np.ndarray, right: Sequence[np.ndarray]) -> Ranks:
    """Returns the ranks as `rank_queries` does, from given scores; equal floats tie."""
    best_Q = np.array([score_N[own].max() for score_N, own in zip(score_QN, right)])
    tied_QN = score_QN == best_Q[:, None]
    right_Q = np.array([tied_N[own].sum() for tied_N, own in zip(tied_QN, right)])
    return Ranks((score_QN > best_Q[:, None]).sum(1), tied_QN.sum(1), right_Q)


def check_representations(query: Tree, items: Tree) -> None:
    """Raises UserError if two sets of representations cannot be compared."""
    for name, tree in (('queries', query), ('items', items)):
        for array in jax.tree.leaves(tree):
            if array.ndim < 2 or not len(array):
                raise UserError(
                    f'Embeddings of {name} have the shape {array.shape}: each needs one row.'
                )
            finite_N = np.isfinite(array).reshape(len(array), -1).all(1)
            if not finite_N.all():
                bad = int((~finite_N).sum())
                raise UserError(f'{bad} of {len(array)} embeddings of {name} are not finite.')
    widths = [jax.tree.leaves(tree)[0].shape[-1] for tree in (query, items)]
    if widths[0] != widths[1]:
        raise UserError(
            f'Queries have {widths[0]} dimensions and items {widths[1]}: they are not in one space.'
        )


def count_rows(tree: Tree) -> int:
    """Returns the number of examples in a representation."""
    return len(jax.tree.leaves(tree)[0])


def take_rows(tree: Tree, rows: Any) -> Tree:
    """Returns some examples of a representation, by number or by slice."""
    return jax.tree.map(lambda array: array[rows], tree)


def round_up_size(count: int) -> int:
    """Returns one of few sizes at least `count`, so that one program serves many languages.

    Multiples of an eighth of the next smaller power of two, and of 128 (ours).
    """
    step = max(128, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def pad_rows(tree: Tree, size: int) -> Tree:
    """Returns `size` examples: the given ones, then zeros."""

    def pad(rows: np.ndarray) -> np.ndarray:
        padded = np.zeros((size, *rows.shape[1:]), rows.dtype)
        padded[: len(rows)] = rows
        return padded

    return jax.tree.map(pad, tree)


def _rank_locally(
    similarity: Similarity, query: Tree, items: Tree, right: Sequence[np.ndarray]
) -> Ranks:
    """Returns the ranks on this process, block by block of queries."""
    num_queries, num_items = count_rows(query), count_rows(items)
    width = round_up_size(num_items)
    padded_items = jax.tree.map(jnp.asarray, pad_rows(items, width))
    size = min(round_up_size(num_queries), max(1, BLOCK_SCORES // width))
    parts = []
    for start in range(0, num_queries, size):
        block, right_B = take_rows(query, slice(start, start + size)), right[start : start + size]
        best_B = _best_right_scores(similarity, block, items, right_B)
        near = _separate_near(similarity, block, items, padded_items, best_B, size)
        # In the worst case every item is near, and all pairs of these rows are scored again.
        step = max(1, BLOCK_PAIRS // num_items)
        for row in range(0, len(best_B), step):
            rows = slice(row, row + step)
            own = [x[rows] for x in near]
            parts.append(
                _settle_near(
                    similarity, take_rows(block, rows), items, right_B[rows], best_B[rows], own
                )
            )
    return Ranks(*(np.concatenate(column) for column in zip(*parts)))


def _separate_near(
    similarity: Similarity,
    query: Tree,
    items: Tree,
    padded_items: Tree,
    best_B: np.ndarray,
    size: int,
) -> list[np.ndarray]:
    """Returns [number of items surely above, number of near items, places of the nearest ones].

    An item is near if float32 cannot tell its score from the best right one. int64 [B], [B] and
    [B, K], K at most MAX_NEAR.
    """
    # The float32 scores of both, of the item and of the best right one, may be off.
    margin = np.float32(2 * similarity.rounding(query, items))
    padded_B = np.zeros(size, np.float32)
    padded_B[: len(best_B)] = best_B
    num_items = count_rows(items)
    near = min(MAX_NEAR, num_items)
    padded_query = pad_rows(query, size)
    counts = _count_above_and_near(
        near, similarity, padded_query, padded_items, num_items, padded_B, margin
    )
    return [np.asarray(x)[: len(best_B)].astype(np.int64) for x in counts]


def _settle_near(
    similarity: Similarity,
    query: Tree,
    items: Tree,
    right_B: Sequence[np.ndarray],
    best_B: np.ndarray,
    near: Sequence[np.ndarray],
) -> Iterator[np.ndarray]:
    """Returns (above, tied, right), int64 [B] each, after scoring the near items in float64."""
    above_B, near_B, place_BK = near
    num_items = count_rows(items)
    # A row with more near items than places are known is scored as a whole.
    many_B = near_B > place_BK.shape[1]
    few_BK = (np.arange(place_BK.shape[1]) < near_B[:, None]) & ~many_B[:, None]
    row_P = np.concatenate([np.nonzero(few_BK)[0], np.repeat(np.nonzero(many_B)[0], num_items)])
    item_P = np.concatenate([place_BK[few_BK], np.tile(np.arange(num_items), many_B.sum())])
    apart_P = _score_exactly(similarity, query, items, row_P, item_P) - best_B[row_P]
    is_tie_P = np.abs(apart_P) <= TIE
    # One number for each (query, item), so that pairs can be looked up among the right ones.
    owner_R, right_R = _flatten_right(right_B)
    right_number_R = owner_R * num_items + right_R
    is_right_P = np.isin(row_P[is_tie_P] * num_items + item_P[is_tie_P], right_number_R)
    size = len(best_B)
    more_B = np.bincount(row_P[(apart_P > 0) & ~is_tie_P], minlength=size)
    tied_B = np.bincount(row_P[is_tie_P], minlength=size)
    tied_right_B = np.bincount(row_P[is_tie_P][is_right_P], minlength=size)
    return iter((np.where(many_B, more_B, above_B + more_B), tied_B, tied_right_B))


def _best_right_scores(
    similarity: Similarity, query: Tree, items: Tree, right_B: Sequence[np.ndarray]
) -> np.ndarray:
    """Returns the score of the best right item of each query, float64 [B]."""
    owner_R, right_R = _flatten_right(right_B)
    first_B = np.searchsorted(owner_R, np.arange(len(right_B)))
    return np.maximum.reduceat(_score_exactly(similarity, query, items, owner_R, right_R), first_B)


def _flatten_right(right_B: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (queries, their right items), int64 [R] each, in the order of the queries."""
    owner_R = np.repeat(np.arange(len(right_B)), [len(right) for right in right_B])
    return owner_R, np.concatenate([*right_B]).astype(np.int64)


def _score_exactly(
    similarity: Similarity, query: Tree, items: Tree, row_P: np.ndarray, item_P: np.ndarray
) -> np.ndarray:
    """Returns the float64 scores of pairs [P], summed in one order so that equal items tie."""
    score_P = np.empty(len(row_P))
    for start in range(0, len(row_P), EXACT_PAIRS):
        part = slice(start, start + EXACT_PAIRS)
        score_P[part] = similarity.score_pairs(
            take_rows(query, row_P[part]), take_rows(items, item_P[part])
        )
    return score_P


@partial(jax.jit, static_argnums=(0, 1))
def _count_above_and_near(
    near: int,
    similarity: Similarity,
    query: Tree,
    items: Tree,
    count: Array,
    best_B: Array,
    margin: Array,
) -> tuple[Array, Array, Array]:
    """Returns what `_separate_near` does; of the M items `count` are real, the rest padding."""
    score_BM = similarity.score(query, items)
    score_BM = jnp.where(jnp.arange(score_BM.shape[1])[None] < count, score_BM, -jnp.inf)
    apart_BM = score_BM - best_B[:, None]
    above_B = (apart_BM > margin).sum(1)
    near_B = (jnp.abs(apart_BM) <= margin).sum(1)
    _, place_BK = jax.lax.top_k(-jnp.abs(apart_BM), near)
    return above_B, near_B, place_BK
