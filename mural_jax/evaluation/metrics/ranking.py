"""Ranks of the right items: exact at any size, ties included, with bounded memory.

Scores are dot products of float32 embeddings. The devices compute them in float32; scores too
close to the right item's for that precision are computed again in float64, so the ranks are those
of float64 scores.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mural_jax.types import Array, UserError

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


def rank_queries(query_QD: np.ndarray, item_ND: np.ndarray, right: Sequence[np.ndarray]) -> Ranks:
    """Returns the rank of the best right item of each query among N items.

    right: for each query the numbers of its right items, at least one, int [>= 1]. All processes
    must call this with the same arguments; each ranks its share of the queries.
    """
    check_embeddings(query_QD, item_ND)
    if jax.process_count() == 1:
        return _rank_locally(query_QD, item_ND, right)
    share = -(-len(query_QD) // jax.process_count())
    own = np.arange(share) + share * jax.process_index()
    # The last process fills its share with copies of the last query; they are cut off below.
    own = np.minimum(own, len(query_QD) - 1)
    ranks = np.stack(_rank_locally(query_QD[own], item_ND, [right[i] for i in own]))
    gathered = multihost_utils.process_allgather(ranks)
    joined = np.concatenate([*np.asarray(gathered)], axis=1)[:, : len(query_QD)]
    return Ranks(*joined)


def rank_score_matrix(score_QN: np.ndarray, right: Sequence[np.ndarray]) -> Ranks:
    """Returns the ranks as `rank_queries` does, from given scores; equal floats tie."""
    best_Q = np.array([score_N[own].max() for score_N, own in zip(score_QN, right)])
    tied_QN = score_QN == best_Q[:, None]
    right_Q = np.array([tied_N[own].sum() for tied_N, own in zip(tied_QN, right)])
    return Ranks((score_QN > best_Q[:, None]).sum(1), tied_QN.sum(1), right_Q)


def check_embeddings(query_QD: np.ndarray, item_ND: np.ndarray) -> None:
    """Raises UserError if two sets of embeddings cannot be compared."""
    for name, array in (('queries', query_QD), ('items', item_ND)):
        if array.ndim != 2 or not len(array):
            raise UserError(
                f'Embeddings of {name} have the shape {array.shape}: each needs one row.'
            )
        if not np.isfinite(array).all():
            bad = int((~np.isfinite(array).all(1)).sum())
            raise UserError(f'{bad} of {len(array)} embeddings of {name} are not finite.')
    if query_QD.shape[1] != item_ND.shape[1]:
        raise UserError(
            f'Queries have {query_QD.shape[1]} dimensions and items {item_ND.shape[1]}: they are '
            'not in one space.'
        )


def round_up_size(count: int) -> int:
    """Returns one of few sizes at least `count`, so that one program serves many languages.

    Multiples of an eighth of the next smaller power of two, and of 128 (ours).
    """
    step = max(128, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def pad_rows(rows_ND: np.ndarray, size: int) -> np.ndarray:
    """Returns `size` rows, float32: the given ones, then zeros."""
    filled = np.zeros((size, rows_ND.shape[1]), np.float32)
    filled[: len(rows_ND)] = rows_ND
    return filled


def _rank_locally(query_QD: np.ndarray, item_ND: np.ndarray, right: Sequence[np.ndarray]) -> Ranks:
    """Returns the ranks on this process, block by block of queries."""
    width = round_up_size(len(item_ND))
    item_MD = jnp.asarray(pad_rows(item_ND, width))
    size = min(round_up_size(len(query_QD)), max(1, BLOCK_SCORES // width))
    parts = []
    for start in range(0, len(query_QD), size):
        query_BD, right_B = query_QD[start : start + size], right[start : start + size]
        best_B = _best_right_scores(query_BD, item_ND, right_B)
        near = _separate_near(query_BD, item_ND, item_MD, best_B, size)
        # In the worst case every item is near, and all pairs of these rows are scored again.
        step = max(1, BLOCK_PAIRS // len(item_ND))
        for row in range(0, len(query_BD), step):
            rows = slice(row, row + step)
            own = [x[rows] for x in near]
            parts.append(_settle_near(query_BD[rows], item_ND, right_B[rows], best_B[rows], own))
    return Ranks(*(np.concatenate(column) for column in zip(*parts)))


def _separate_near(
    query_BD: np.ndarray, item_ND: np.ndarray, item_MD: Array, best_B: np.ndarray, size: int
) -> list[np.ndarray]:
    """Returns [number of items surely above, number of near items, places of the nearest ones].

    An item is near if float32 cannot tell its score from the best right one. int64 [B], [B] and
    [B, K], K at most MAX_NEAR.
    """
    # Twice the bound of the rounding error of a float32 dot product of vectors this long.
    longest = np.linalg.norm(query_BD, axis=1).max() * np.linalg.norm(item_ND, axis=1).max()
    margin = np.float32(2 * query_BD.shape[1] ** 0.5 * 2.0**-22 * max(longest, 1e-30))
    padded_B = np.zeros(size, np.float32)
    padded_B[: len(best_B)] = best_B
    near = min(MAX_NEAR, len(item_ND))
    counts = _count_above_and_near(
        near, pad_rows(query_BD, size), item_MD, len(item_ND), padded_B, margin
    )
    return [np.asarray(x)[: len(query_BD)].astype(np.int64) for x in counts]


def _settle_near(
    query_BD: np.ndarray,
    item_ND: np.ndarray,
    right_B: Sequence[np.ndarray],
    best_B: np.ndarray,
    near: Sequence[np.ndarray],
) -> Iterator[np.ndarray]:
    """Returns (above, tied, right), int64 [B] each, after scoring the near items in float64."""
    above_B, near_B, place_BK = near
    # A row with more near items than places are known is scored as a whole.
    many_B = near_B > place_BK.shape[1]
    few_BK = (np.arange(place_BK.shape[1]) < near_B[:, None]) & ~many_B[:, None]
    row_P = np.concatenate([np.nonzero(few_BK)[0], np.repeat(np.nonzero(many_B)[0], len(item_ND))])
    item_P = np.concatenate([place_BK[few_BK], np.tile(np.arange(len(item_ND)), many_B.sum())])
    apart_P = _score_exactly(query_BD, item_ND, row_P, item_P) - best_B[row_P]
    is_tie_P = np.abs(apart_P) <= TIE
    # One number for each (query, item), so that pairs can be looked up among the right ones.
    owner_R, right_R = _flatten_right(right_B)
    right_number_R = owner_R * len(item_ND) + right_R
    is_right_P = np.isin(row_P[is_tie_P] * len(item_ND) + item_P[is_tie_P], right_number_R)
    size = len(query_BD)
    more_B = np.bincount(row_P[(apart_P > 0) & ~is_tie_P], minlength=size)
    tied_B = np.bincount(row_P[is_tie_P], minlength=size)
    tied_right_B = np.bincount(row_P[is_tie_P][is_right_P], minlength=size)
    return iter((np.where(many_B, more_B, above_B + more_B), tied_B, tied_right_B))


def _best_right_scores(
    query_BD: np.ndarray, item_ND: np.ndarray, right_B: Sequence[np.ndarray]
) -> np.ndarray:
    """Returns the score of the best right item of each query, float64 [B]."""
    owner_R, right_R = _flatten_right(right_B)
    first_B = np.searchsorted(owner_R, np.arange(len(query_BD)))
    return np.maximum.reduceat(_score_exactly(query_BD, item_ND, owner_R, right_R), first_B)


def _flatten_right(right_B: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Returns (queries, their right items), int64 [R] each, in the order of the queries."""
    owner_R = np.repeat(np.arange(len(right_B)), [len(right) for right in right_B])
    return owner_R, np.concatenate([*right_B]).astype(np.int64)


