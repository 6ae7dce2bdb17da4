"""Updates of an index: images that are new, gone, changed, broken, or embedded by another model."""

import io
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet
from search.model_of_colours import (
    COLOURS,
    DESCRIPTION,
    FINGERPRINT,
    encode_png,
    paint_images,
    update_index,
)

from mural_jax.search.store import BROKEN, ImageIndex, list_parts
from mural_jax.search.update import require_same_index
from mural_jax.types import UserError


@pytest.fixture
def images(tmp_path: Path) -> Path:
    paint_images(tmp_path / 'images')
    return tmp_path / 'images'


@pytest.fixture
def index(images: Path, tmp_path: Path) -> Path:
    """An index of five images, one more in a folder below, and one that is broken."""
    (images / 'text.png').write_bytes(b'no image')
    (images / 'notes.txt').write_text('neither an image nor named like one')
    (images / 'below').mkdir()
    (images / 'below' / 'LOUD.JPG').write_bytes(encode_png((0, 0, 0), kind='JPEG'))
    assert update_index(tmp_path / 'index', images) == (6, 0, 0, 1)
    return tmp_path / 'index'


def list_ids(index: Path) -> list[str]:
    return sorted(row.id for row in ImageIndex(index).rows)


def test_broken_image_is_listed_with_reason(index: Path) -> None:
    lines = (index / BROKEN).read_text().splitlines()
    assert [line.split('\t')[0] for line in lines] == ['id', 'text.png']
    assert all(line.split('\t')[1] for line in lines)


def test_second_update_changes_nothing(index: Path, images: Path) -> None:
    before = {path: path.read_bytes() for path in list_parts(index)}
    assert update_index(index, images) == (0, 6, 0, 1)
    assert {path: path.read_bytes() for path in list_parts(index)} == before


def test_update_embeds_new_and_changed_and_drops_gone_images(index: Path, images: Path) -> None:
    (images / 'red.png').unlink()
    (images / 'blue.png').write_bytes(encode_png((9, 9, 9), side=50))
    (images / 'text.png').write_bytes(encode_png((1, 2, 3)))
    assert update_index(index, images) == (2, 4, 2, 0)
    assert not (index / BROKEN).exists()
    assert list_ids(index) == [
        'below/LOUD.JPG',
        'blue.png',
        'green.png',
        'purple.png',
        'text.png',
        'yellow.png',
    ]
    found = ImageIndex(index)
    sizes = {row.id: (row.width, row.height) for row in found.rows}
    assert sizes['blue.png'] == (50, 50)
    for number, row in enumerate(found.rows):
        assert Image.open(io.BytesIO(found.read_image(number))).size == sizes[row.id]


def test_rows_of_another_model_are_kept_and_still_name_it(index: Path, images: Path) -> None:
    (images / 'blue.png').write_bytes(encode_png((9, 9, 9), side=50))
    (images / 'new.png').write_bytes(encode_png((1, 2, 3)))
    assert update_index(index, images, fingerprint='new model') == (2, 5, 1, 1)
    found = ImageIndex(index)
    assert found.fingerprints == {FINGERPRINT, 'new model'}
    newer = {row.id for row in found.rows if row.embedded_by == 'new model'}
    assert newer == {'blue.png', 'new.png'}


def test_same_index_may_be_updated(index: Path) -> None:
    require_same_index(index, DESCRIPTION, FINGERPRINT, 'model')
    moved = replace(DESCRIPTION, model='elsewhere', faiss='HNSW8')
    require_same_index(index, moved, FINGERPRINT, 'elsewhere')


def test_other_model_is_refused(index: Path) -> None:
    with pytest.raises(UserError, match='embedded by another model than NEW'):
        require_same_index(index, DESCRIPTION, 'new model', 'NEW')


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'space': 'other'}, 'another space'),
        ({'images': 'elsewhere'}, 'other images'),
        ({'thumbnail': 9}, 'another --thumbnail'),
        ({'form': 'bits'}, 'another form'),
    ],
)
def test_other_index_is_refused(index: Path, change: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        require_same_index(index, replace(DESCRIPTION, **change), FINGERPRINT, 'model')


DYING_UPDATE = """
import os, signal, sys
from pathlib import Path
from search.model_of_colours import update_index
from mural_jax.search import store

store.PART_ROWS = 4
write_part, left = store.write_part, [2]

def write_or_die(path, *given):
    if not left[0]:
        path.with_suffix('.part').write_bytes(b'half')
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    write_part(path, *given)

store.write_part = write_or_die
update_index(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def test_update_resumes_after_being_killed_in_its_third_part(images: Path, tmp_path: Path) -> None:
    paint_images(images, 5)
    index = tmp_path / 'index'
    environment = os.environ | {'PYTHONPATH': os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, '-c', DYING_UPDATE, index, images], env=environment)
    assert killed.returncode == -9
    assert len(list_parts(index)) == 2
    assert len(ImageIndex(index).rows) == 8
    assert update_index(index, images) == (17, 8, 0, 0)
    assert len(set(list_ids(index))) == len(list_ids(index)) == 25
    assert not list((index / 'parts').glob('*.part'))


def test_table_holds_bytes_of_images(tmp_path: Path) -> None:
    """As the Hugging Face hub writes them."""
    contents = [encode_png(colour) for colour in COLOURS.values()]
    table = pa.table({'name': [*COLOURS], 'image': [{'bytes': c, 'path': ''} for c in contents]})
    parquet.write_table(table, tmp_path / 'table.parquet')
    counts = update_index(tmp_path / 'index', tmp_path / 'table.parquet', ('image', 'name'))
    assert counts.added == 5
    assert [row.id for row in ImageIndex(tmp_path / 'index').rows] == [*COLOURS]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A table beside its images, the second of which does not exist."""
    paint_images(tmp_path / 'some')
    (tmp_path / 'table.tsv').write_text('file\nsome/red.png\nsome/none.png\n')
    return tmp_path / 'table.tsv'


def test_table_names_files_beside_it(table: Path, tmp_path: Path) -> None:
    assert update_index(tmp_path / 'index', table, ('file', '')) == (1, 0, 0, 1)
    assert list_ids(tmp_path / 'index') == ['some/red.png']


def test_missing_column_is_named(table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no column \['image'\]"):
        update_index(tmp_path / 'index', table)


def test_two_images_with_one_id_are_refused(table: Path, tmp_path: Path) -> None:
    table.write_text('file\nsome/red.png\nsome/red.png\n')
    with pytest.raises(UserError, match='Two images have the id'):
        update_index(tmp_path / 'index', table, ('file', ''))


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='Give a folder of images'):
        update_index(tmp_path / 'index', tmp_path / 'nowhere')


def test_image_is_turned_as_its_camera_was_held(tmp_path: Path) -> None:
    (tmp_path / 'images').mkdir()
    image = Image.new('RGB', (40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # Turned by a quarter.
    image.save(tmp_path / 'images' / 'a.jpg', exif=exif)
    update_index(tmp_path / 'index', tmp_path / 'images')
    (row,) = ImageIndex(tmp_path / 'index').rows
    assert (row.width, row.height) == (20, 40)
