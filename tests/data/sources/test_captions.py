"""Reading of captions in tables, with images inside the table or in other files."""

import collections
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from conftest import REAL_DATA
from data.fuzz import FUZZ_ROUNDS, mutate
from data.sources.image_files import encode_colour, write_tar
from pyarrow import parquet

from mural_jax.data.sources import join
from mural_jax.data.sources.captions import CaptionTable
from mural_jax.data.sources.reader import Example, Reader
from mural_jax.types import UserError

RED, BLUE = encode_colour('red'), encode_colour('blue', 'PNG')
REGION_COLUMNS = {
    'boxes_column': 'boxes',
    'classes_column': 'classes',
    'features_column': 'features',
}


def write_parquet(path: Path, rows: list[dict[str, Any]]) -> str:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def read_sorted(reader: Reader, split: str = 'train') -> list[Example]:
    return sorted(join.read_split(reader, split), key=lambda example: (example.id, example.where))


@pytest.fixture
def tsv_reader(tmp_path: Path) -> CaptionTable:
    """A reader of a table with images in an archive, where one image has no row."""
    captions = tmp_path / 'captions.tsv'
    captions.write_text(
        'image\tlang\tcaption\tset\n'
        'a.jpg\ten\tA "dog"\tx\nb.png\tde\tEin Haus\tx\na.jpg\tde\tEin Hund\tx\n'
        'a.jpg\ten\tA "dog"\tx\nc.jpg\ten\tGone\tx\na.jpg\ten\tLeft out\ty\n'
    )
    images = [('d/a.jpg', RED), ('d/b.png', BLUE), ('d/z.png', BLUE)]
    archive = write_tar(tmp_path / 'i.tar', images)
    return CaptionTable(table=str(captions), images=(archive,), language='@lang', where=('set=x',))


def test_rows_of_one_image_are_one_example(tsv_reader: CaptionTable) -> None:
    a, b, _ = read_sorted(tsv_reader)
    assert (a.id, a.image, a.bad) == ('a.jpg', RED, '')
    assert a.texts == [('en', 'caption', 'A "dog"'), ('de', 'caption', 'Ein Hund')]
    assert (b.id, b.image, b.label) == ('b.png', BLUE, -1)


def test_rows_without_image_are_a_bad_example(tsv_reader: CaptionTable) -> None:
    *_, c = read_sorted(tsv_reader)
    assert (c.image, c.bad) == (b'', 'no image')


def test_vocabulary_comes_from_the_rows(tsv_reader: CaptionTable) -> None:
    assert tsv_reader.vocabulary() == (['de', 'en'], ['caption'])


def test_split_column_names_the_splits(tmp_path: Path) -> None:
    rows = [{'image': 'a', 'caption': 'A', 's': 'val'}, {'image': 'b', 'caption': 'B', 's': None}]
    write_parquet(tmp_path / '1.parquet', rows)
    write_parquet(tmp_path / '2.parquet', [{'image': 'c', 'caption': 'C', 's': 'val'}])
    (tmp_path / 'images').mkdir()
    reader = CaptionTable(
        table=str(tmp_path / '*.parquet'),
        images=(str(tmp_path / 'images'),),
        language='en',
        split_column='s',
    )
    names = {split: [Path(p).name for p in parts] for split, parts in reader.splits().items()}
    assert names == {'train': ['1.parquet'], 'val': ['1.parquet', '2.parquet']}
    assert [example.id for example in read_sorted(reader, 'val')] == ['a', 'c']


@pytest.fixture
def parquet_reader(tmp_path: Path) -> CaptionTable:
    """A table that holds its images and class numbers, and another one with class names."""
    rows = [
        {'image': {'bytes': RED, 'path': 'same.jpg'}, 'caption': ['A', 'B'], 'n': 5},
        {'image': {'bytes': BLUE, 'path': 'same.jpg'}, 'caption': None, 'n': 6},
        {'image': {'bytes': None, 'path': 'x.jpg'}, 'caption': ['C'], 'n': 7},
    ]
    names = tmp_path / 'names.csv'
    names.write_text('class,lang,name\n5,en,"dog, big"\n5,de,Hund\n6.0,fi,talo\n')
    return CaptionTable(
        table=write_parquet(tmp_path / 't.parquet', rows),
        language='en',
        kind='title',
        label_column='n',
        class_names=str(names),
        class_names_columns=('class', 'lang', 'name'),
    )


def test_rows_with_images_are_not_joined(parquet_reader: CaptionTable) -> None:
    assert not parquet_reader.image_parts()
    first, second, third = read_sorted(parquet_reader)
    assert [first.id, second.id] == ['t.parquet:1', 't.parquet:2']
    assert (first.image, second.image) == (RED, BLUE)
    assert third.bad == 'no image in the row'
    part = parquet_reader.splits()['train'][0]
    keys = [key for key, _ in parquet_reader.read_rows('train', part)]
    assert len(set(keys)) == 3


