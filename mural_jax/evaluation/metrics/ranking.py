"""Where the right items rank: exact at any size, ties included, in little memory.

Scores are dot products of float32 embeddings. They are computed on the devices in float32; what
is too near to the right item's score for that precision is computed again in float64, so ranks
are those of scores in float64.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from mural_jax.types import Array, UserError

SCORES = 1 << 25  # of one block of queries, 128 MiB; ours
NEAR = 16  # items near to the right one that are computed again one by one, else the whole row
PAIRS = 1 << 22  # that may have to be computed again, of some queries, 64 MiB of numbers; ours
AT_ONCE = 1 << 14  # pairs that are computed again at a time; ours
EQUAL = 1e-12  # float64 scores of unit vectors that differ by less are a tie


class Ranks(NamedTuple):
    """Of Q queries, what stands above the best right item and beside it.

    above_Q: items with a higher score. tied_Q: items with its score, itself included. right_Q: how
    many of these are right. int64 [Q].
    """

    above_Q: np.ndarray
    tied_Q: np.ndarray
    right_Q: np.ndarray

    def found(self, k: int) -> np.ndarray:
        """The chance that the first k hold a right item, float64 [Q]: items of equal score stand
        in any order alike.

        Of t tied items r are right and m of them fit: 1 - C(t - r, m) / C(t, m).
        """
        room_Q = np.clip(k - self.above_Q, 0, self.tied_Q)
        missed_Q = np.ones(len(room_Q))
        for place in range(int(room_Q.max(initial=0))):
            left_Q = self.tied_Q - place
            wrong_Q = np.clip(left_Q - self.right_Q, 0, None)
            missed_Q = np.where(
                place < room_Q, missed_Q * wrong_Q / np.maximum(left_Q, 1), missed_Q
            )
        return 1 - missed_Q

    def first(self) -> np.ndarray:
        """The expected rank of the first right item, from 1, float64 [Q]: a + (t + 1) / (r + 1)."""
        return self.above_Q + (self.tied_Q + 1) / (self.right_Q + 1)


def ranks(query_QD: np.ndarray, item_ND: np.ndarray, right: Sequence[np.ndarray]) -> Ranks:
    """Where the best right item of each query ranks among N items.

    right: of each query the numbers of its right items, at least one, int [>= 1].
    """
    check_pair(query_QD, item_ND)
    if jax.process_count() == 1:
        return _ranks(query_QD, item_ND, right)
    # Each host ranks its share of the queries, and all hear of all.
    share = -(-len(query_QD) // jax.process_count())
    own = np.arange(share) + share * jax.process_index()
    own = np.minimum(own, len(query_QD) - 1)
    found = np.stack(_ranks(query_QD[own], item_ND, [right[i] for i in own]))
    gathered = multihost_utils.process_allgather(found)
    joined = np.concatenate([*np.asarray(gathered)], axis=1)[:, : len(query_QD)]
    return Ranks(*joined)


def _ranks(query_QD: np.ndarray, item_ND: np.ndarray, right: Sequence[np.ndarray]) -> Ranks:
    width = bucket(len(item_ND))
    item_MD = jnp.asarray(padded(item_ND, width))
    size = min(bucket(len(query_QD)), max(1, SCORES // width))
    parts = []
    for start in range(0, len(query_QD), size):
        query_BD, right_B = query_QD[start : start + size], right[start : start + size]
        best_B = _best(query_BD, item_ND, right_B)
        near = _near(query_BD, item_ND, item_MD, best_B, size)
        # Where all items are near, so many pairs are looked at as these rows have.
        step = max(1, PAIRS // len(item_ND))
        for row in range(0, len(query_BD), step):
            rows = slice(row, row + step)
            parts.append(
                _settled(query_BD[rows], item_ND, right_B[rows], best_B[rows],
                         [x[rows] for x in near])
            )  # fmt: skip
    return Ranks(*(np.concatenate(column) for column in zip(*parts)))


def ranks_of_scores(score_QN: np.ndarray, right: Sequence[np.ndarray]) -> Ranks:
    """The same of scores that are given."""
    best_Q = np.array([score_N[r].max() for score_N, r in zip(score_QN, right)])
    tied = score_QN == best_Q[:, None]
    right_Q = np.array([tie_N[r].sum() for tie_N, r in zip(tied, right)])
    return Ranks((score_QN > best_Q[:, None]).sum(1), tied.sum(1), right_Q)


def check_pair(query_QD: np.ndarray, item_ND: np.ndarray) -> None:
    """Raises UserError where two sets of embeddings cannot be compared."""
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
            'not of one space.'
        )


def bucket(count: int) -> int:
    """A size at least `count`, of which there are few, so that one program serves many languages.

    Multiples of an eighth of the next smaller power of two, and of 128; ours.
    """
    step = max(128, 1 << max(0, count.bit_length() - 4))
    return -(-count // step) * step


def padded(rows_ND: np.ndarray, size: int) -> np.ndarray:
    """The rows and zeros up to `size`, float32."""
    filled = np.zeros((size, rows_ND.shape[1]), np.float32)
    filled[: len(rows_ND)] = rows_ND
    return filled


def _near(
    query_BD: np.ndarray, item_ND: np.ndarray, item_MD: Array, best_B: np.ndarray, size: int
) -> list[np.ndarray]:
    """[items surely above, items too near to tell, places of the nearest ones], int64 [B, ...]."""
    # Twice the bound of rounding in a float32 sum of products, for vectors as long as these.
    longest = np.linalg.norm(query_BD, axis=1).max() * np.linalg.norm(item_ND, axis=1).max()
    margin = np.float32(2 * query_BD.shape[1] ** 0.5 * 2.0**-22 * max(longest, 1e-30))
    wanted = np.zeros(size, np.float32)
    wanted[: len(best_B)] = best_B
    found = _count(
        min(NEAR, len(item_ND)), padded(query_BD, size), item_MD, len(item_ND), wanted, margin
    )
    return [np.asarray(x)[: len(query_BD)].astype(np.int64) for x in found]


def _settled(
    query_BD: np.ndarray, item_ND: np.ndarray, right_B: Sequence[np.ndarray], best_B: np.ndarray,
    near: Sequence[np.ndarray],
) -> Iterator[np.ndarray]:  # fmt: skip
    """(above, tied, right) of a block of queries, what was too near looked at in float64."""
    above_B, near_B, place_BK = near
    many_B = near_B > place_BK.shape[1]
    few = (np.arange(place_BK.shape[1]) < near_B[:, None]) & ~many_B[:, None]
    # Of a query with many near items the whole row is looked at.
    row_P = np.concatenate([np.nonzero(few)[0], np.repeat(np.nonzero(many_B)[0], len(item_ND))])
    item_P = np.concatenate([place_BK[few], np.tile(np.arange(len(item_ND)), many_B.sum())])
    away_P = _exact(query_BD, item_ND, row_P, item_P) - best_B[row_P]
    tie_P = np.abs(away_P) <= EQUAL
    owner_R, right_R = _flat(right_B)
    known_R = owner_R * len(item_ND) + right_R
    is_right_P = np.isin(row_P[tie_P] * len(item_ND) + item_P[tie_P], known_R)
    size = len(query_BD)
    over_B = np.bincount(row_P[(away_P > 0) & ~tie_P], minlength=size)
    tied_B = np.bincount(row_P[tie_P], minlength=size)
    tied_right_B = np.bincount(row_P[tie_P][is_right_P], minlength=size)
    return iter((np.where(many_B, over_B, above_B + over_B), tied_B, tied_right_B))


def _best(query_BD: np.ndarray, item_ND: np.ndarray, right_B: Sequence[np.ndarray]) -> np.ndarray:
    """The score of the best right item of each query, float64 [B]."""
    owner_R, right_R = _flat(right_B)
    first_B = np.searchsorted(owner_R, np.arange(len(query_BD)))
    return np.maximum.reduceat(_exact(query_BD, item_ND, owner_R, right_R), first_B)


def _flat(right_B: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(query, right item) of all of them, int64 [R] each, by query."""
    owner_R = np.repeat(np.arange(len(right_B)), [len(right) for right in right_B])
    return owner_R, np.concatenate([*right_B]).astype(np.int64)


