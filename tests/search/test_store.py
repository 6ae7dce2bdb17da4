"""Indexes of pictures: what is new, gone, changed, broken; every way of finding."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from search.model_of_colours import COLOURS, paint, png, update

from mural_jax.search import finder
from mural_jax.search.finder import Finder, write_faiss
from mural_jax.search.store import BROKEN, Gallery, parts
from mural_jax.types import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    paint(tmp_path / 'images')
    return tmp_path / 'images'


def test_it_takes_what_is_new_and_drops_what_is_gone(images: Path, tmp_path: Path) -> None:
    index = tmp_path / 'index'
    (images / 'text.png').write_bytes(b'no picture')
    (images / 'notes.txt').write_text('no picture, and not said to be one')
    (images / 'below').mkdir()
    (images / 'below' / 'LOUD.JPG').write_bytes(png((0, 0, 0), kind='JPEG'))
    assert update(index, images) == (6, 0, 0, 1)
    assert [line.split('\t')[0] for line in (index / BROKEN).read_text().splitlines()] == [
        'id', 'text.png',
    ]  # fmt: skip
    before = {path: path.read_bytes() for path in parts(index)}
    assert update(index, images) == (0, 6, 0, 1)
    assert {path: path.read_bytes() for path in parts(index)} == before
    (images / 'red.png').unlink()
    (images / 'blue.png').write_bytes(png((9, 9, 9), side=50))
    (images / 'text.png').write_bytes(png((1, 2, 3)))
    assert update(index, images) == (2, 4, 2, 0)
    assert not (index / BROKEN).exists()
    found = Gallery(index)
    assert sorted(row.id for row in found.rows) == [
        'below/LOUD.JPG', 'blue.png', 'green.png', 'purple.png', 'text.png', 'yellow.png',
    ]  # fmt: skip
    sizes = {row.id: (row.width, row.height) for row in found.rows}
    assert sizes['blue.png'] == (50, 50)
    for number, row in enumerate(found.rows):
        shown = Image.open(io.BytesIO(found.thumbnail(number)))
        assert shown.size == sizes[row.id]


def test_killed_at_any_moment_it_goes_on(images: Path, tmp_path: Path) -> None:
    """A process that dies after its second part: the next one embeds the rest alone."""
    paint(images, 5)
    index = tmp_path / 'index'
    code = (
        'import os, signal, sys\n'
        'from pathlib import Path\n'
        'from serving import colours as own\n'
        'from mural_jax.search import embedding, gallery\n'
        'embedding.PART = 4\n'
        'write, left = gallery.write_part, [2]\n'
        'def dying(*given):\n'
        '    if not left[0]:\n'
        '        (given[0].with_suffix(".part")).write_bytes(b"half")\n'
        '        os.kill(os.getpid(), signal.SIGKILL)\n'
        '    left[0] -= 1\n'
        '    write(*given)\n'
        'gallery.write_part = dying\n'
        'own.update(Path(sys.argv[1]), Path(sys.argv[2]))\n'
    )
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, '-c', code, index, images], env=environment)
    assert killed.returncode == -9
    assert len(parts(index)) == 2
    assert update(index, images) == (17, 8, 0, 0)
    assert len({row.id for row in Gallery(index).rows}) == 25
    assert not list((index / 'parts').glob('*.part'))


def test_pictures_of_a_table(tmp_path: Path) -> None:
    """Bytes, as the Hugging Face hub has them, and files beside the table."""
    contents = [png(colour) for colour in COLOURS.values()]
    table = pa.table({'name': [*COLOURS], 'image': [{'bytes': c, 'path': ''} for c in contents]})
    parquet.write_table(table, tmp_path / 'table.parquet')
    assert update(tmp_path / 'index', tmp_path / 'table.parquet', ('image', 'name')).added == 5
    assert [row.id for row in Gallery(tmp_path / 'index').rows] == [*COLOURS]
    paint(tmp_path / 'some')
    (tmp_path / 'table.tsv').write_text('file\nsome/red.png\nsome/none.png\n')
    done = update(tmp_path / 'other', tmp_path / 'table.tsv', ('file', ''))
    assert done == (1, 0, 0, 1)
    with pytest.raises(UserError, match=r"no column \['image'\]"):
        update(tmp_path / 'third', tmp_path / 'table.tsv')
    (tmp_path / 'table.tsv').write_text('file\nsome/red.png\nsome/red.png\n')
    with pytest.raises(UserError, match='Two pictures are called'):
        update(tmp_path / 'third', tmp_path / 'table.tsv', ('file', ''))


def test_a_picture_is_turned_as_its_camera_was_held(tmp_path: Path) -> None:
    (tmp_path / 'images').mkdir()
    image = Image.new('RGB', (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    image.save(tmp_path / 'images' / 'a.jpg', exif=exif)
    update(tmp_path / 'index', tmp_path / 'images')
    (row,) = Gallery(tmp_path / 'index').rows
    assert (row.width, row.height) == (20, 40)


@pytest.fixture
def many(tmp_path: Path) -> Gallery:
    """Random vectors in place of 3,000 pictures."""
    rng = np.random.default_rng(0)
    (tmp_path / 'images').mkdir()
    (tmp_path / 'images' / 'one.png').write_bytes(png((1, 2, 3)))
    update(tmp_path / 'index', tmp_path / 'images')
    gallery = Gallery(tmp_path / 'index')
    image_ND = rng.normal(size=(3000, 72)).astype(np.float32)
    gallery.image_ND = image_ND / np.linalg.norm(image_ND, axis=1, keepdims=True)
    gallery.rows = [replace(gallery.rows[0], id=str(i)) for i in range(3000)]
    return gallery


def wanted(gallery: Gallery, query_QD: np.ndarray, k: int) -> list[list[int]]:
    return np.argsort(-(query_QD @ gallery.image_ND.T), axis=1)[:, :k].tolist()


@pytest.mark.parametrize('how', ['exact', 'binary', 'faiss'])
def test_all_ways_find_what_is_near(many: Gallery, how: str) -> None:
    if how == 'faiss':
        pytest.importorskip('faiss', reason='faiss is not installed: the extra faiss has it')
        write_faiss(many.folder, many.image_ND, 'Flat')
    query_QD = many.image_ND[:7] + np.random.default_rng(1).normal(0, 0.02, (7, 72)).astype('f4')
    find = Finder(many, how, rerank=3000 if how == 'binary' else 10)
    hits = find(query_QD, 10)
    assert [[hit.number for hit in row] for row in hits] == wanted(many, query_QD, 10)
    score = query_QD[0] @ many.image_ND[hits[0][0].number]
    assert hits[0][0].score == pytest.approx(float(score), abs=1e-5)
    assert len(find(query_QD, 5000)[0]) == 3000 if how != 'faiss' else True


def test_few_candidates_by_signs_hold_the_nearest(many: Gallery) -> None:
    query_QD = many.image_ND[:50] + np.random.default_rng(1).normal(0, 0.03, (50, 72)).astype('f4')
    hits = Finder(many, 'binary', rerank=20)(query_QD, 1)
    assert [row[0].number for row in hits] == wanted_first(many, query_QD)


def wanted_first(gallery: Gallery, query_QD: np.ndarray) -> list[int]:
    return [row[0] for row in wanted(gallery, query_QD, 1)]


def test_an_index_of_faiss_that_is_older_is_refused(many: Gallery) -> None:
    pytest.importorskip('faiss', reason='faiss is not installed: the extra faiss has it')
    with pytest.raises(UserError, match='no index of faiss'):
        Finder(many, 'faiss')
    write_faiss(many.folder, many.image_ND[:-1], 'HNSW8')
    with pytest.raises(UserError, match='2,999 pictures, the index 3,000'):
        Finder(many, 'faiss')
    with pytest.raises(UserError, match='faiss cannot make'):
        finder.write_faiss(many.folder, many.image_ND, 'nonsense')


def test_what_is_no_index_is_refused(images: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='is no index'):
        Gallery(images)
    update(tmp_path / 'index', images)
    (path,) = parts(tmp_path / 'index')
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match='cannot be read.*Remove it'):
        Gallery(tmp_path / 'index')
    with pytest.raises(UserError, match='Give a folder of pictures'):
        update(tmp_path / 'other', tmp_path / 'nowhere')