def test_class_names_are_texts_of_their_examples(parquet_reader: CaptionTable) -> None:
    first, second, _ = read_sorted(parquet_reader)
    assert first.texts == [
        ('en', 'title', 'A'),
        ('en', 'title', 'B'),
        ('en', 'name', 'dog, big'),
        ('de', 'name', 'Hund'),
    ]
    assert (first.label, second.label) == (5, 6)
    assert parquet_reader.vocabulary()[1] == ['name', 'title']


def test_columns_give_regions_and_ids(tmp_path: Path) -> None:
    row = {
        'image': RED,
        'a': 'A',
        'page': 'p',
        'no': 3,
        'boxes': [[0.0, 0.0, 0.5, 1.0]],
        'classes': [7],
        'features': [[1.0, 2.0]],
    }
    reader = CaptionTable(
        table=write_parquet(tmp_path / 't.parquet', [row]),
        texts=('a:alt:en',),
        id=('page', 'no'),
        **REGION_COLUMNS,
    )
    (example,) = read_sorted(reader)
    assert example.id == 'p/3'
    assert example.texts == [('en', 'alt', 'A')]
    assert np.array_equal(example.regions.boxes, row['boxes'])
    assert np.array_equal(example.regions.classes, [7])
    assert np.array_equal(example.regions.features, [[1.0, 2.0]])


@pytest.mark.parametrize(
    'broken',
    [
        {'boxes': [[0.0, 0.0, 0.5]]},
        {'boxes': [[0.0, 0.0, 0.5, 1.0], [0.0]]},
        {'boxes': 'everywhere'},
        {'boxes': [[0.0, 0.0, float('nan'), 1.0]]},
        {'classes': [7, 8]},
        {'classes': ['dog']},
        {'classes': [-2]},
        {'classes': [None]},
        {'features': []},
        {'features': [[1.0, 2.0], [3.0]]},
        {'features': [['one']]},
        {'boxes': 4},
    ],
)
def test_broken_regions_make_a_bad_example(tmp_path: Path, broken: dict) -> None:
    good = {'boxes': [[0.0, 0.0, 0.5, 1.0]], 'classes': [-1], 'features': [[1.0, 2.0]]}
    rows = {'a.png': good, 'b.png': good | broken}
    lines = [json.dumps({'image': name, 'a': 'A', **row}) for name, row in rows.items()]
    (tmp_path / 't.jsonl').write_text('\n'.join(lines))
    for name in rows:
        (tmp_path / name).write_bytes(RED)
    reader = CaptionTable(
        table=str(tmp_path / 't.jsonl'),
        images=(str(tmp_path),),
        texts=('a:alt:en',),
        **REGION_COLUMNS,
    )
    assert [example.bad for example in read_sorted(reader)] == ['', 'regions are broken']


def test_star_takes_every_column_as_a_language(tmp_path: Path) -> None:
    captions = tmp_path / 'c.jsonl'
    captions.write_text('\n{"image": "a.jpg", "en": "A", "de": "B"}\n{"image": "a.jpg", "en": 4}\n')
    (tmp_path / 'a.jpg').write_bytes(RED)
    reader = CaptionTable(table=str(captions), images=(str(tmp_path),), texts=('*',))
    (example,) = read_sorted(reader)
    assert example.texts == [('en', 'caption', 'A'), ('de', 'caption', 'B'), ('en', 'caption', '4')]


@pytest.fixture
def ambiguous_flags(tmp_path: Path) -> dict[str, Any]:
    """Flags of a table whose two images have the same name in different folders."""
    captions = tmp_path / 'c.csv'
    captions.write_text('image,caption\n1/a.jpg,A\n2/a.jpg,B\n')
    images = write_tar(tmp_path / 'i.tar', [('./1/a.jpg', RED), ('2/a.jpg', BLUE)])
    return {'table': str(captions), 'images': (images,), 'language': 'en'}


def test_ambiguous_image_names_are_refused(ambiguous_flags: dict[str, Any]) -> None:
    with pytest.raises(UserError, match='both 1/a.jpg and 2/a.jpg'):
        read_sorted(CaptionTable(**ambiguous_flags))


