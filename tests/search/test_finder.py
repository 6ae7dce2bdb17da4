"""Every way of finding finds the images that are nearest."""

from pathlib import Path

import numpy as np
import pytest
from search.model_of_colours import encode_png, update_index

from mural_jax.search.finder import Finder, write_faiss
from mural_jax.search.store import ImageIndex
from mural_jax.types import UserError

SIZE, DIM = 3000, 72  # DIM is no multiple of 64, so the last word of signs is not full.


@pytest.fixture
def index(tmp_path: Path) -> ImageIndex:
    """An index that holds random vectors in place of SIZE images."""
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'one.png').write_bytes(encode_png((1, 2, 3)))
    update_index(tmp_path / 'index', tmp_path / 'images')
    index = ImageIndex(tmp_path / 'index')
    image_ND = np.random.default_rng(0).normal(size=(SIZE, DIM)).astype(np.float32)
    index.image_ND = image_ND / np.linalg.norm(image_ND, axis=1, keepdims=True)
    index.rows = [index.rows[0]._replace(id=str(number)) for number in range(SIZE)]
    return index


def make_queries(index: ImageIndex, count: int, noise: float) -> np.ndarray:
    """Queries near the first images, float32 [count, DIM]."""
    shift_QD = np.random.default_rng(1).normal(0, noise, (count, DIM)).astype(np.float32)
    return index.image_ND[:count] + shift_QD


def rank_all(index: ImageIndex, query_QD: np.ndarray, k: int) -> list[list[int]]:
    """The k nearest images of each query, by sorting all scores."""
    return np.argsort(-(query_QD @ index.image_ND.T), axis=1)[:, :k].tolist()


def import_faiss() -> None:
    pytest.importorskip('faiss', reason='faiss is not installed: the extra faiss has it')


@pytest.mark.parametrize('how', ['exact', 'binary', 'faiss'])
def test_nearest_images_are_found_in_order(index: ImageIndex, how: str) -> None:
    if how == 'faiss':
        import_faiss()
        write_faiss(index.folder, index.image_ND, 'Flat')
    query_QD = make_queries(index, 7, 0.02)
    finder = Finder(index, how, rerank=SIZE if how == 'binary' else 10)
    hits = finder(query_QD, 10)
    assert [[hit.number for hit in row] for row in hits] == rank_all(index, query_QD, 10)
    score = query_QD[0] @ index.image_ND[hits[0][0].number]
    assert hits[0][0].score == pytest.approx(float(score), abs=1e-5)


@pytest.mark.parametrize('how', ['exact', 'binary'])
def test_more_than_all_images_are_all_of_them(index: ImageIndex, how: str) -> None:
    (hits,) = Finder(index, how)(make_queries(index, 1, 0.02), SIZE + 2000)
    assert len({hit.number for hit in hits}) == SIZE


def test_few_candidates_by_signs_hold_the_nearest(index: ImageIndex) -> None:
    query_QD = make_queries(index, 50, 0.03)
    hits = Finder(index, 'binary', rerank=20)(query_QD, 1)
    assert [[hit.number for hit in row] for row in hits] == rank_all(index, query_QD, 1)


@pytest.mark.parametrize('how', ['exact', 'binary'])
def test_equal_scores_keep_the_order_of_rows(index: ImageIndex, how: str) -> None:
    index.image_ND[[7, 1500, 2999]] = index.image_ND[40]
    (hits,) = Finder(index, how)(index.image_ND[40:41], 4)
    assert [hit.number for hit in hits] == [7, 40, 1500, 2999]


def test_missing_faiss_index_is_named(index: ImageIndex) -> None:
    import_faiss()
    with pytest.raises(UserError, match='has no faiss index'):
        Finder(index, 'faiss')


def test_older_faiss_index_is_refused(index: ImageIndex) -> None:
    import_faiss()
    write_faiss(index.folder, index.image_ND[:-1], 'HNSW8')
    with pytest.raises(UserError, match='2,999 images, but the index has 3,000'):
        Finder(index, 'faiss')


def test_unknown_faiss_factory_is_refused(index: ImageIndex) -> None:
    import_faiss()
    with pytest.raises(UserError, match='faiss cannot make'):
        write_faiss(index.folder, index.image_ND, 'nonsense')
