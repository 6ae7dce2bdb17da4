"""Finding the nearest images of an index, exactly or among candidates from a cheaper score."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from mural_jax.search.store import FAISS, ImageIndex
from mural_jax.similarity.nearest import NearestFinder
from mural_jax.types import UserError

# Candidates of each way of finding whose vectors are compared; 0: no candidates are chosen (ours).
CANDIDATES = {'exact': 0, 'binary': 5000, 'faiss': 200}
BLOCK = 1 << 16  # Images whose signs are compared at a time, so that the result stays small (ours).


class Hit(NamedTuple):
    """One image that a search found: its cosine with the query, and its row in the index."""

    score: float
    number: int


class Finder:
    """Finds the images of an index that are nearest to a vector, in one of three ways.

    'exact' compares the query with all vectors. 'binary' compares signs, one bit per dimension,
    and then the vectors of the `rerank` nearest: it reads a thirtieth of the memory. 'faiss'
    takes its candidates from the index that `mural index --faiss` made.
    """

    def __init__(self, index: ImageIndex, how: str = 'exact', rerank: int | None = None):
        """`rerank` is the number of candidates; None takes CANDIDATES[how].

        Raises UserError if faiss is not installed, or its index is missing or older than the rows.
        """
        self.index, self.rerank = index, rerank or CANDIDATES[how]
        image_ND = index.image_ND
        self._search = {
            'exact': self._search_exact,
            'binary': self._search_binary,
            'faiss': self._search_faiss,
        }[how]
        if how == 'exact':
            self._nearest = NearestFinder(image_ND)
        elif how == 'binary':
            self._sign_NU = _pack_signs(image_ND)
        else:
            self._faiss = read_faiss(index.folder, len(image_ND))

    def __call__(self, query_QD: np.ndarray, k: int) -> list[list[Hit]]:
        """For each of Q unit vectors, the k nearest images, best first.

        A list is shorter if the index or the candidates have fewer images.
        """
        score_QK, number_QK = self._search(query_QD, min(k, len(self.index.rows)))
        return [
            [Hit(float(score), int(number)) for score, number in zip(*row) if number >= 0]
            for row in zip(score_QK, number_QK)
        ]

    def _search_exact(self, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        # Each k compiles a program, so k is rounded up to a power of two.
        wide = min(max(32, 1 << (k - 1).bit_length()), self._nearest.size)
        score_QK, number_QK = self._nearest(query_QD, wide)
        return score_QK[:, :k], number_QK[:, :k]

    def _search_binary(self, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        count = min(max(self.rerank, k), len(self._sign_NU))
        rows = [
            self._rank(query_D, self._find_by_signs(sign_U, count), k)
            for query_D, sign_U in zip(query_QD, _pack_signs(query_QD))
        ]
        return np.array([score_K for score_K, _ in rows]), np.array([own_K for _, own_K in rows])

    def _find_by_signs(self, sign_U: np.ndarray, count: int) -> np.ndarray:
        """The `count` rows whose signs differ from the query's in the fewest places, ascending."""
        # int32, as numpy would sum bytes into uint64, which takes twice the memory.
        distance_N = np.concatenate(
            [
                np.bitwise_count(self._sign_NU[start : start + BLOCK] ^ sign_U).sum(
                    1, dtype=np.int32
                )
                for start in range(0, len(self._sign_NU), BLOCK)
            ]
        )
        # In ascending order, equal scores keep the order of the rows.
        return np.sort(np.argpartition(distance_N, count - 1)[:count])

    def _search_faiss(self, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        number_QC = self._faiss.search(np.ascontiguousarray(query_QD), max(k, self.rerank))[1]
        # faiss marks missing candidates by -1. Its own scores may come from compressed vectors.
        rows = [
            self._rank(query_D, number_C[number_C >= 0], k)
            for query_D, number_C in zip(query_QD, number_QC)
        ]
        return _pad_rows(rows)

    def _rank(
        self, query_D: np.ndarray, number_C: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores, row numbers) of the k best candidates by their own vectors, best first."""
        score_C = self.index.image_ND[number_C] @ query_D
        best_K = np.argsort(-score_C, kind='stable')[:k]
        return score_C[best_K], number_C[best_K]


def _pad_rows(rows: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores and row numbers as two arrays [Q, K]; shorter rows end in scores -inf, numbers -1."""
    width = max(len(score_K) for score_K, _ in rows)
    score_QK = np.full((len(rows), width), -np.inf, np.float32)
    number_QK = np.full((len(rows), width), -1)
    for row, (score_K, number_K) in enumerate(rows):
        score_QK[row, : len(score_K)], number_QK[row, : len(number_K)] = score_K, number_K
    return score_QK, number_QK


def _pack_signs(vector_ND: np.ndarray) -> np.ndarray:
    """The signs of vectors as bits, in words of 64, uint64 [N, U] with U = ceil(D / 64)."""
    dim = vector_ND.shape[1]
    byte_NB = np.zeros((len(vector_ND), -(-dim // 64) * 8), np.uint8)
    byte_NB[:, : -(-dim // 8)] = np.packbits(vector_ND > 0, axis=1)
    return byte_NB.view(np.uint64)


def write_faiss(folder: Path, image_ND: np.ndarray, factory: str) -> None:
    """Writes the faiss index of vectors [N, D] into an index's folder, atomically.

    Raises UserError if faiss is not installed or refuses the factory string.
    """
    faiss = import_faiss()
    try:
        index = faiss.index_factory(image_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(image_ND)
        index.add(image_ND)
    except RuntimeError as error:
        raise UserError(
            f'faiss cannot make {factory!r} of {len(image_ND):,} images ({error}). Give another '
            '--faiss, such as HNSW32.'
        ) from error
    unfinished = folder / f'.{FAISS}.part'
    faiss.write_index(index, str(unfinished))
    unfinished.replace(folder / FAISS)


def read_faiss(folder: Path, count: int) -> Any:
    """The faiss index of a folder. Raises UserError unless it has `count` images."""
    faiss, path = import_faiss(), folder / FAISS
    if not path.exists():
        raise UserError(
            f'{folder} has no faiss index. Run `mural index --faiss=HNSW32` to make one.'
        )
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise UserError(
            f'{path} cannot be read ({error}). Run `mural index --faiss` again.'
        ) from error
    if index.ntotal != count:
        raise UserError(
            f'{path} has {index.ntotal:,} images, but the index has {count:,}. Run `mural index '
            '--faiss` again.'
        )
    return index


def import_faiss() -> ModuleType:
    """The module faiss. Raises UserError if it is not installed."""
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "faiss is not installed: pip install 'mural-jax[faiss]'. --how=exact and --how=binary "
            'work without it.'
        ) from error
    return faiss
