"""Finding the nearest pictures of an index: all compared, or candidates by signs or by faiss."""

from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from mural_jax.search.store import FAISS, Gallery
from mural_jax.similarity.nearest import Nearest
from mural_jax.types import UserError

CANDIDATES = {'exact': 0, 'binary': 5000, 'faiss': 200}  # whose vectors are compared; ours
BLOCK = 1 << 16  # codes that are compared at a time; ours


class Hit(NamedTuple):
    """A picture that was found: its cosine with the query, and its number in the index."""

    score: float
    number: int


class Finder:
    """Finds pictures near to vectors, by one of three ways.

    'exact' compares all. 'binary' compares signs, a bit for each dimension, and of `rerank`
    candidates the vectors: a thirtieth of the memory that is read. 'faiss' asks the index that
    `mural index --faiss` made.
    """

    def __init__(self, gallery: Gallery, how: str = 'exact', rerank: int | None = None):
        """`rerank`: where None, CANDIDATES of `how`.

        Raises UserError where faiss or its index is missing, or older than the pictures.
        """
        self.gallery, self.rerank = gallery, rerank or CANDIDATES[how]
        image_ND = gallery.image_ND
        self._search = {'exact': self._exact, 'binary': self._binary, 'faiss': self._faiss}[how]
        if how == 'exact':
            self._nearest = Nearest(image_ND)
        elif how == 'binary':
            self._code_NB = _codes(image_ND)
        else:
            self._index = read_faiss(gallery.folder, len(image_ND))

    def __call__(self, query_QD: np.ndarray, k: int) -> list[list[Hit]]:
        """The k pictures nearest to each of Q unit vectors, best first; fewer where fewer are."""
        score_QK, number_QK = self._search(query_QD, min(k, len(self.gallery.rows)))
        return [
            [Hit(float(score), int(number)) for score, number in zip(*row) if number >= 0]
            for row in zip(score_QK, number_QK)
        ]

    def _exact(self, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        # Programs are compiled for each k: few of them.
        wide = min(max(32, 1 << (k - 1).bit_length()), self._nearest.size)
        score_QK, number_QK = self._nearest(query_QD, wide)
        return score_QK[:, :k], number_QK[:, :k]

    def _binary(self, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        count = min(max(self.rerank, k), len(self._code_NB))
        found = [self._by_signs(query_D, code_B, k, count)
                 for query_D, code_B in zip(query_QD, _codes(query_QD))]  # fmt: skip
        return np.array([x[0] for x in found]), np.array([x[1] for x in found])

    def _by_signs(
        self, query_D: np.ndarray, code_B: np.ndarray, k: int, count: int
    ) -> tuple[np.ndarray, np.ndarray]:
        apart_N = np.concatenate([
            np.bitwise_count(self._code_NB[start : start + BLOCK] ^ code_B).sum(1, dtype=np.int32)
            for start in range(0, len(self._code_NB), BLOCK)
        ])  # fmt: skip
        near_C = np.sort(np.argpartition(apart_N, count - 1)[:count])
        score_C = self.gallery.image_ND[near_C] @ query_D
        best_K = np.argsort(-score_C, kind='stable')[:k]
        return score_C[best_K], near_C[best_K]

    def _faiss(self, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        number_QK = self._index.search(np.ascontiguousarray(query_QD), max(k, self.rerank))[1]
        found = [self._ordered(query_D, number_K[number_K >= 0], k)
                 for query_D, number_K in zip(query_QD, number_QK)]  # fmt: skip
        width = max(len(score_K) for score_K, _ in found)
        # Lists that are searched can hold fewer than k.
        score_QK = np.full((len(found), width), -np.inf, np.float32)
        filled_QK = np.full((len(found), width), -1)
        for row, (score_K, own_K) in enumerate(found):
            score_QK[row, : len(score_K)], filled_QK[row, : len(own_K)] = score_K, own_K
        return score_QK, filled_QK

    def _ordered(
        self, query_D: np.ndarray, number_C: np.ndarray, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Candidates by their own vectors: faiss may know them roughly only."""
        score_C = self.gallery.image_ND[number_C] @ query_D
        best_K = np.argsort(-score_C, kind='stable')[:k]
        return score_C[best_K], number_C[best_K]


def _codes(vector_ND: np.ndarray) -> np.ndarray:
    """Signs as bits, in words of 8 bytes, uint64 [N, D / 64]."""
    dim = vector_ND.shape[1]
    bits = np.zeros((len(vector_ND), -(-dim // 64) * 8), np.uint8)
    bits[:, : -(-dim // 8)] = np.packbits(vector_ND > 0, axis=1)
    return bits.view(np.uint64)


def write_faiss(folder: Path, image_ND: np.ndarray, factory: str) -> None:
    """Makes the index of faiss. Raises UserError where it cannot be made."""
    faiss = needed()
    try:
        index = faiss.index_factory(image_ND.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        index.train(image_ND)
        index.add(image_ND)
    except RuntimeError as error:
        raise UserError(
            f'faiss cannot make {factory!r} of {len(image_ND):,} pictures ({error}). Give another '
            '--faiss, such as HNSW32.'
        ) from error
    part = folder / f'.{FAISS}.part'
    faiss.write_index(index, str(part))
    part.replace(folder / FAISS)


def read_faiss(folder: Path, count: int) -> Any:
    """The index of faiss for so many pictures."""
    faiss, path = needed(), folder / FAISS
    if not path.exists():
        raise UserError(f'{folder} has no index of faiss. Run `mural index --faiss=HNSW32` for it.')
    try:
        index = faiss.read_index(str(path))
    except RuntimeError as error:
        raise UserError(f'{path} cannot be read ({error}). Run `mural index --faiss` again.') from (
            error
        )
    if index.ntotal != count:
        raise UserError(
            f'{path} has {index.ntotal:,} pictures, the index {count:,}. Run `mural index --faiss` '
            'again.'
        )
    return index


def needed() -> ModuleType:
    try:
        import faiss
    except ImportError as error:
        raise UserError(
            "This needs the package faiss: pip install 'mural-jax[faiss]'. --how=exact and "
            '--how=binary do without.'
        ) from error
    return faiss