def _exact(
    query_BD: np.ndarray, item_ND: np.ndarray, row_P: np.ndarray, item_P: np.ndarray
) -> np.ndarray:
    """Scores in float64 of pairs, each one sum in one order, so that equal items tie."""
    score_P = np.empty(len(row_P))
    for start in range(0, len(row_P), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        item_PD, query_PD = item_ND[item_P[part]], query_BD[row_P[part]]
        score_P[part] = (item_PD.astype(np.float64) * query_PD.astype(np.float64)).sum(1)
    return score_P


@partial(jax.jit, static_argnums=0)
def _count(
    near: int, query_BD: Array, item_MD: Array, real: Array, best_B: Array, margin: Array
) -> tuple[Array, Array, Array]:
    """(items surely above, items too near to tell, places of the nearest ones); `real` items."""
    score_BM = jnp.matmul(query_BD, item_MD.T, precision='highest')
    score_BM = jnp.where(jnp.arange(len(item_MD))[None] < real, score_BM, -jnp.inf)
    apart_BN = score_BM - best_B[:, None]
    above_B = (apart_BN > margin).sum(1)
    near_B = (jnp.abs(apart_BN) <= margin).sum(1)
    _, place_BK = jax.lax.top_k(-jnp.abs(apart_BN), near)
    return above_B, near_B, place_BK