def test_folders_flag_finds_images_by_their_path(ambiguous_flags: dict[str, Any]) -> None:
    examples = read_sorted(CaptionTable(**ambiguous_flags, folders=True))
    assert [(e.id, e.image) for e in examples] == [('1/a.jpg', RED), ('2/a.jpg', BLUE)]


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({'language': ''}, 'language of the texts is unknown'),
        ({'texts': ('nothing',)}, 'no column'),
        ({'where': ('en',)}, 'COLUMN=VALUE'),
        ({'images': ()}, 'only Parquet tables'),
        ({'class_names': 'names.tsv'}, '--label_column'),
        ({'class_names_columns': ('a',)}, 'must be three'),
        ({'table': 'nowhere.tsv'}, 'no table of captions'),
        ({'split_column': 'caption', 'where': ('caption=B',)}, 'No row'),
    ],
)
def test_wrong_flags_are_refused(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    captions = tmp_path / 'c.jsonl'
    captions.write_text('\n{"image": "a.jpg", "caption": "A"}\n')
    given = {'table': str(captions), 'images': (str(tmp_path),), 'language': 'en'}
    with pytest.raises(UserError, match=message):
        read_sorted(CaptionTable(**(given | flags)))


def test_row_without_image_name_is_bad(tmp_path: Path) -> None:
    captions = tmp_path / 'c.jsonl'
    captions.write_text('{"image": null, "caption": "A"}\n{"image": "a.jpg", "caption": "B"}\n')
    (tmp_path / 'a.jpg').write_bytes(RED)
    reader = CaptionTable(table=str(captions), images=(str(tmp_path),), language='en')
    assert {example.bad for example in read_sorted(reader)} == {'', 'no image name'}


def make_file_and_reader(folder: Path, name: str) -> tuple[bytes, Reader]:
    """A whole table as bytes, and its reader."""
    (folder / 'images').mkdir()
    (folder / 'images' / 'a.jpg').write_bytes(RED)
    flags: dict[str, Any] = {
        'table': f'{folder}/{name}',
        'images': (str(folder / 'images'),),
        'language': 'en',
        'split_column': 'split',
    }
    if name == 'c.jsonl':
        rows = [{'image': 'a.jpg', 'caption': 'Ä', 'split': s, 'b': [[0, 0, 1, 1]]} for s in 'xyx']
        lines = '\n'.join(map(json.dumps, rows))
        return lines.encode(), CaptionTable(**flags, boxes_column='b')
    cells = 'image{0}caption{0}split\na.jpg{0}"Ä, ä"{0}x\na.jpg{0}B{0}y\n'
    separator = {'c.tsv': '\t', 'c.csv': ','}[name]
    return cells.format(separator).encode(), CaptionTable(**flags)


@pytest.mark.parametrize('name', ['c.jsonl', 'c.tsv', 'c.csv'])
def test_broken_files_raise_user_error(tmp_path: Path, name: str) -> None:
    data, reader = make_file_and_reader(tmp_path, name)
    rng = random.Random(name)
    outcomes: collections.Counter[bool] = collections.Counter()
    for _ in range(FUZZ_ROUNDS):
        (tmp_path / name).write_bytes(mutate(data, rng))
        try:
            for split in reader.splits():
                read_sorted(reader, split)
            reader.vocabulary()
            outcomes[True] += 1
        except UserError:
            outcomes[False] += 1
    assert set(outcomes) == {True, False}


def test_real_flickr8k() -> None:
    folder = REAL_DATA / 'flickr8k_multi'
    if not folder.is_dir():
        pytest.skip('The Flickr8k data are not here.')
    reader = CaptionTable(
        table=str(folder / 'captions.parquet'),
        images=(str(folder / 'images112.tar'),),
        language='@lang',
        kind='@kind',
        split_column='split',
    )
    parts = reader.splits()
    assert set(parts) == {'train', 'dev'}
    rows = {split: list(reader.read_rows(split, parts[split][0])) for split in parts}
    assert sum(map(len, rows.values())) == 159_365
    train = {key for key, _ in rows['train']}
    assert (len(train), len({key for key, _ in rows['dev']})) == (5914, 964)
    images = dict(reader.read_images(reader.image_parts()[0], train))
    assert set(images) == train
    assert not any(example.bad for split in rows for _, example in rows[split])
    languages = {text[0] for _, example in rows['dev'] for text in example.texts}
    assert languages == {'ar', 'brx', 'cs', 'de', 'en', 'fr', 'hi', 'pt'}


def test_real_tiny_imagenet() -> None:
    folder = REAL_DATA / 'tiny_imagenet64'
    if not folder.is_dir():
        pytest.skip('The Tiny-ImageNet data are not here.')
    reader = CaptionTable(
        table=str(folder / 'images.parquet'),
        image_column='jpeg',
        texts=(),
        split_column='split',
        label_column='class_index',
        class_names=str(folder / 'class_names_298langs.parquet'),
        class_names_columns=('class_index', 'lang', 'name'),
    )
    counts: dict[str, int] = {}
    for split, parts in reader.splits().items():
        examples = list(join.read_split(reader, split))
        counts[split] = len(examples)
        assert len({example.label for example in examples}) == 160
        assert all(e.image.startswith(b'\xff\xd8') and not e.bad for e in examples)
        keys = {key for part in parts for key, _ in reader.read_rows(split, part)}
        assert len(keys) == len(examples)
    assert counts == {'train': 11_200, 'val': 1600}
    assert len(reader.vocabulary()[0]) == 297
