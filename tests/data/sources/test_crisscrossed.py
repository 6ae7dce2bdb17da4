"""Reading of Crisscrossed Captions' ratings."""

from pathlib import Path

import pytest
from data.sources.published_files import (
    BLUE,
    COCO,
    OTHER,
    RED,
    check_broken_files,
    read_sorted,
    write_file,
    write_images,
    write_karpathy,
)

from mural_jax.data.sources.crisscrossed import CrissCrossed
from mural_jax.types import UserError

SENTENCE = 'COCO_val2014:sentid:'
HEADER = ',agg_score,sampling_method\n'


def write_sits(folder: Path) -> str:
    rows = (
        f'caption,image{HEADER}{SENTENCE}1,{COCO},4.99,c2i_original\n'
        f'{SENTENCE}3,{COCO},1.5,c2i_intrasim\n{SENTENCE}1,{OTHER},0.2,c2i_intrasim\n'
        f'{SENTENCE}99,{COCO},1,c2i_intrasim\n{SENTENCE}1,{COCO},high,c2i_intrasim\n'
    )
    return write_file(folder / 'sits_val.csv', rows)


def write_sts(folder: Path) -> str:
    row = f'{SENTENCE}1,{SENTENCE}3,2.4,c2c_isim\n'
    return write_file(folder / 'sts_test.csv', f'caption1,caption2{HEADER}{row}')


@pytest.fixture
def sits_reader(tmp_path: Path) -> CrissCrossed:
    return CrissCrossed(
        ratings=(write_sits(tmp_path),),
        captions=write_karpathy(tmp_path),
        images=write_images(tmp_path),
    )


def test_each_rating_of_an_image_is_an_example(sits_reader: CrissCrossed) -> None:
    good = [example for example in read_sorted(sits_reader, 'val') if not example.bad]
    assert [(e.id, e.score, e.texts, e.image) for e in good] == [
        (OTHER, 0.2, [('en', 'caption', 'Text 1.')], BLUE),
        (COCO, 1.5, [('en', 'caption', 'Text 3.')], RED),
        (COCO, 4.99, [('en', 'caption', 'Text 1.')], RED),
    ]


def test_ratings_without_score_or_caption_are_bad(sits_reader: CrissCrossed) -> None:
    reasons = {example.bad for example in read_sorted(sits_reader, 'val')}
    assert reasons == {'', 'no score', 'no such caption in --captions'}


def test_images_are_read_once_for_each_rating(sits_reader: CrissCrossed) -> None:
    images = list(sits_reader.read_images(sits_reader.images[0], None))
    assert len(images) == len(dict(images)) == 4


def test_rated_captions_are_an_example_without_image(tmp_path: Path) -> None:
    reader = CrissCrossed(ratings=(write_sts(tmp_path),), captions=write_karpathy(tmp_path))
    assert not reader.image_parts()
    (example,) = read_sorted(reader, 'test')
    assert example.texts == [('en', 'sentence1', 'Text 1.'), ('en', 'sentence2', 'Text 3.')]
    assert (example.id, example.score, example.image) == ('1/3', 2.4, b'')


def test_ratings_of_both_kinds_are_refused(tmp_path: Path) -> None:
    ratings = (write_sts(tmp_path), write_sits(tmp_path))
    with pytest.raises(UserError, match='STS or of SITS'):
        CrissCrossed(ratings=ratings, captions=write_karpathy(tmp_path)).splits()


def test_ratings_of_pairs_of_images_are_refused(tmp_path: Path) -> None:
    rows = f'image1,image2{HEADER}{COCO},{OTHER},1,i2i_csim\n'
    file = write_file(tmp_path / 'sis_val.csv', rows)
    with pytest.raises(UserError, match='evaluation of pairs of images'):
        CrissCrossed(ratings=(file,), captions=write_karpathy(tmp_path)).splits()


def test_missing_score_column_is_named_in_error(tmp_path: Path) -> None:
    rows = f'caption1,caption2,score\n{SENTENCE}1,{SENTENCE}2,3\n'
    file = write_file(tmp_path / 'sts_val_raw.csv', rows)
    with pytest.raises(UserError, match='agg_score'):
        read_sorted(CrissCrossed(ratings=(file,), captions=write_karpathy(tmp_path)), 'val')


@pytest.mark.parametrize('name', ['sits', 'captions'])
def test_broken_files_raise_user_error(sits_reader: CrissCrossed, name: str) -> None:
    path = sits_reader.ratings[0] if name == 'sits' else sits_reader.captions
    check_broken_files(Path(path), sits_reader, name)
