"""The store of indexes: what is written is read, whole or not at all."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet
from search.model_of_colours import DESCRIPTION, encode_png, paint_images, update_index

from mural_jax.search import forms, store
from mural_jax.search.forms import Form
from mural_jax.search.store import ImageIndex, ImageRow, IndexDescription, list_parts
from mural_jax.types import UserError

ROWS = [
    ImageRow('a', 'old model', 8, 9, '1-2', {'en': 'red'}, 'test'),
    ImageRow('b', 'old model', 8, 8, '', {'en': 'blue', 'be': 'сіні'}, 'train'),
    ImageRow('c', 'old model', 8, 8, '', {}, ''),
]
IMAGE_ND = np.eye(3, 8, dtype=np.float32)
IMAGES = [encode_png(colour, 8) for colour in ('red', 'blue', 'green')]


def write_index(folder: Path, rows: list[ImageRow] = ROWS) -> None:
    store.write_index(folder, DESCRIPTION, rows, IMAGE_ND[: len(rows)], IMAGES[: len(rows)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_index(tmp_path / 'deep' / 'index')
    return tmp_path / 'deep' / 'index'


def test_rows_and_embeddings_and_images_are_read_as_written(folder: Path) -> None:
    index = ImageIndex(folder)
    assert index.rows == ROWS
    assert index.description == DESCRIPTION and index.space == DESCRIPTION.space
    assert index.names == [row.names for row in ROWS]
    assert index.splits == ['test', 'train', '']
    np.testing.assert_array_equal(index.image_ND, IMAGE_ND)
    assert index.image_ND.dtype == np.float32
    assert [index.read_image(number) for number in range(3)] == IMAGES


def test_rows_of_many_parts_keep_their_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, 'PART_ROWS', 100)
    rows = [ImageRow(str(number), 'model', 1, 1) for number in range(330)]
    image_ND = np.random.default_rng(0).normal(size=(330, 8)).astype(np.float32)
    images = [str(number).encode() for number in range(330)]
    store.write_index(tmp_path / 'index', DESCRIPTION, rows, image_ND, images)
    assert len(list_parts(tmp_path / 'index')) == 4
    index = ImageIndex(tmp_path / 'index')
    assert [row.id for row in index.rows] == [str(number) for number in range(330)]
    np.testing.assert_array_equal(index.image_ND, image_ND)
    assert [index.read_image(number) for number in range(330)] == images


def test_whole_index_replaces_older_one_and_leaves_no_other_files(folder: Path) -> None:
    write_index(folder, ROWS[:1])
    assert ImageIndex(folder).rows == ROWS[:1]
    assert [path.name for path in folder.parent.iterdir()] == ['index']


def test_failed_write_keeps_older_index(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError('no space left')

    monkeypatch.setattr(store, 'write_table', fail)
    with pytest.raises(OSError, match='no space left'):
        write_index(folder, ROWS[:1])
    assert ImageIndex(folder).rows == ROWS
    assert [path.name for path in folder.parent.iterdir()] == ['index']


def test_each_part_names_its_model(folder: Path) -> None:
    newer = [ImageRow('d', 'new model', 8, 8)]
    store.write_part(store.part_path(folder, 1), 'dense', newer, IMAGE_ND[:1], IMAGES[:1])
    index = ImageIndex(folder)
    assert [row.embedded_by for row in index.rows] == ['old model'] * 3 + ['new model']
    assert index.fingerprints == store.read_fingerprints(folder) == {'old model', 'new model'}


def test_part_of_two_models_is_refused(tmp_path: Path) -> None:
    rows = [ROWS[0], ROWS[1]._replace(embedded_by='new model')]
    with pytest.raises(ValueError, match='too many values'):
        store.write_part(tmp_path / '0.parquet', 'dense', rows, IMAGE_ND[:2], IMAGES[:2])


def test_further_form_needs_only_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bits of codes, for example: the store reads and writes them as it does vectors."""
    bits = Form(
        lambda dim: pa.binary(dim // 8),
        lambda code_NB: pa.array([code.tobytes() for code in code_NB], pa.binary(code_NB.shape[1])),
        lambda column, dim: np.array([np.frombuffer(x.as_py(), np.uint8) for x in column]),
    )
    monkeypatch.setitem(forms.FORMS, 'bits', bits)
    code_NB = np.random.default_rng(0).integers(0, 256, (3, 2), np.uint8)
    description = replace(DESCRIPTION, form='bits', dim=16)
    store.write_index(tmp_path / 'index', description, ROWS, code_NB, IMAGES)
    index = ImageIndex(tmp_path / 'index')
    assert index.description.form == 'bits' and index.rows == ROWS
    np.testing.assert_array_equal(index.image_ND, code_NB)


def test_folder_without_description_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='is not an index'):
        ImageIndex(tmp_path)


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'layout': 99}, 'has layout 99'),
        ({'form': 'clay'}, "form 'clay'"),
        ({'colour': 'red'}, 'cannot be read'),
        ({'dim': 7}, 'does not hold dense embeddings of 7 dimensions'),
    ],
)
def test_wrong_description_is_refused(folder: Path, changes: dict, message: str) -> None:
    (folder / store.DESCRIPTION).write_text(json.dumps(asdict(DESCRIPTION) | changes))
    with pytest.raises(UserError, match=message):
        ImageIndex(folder)


def test_damaged_description_is_refused(folder: Path) -> None:
    (folder / store.DESCRIPTION).write_text('{')
    with pytest.raises(UserError, match='cannot be read'):
        IndexDescription.read(folder)


def test_damaged_part_is_refused(tmp_path: Path) -> None:
    paint_images(tmp_path / 'images')
    update_index(tmp_path / 'index', tmp_path / 'images')
    (path,) = list_parts(tmp_path / 'index')
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(UserError, match='cannot be read.*Remove it'):
        ImageIndex(tmp_path / 'index')


def test_parquet_file_that_names_no_model_is_refused(folder: Path) -> None:
    (path,) = list_parts(folder)
    parquet.write_table(parquet.read_table(path).replace_schema_metadata(None), path)
    with pytest.raises(UserError, match='does not say which model'):
        ImageIndex(folder)


def test_index_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'images').mkdir()
    assert update_index(tmp_path / 'index', tmp_path / 'images') == (0, 0, 0, 0)
    with pytest.raises(UserError, match='has no images yet'):
        ImageIndex(tmp_path / 'index')
