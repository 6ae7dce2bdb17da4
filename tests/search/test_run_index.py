"""The index: saved and loaded whole, searched exactly, drawn."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mural_jax.search.run_index import Index
from mural_jax.search.sheet import contact_sheet
from mural_jax.types import UserError


def png(colour: str) -> bytes:
    stream = io.BytesIO()
    Image.new('RGB', (8, 8), colour).save(stream, 'PNG')
    return stream.getvalue()


def index() -> Index:
    vectors = np.array([[1, 0], [0, 1], [0.6, 0.8]], np.float32)
    names = [{'en': 'red'}, {'en': 'a very long name that has to be cut', 'be': 'сіні'}, {}]
    pngs = [png(colour) for colour in ('red', 'blue', 'green')]
    return Index(vectors, ['a', 'b', 'c'], names, ['test', 'train', 'train'], pngs, 't', 'hash')


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    index().save(tmp_path / 'deep' / '3.npz')
    again = Index.load(tmp_path / 'deep' / '3.npz')
    np.testing.assert_array_equal(again.image_ND, index().image_ND)
    for field in ('ids', 'names', 'splits', 'pngs', 'task', 'vocabulary'):
        assert getattr(again, field) == getattr(index(), field)
    assert [path.name for path in (tmp_path / 'deep').iterdir()] == ['3.npz']


def test_the_nearest_come_first() -> None:
    hits = index().search(np.array([0, 1], np.float32), 2)
    assert [hit.id for hit in hits] == ['b', 'c']
    assert hits[1].score == pytest.approx(0.8)
    assert len(index().search(np.array([0, 1], np.float32), 99)) == 3


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='mural evaluate'):
        Index.load(tmp_path / 'none.npz')
    np.savez(tmp_path / 'pickled.npz', image_ND=np.array([{}], object))
    with pytest.raises(UserError, match='cannot be read'):
        Index.load(tmp_path / 'pickled.npz')


def test_the_sheet_shows_each_picture() -> None:
    sheet = contact_sheet(index().search(np.array([1, 0], np.float32), 3), side=32)
    assert sheet.getpixel((12 + 16, 12 + 16)) == (255, 0, 0)
    assert sheet.width == 12 + 3 * (32 + 12)