def _score_exactly(
    query_BD: np.ndarray, item_ND: np.ndarray, row_P: np.ndarray, item_P: np.ndarray
) -> np.ndarray:
    """Returns the float64 scores of pairs [P], summed in one order so that equal items tie."""
    score_P = np.empty(len(row_P))
    for start in range(0, len(row_P), EXACT_PAIRS):
        part = slice(start, start + EXACT_PAIRS)
        item_PD, query_PD = item_ND[item_P[part]], query_BD[row_P[part]]
        score_P[part] = (item_PD.astype(np.float64) * query_PD.astype(np.float64)).sum(1)
    return score_P


@partial(jax.jit, static_argnums=0)
def _count_above_and_near(
    near: int, query_BD: Array, item_MD: Array, count: Array, best_B: Array, margin: Array
) -> tuple[Array, Array, Array]:
    """Returns what `_separate_near` does; of the M items `count` are real, the rest padding."""
    score_BM = jnp.matmul(query_BD, item_MD.T, precision='highest')
    score_BM = jnp.where(jnp.arange(len(item_MD))[None] < count, score_BM, -jnp.inf)
    apart_BM = score_BM - best_B[:, None]
    above_B = (apart_BM > margin).sum(1)
    near_B = (jnp.abs(apart_BM) <= margin).sum(1)
    _, place_BK = jax.lax.top_k(-jnp.abs(apart_BM), near)
    return above_B, near_B, place_BK
