"""Contact sheets of search results."""

from pathlib import Path

import numpy as np
import pytest
from search.model_of_colours import DESCRIPTION, encode_png

from mural_jax.search.finder import Hit
from mural_jax.search.sheet import (
    CAPTION_HEIGHT,
    MARGIN,
    draw_contact_sheet,
    name_image,
    save_contact_sheet,
)
from mural_jax.search.store import ImageIndex, ImageRow, write_index
from mural_jax.types import UserError

NAMES = [{'en': 'red'}, {'en': 'a very long name that has to be cut', 'be': 'сіні'}, {}]
HITS = [Hit(0.9, 2), Hit(0.5, 0), Hit(-0.1, 1)]


@pytest.fixture(scope='module')
def index(tmp_path_factory: pytest.TempPathFactory) -> ImageIndex:
    folder = tmp_path_factory.mktemp('sheet') / 'index'
    rows = [ImageRow(f'some/{n}.png', 'model', 8, 8, names=NAMES[n]) for n in range(3)]
    images = [encode_png(colour, 8) for colour in ('red', 'blue', 'lime')]
    write_index(folder, DESCRIPTION, rows, np.eye(3, 8, dtype=np.float32), images)
    return ImageIndex(folder)


def test_sheet_shows_each_image_in_order_of_hits(index: ImageIndex) -> None:
    side = 32
    sheet = draw_contact_sheet(index, HITS, side)
    middles = [MARGIN + place * (side + MARGIN) + side // 2 for place in range(3)]
    pixels = [sheet.getpixel((x, MARGIN + side // 2)) for x in middles]
    assert pixels == [(0, 255, 0), (255, 0, 0), (0, 0, 255)]
    assert sheet.size == (MARGIN + 3 * (side + MARGIN), side + 2 * MARGIN + CAPTION_HEIGHT)


def test_image_is_called_by_english_name_or_file(index: ImageIndex) -> None:
    assert [name_image(row) for row in index.rows] == ['red', NAMES[1]['en'], '2.png']
    assert name_image(ImageRow('x', 'model', 8, 8, names={'be': 'сіні'})) == ''


def test_sheet_is_saved_in_new_folder(
    index: ImageIndex, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    save_contact_sheet(index, HITS, tmp_path / 'new' / 'sheet.png')
    assert (tmp_path / 'new' / 'sheet.png').stat().st_size > 100
    assert str(tmp_path / 'new' / 'sheet.png') in capsys.readouterr().out


def test_sheet_of_unknown_kind_is_refused(index: ImageIndex, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='Cannot write'):
        save_contact_sheet(index, HITS, tmp_path / 'sheet.unknown')
