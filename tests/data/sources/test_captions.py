"""Captions of tables, with pictures beside or in them, and of WebDataset shards."""

import collections
import gzip
import io
import json
import random
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pytest
from conftest import REAL_DATA as SHARED
from data.fuzz import FUZZ_ROUNDS, mutated
from PIL import Image
from pyarrow import parquet

from mural_jax.data.sources import archives, join
from mural_jax.data.sources.captions import CaptionTable
from mural_jax.data.sources.reader import Example, Reader
from mural_jax.data.sources.webdataset import WebDataset
from mural_jax.types import UserError


def picture(color: str, kind: str = 'JPEG') -> bytes:
    file = io.BytesIO()
    Image.new('RGB', (4, 4), color).save(file, kind)
    return file.getvalue()


RED, BLUE = picture('red'), picture('blue', 'PNG')


def tar(path: Path, files: list[tuple[str, bytes]]) -> str:
    with tarfile.open(path, 'w') as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)


def table(path: Path, rows: list[dict[str, Any]]) -> str:
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return str(path)


def examples(reader: Reader, split: str = 'train') -> list[Example]:
    return sorted(join.read_split(reader, split), key=lambda example: (example.id, example.where))


def test_rows_of_one_picture_are_one_example(tmp_path: Path) -> None:
    captions = tmp_path / 'captions.tsv'
    captions.write_text(
        'image\tlang\tcaption\tset\n'
        'a.jpg\ten\tA "dog"\tx\nb.png\tde\tEin Haus\tx\na.jpg\tde\tEin Hund\tx\n'
        'a.jpg\ten\tA "dog"\tx\nc.jpg\ten\tGone\tx\na.jpg\ten\tLeft out\ty\n'
    )
    images = tar(tmp_path / 'i.tar', [('d/a.jpg', RED), ('d/b.png', BLUE), ('d/z.png', BLUE)])
    reader = CaptionTable(table=str(captions), images=(images,), language='@lang', where=('set=x',))
    a, b, c = examples(reader)
    assert (a.id, a.image, a.bad) == ('a.jpg', RED, '')
    assert a.texts == [('en', 'caption', 'A "dog"'), ('de', 'caption', 'Ein Hund')]
    assert (b.id, b.image, b.label) == ('b.png', BLUE, -1)
    assert (c.image, c.bad) == (b'', 'no image')
    assert reader.vocabulary() == (['de', 'en'], ['caption'])


def test_splits_are_the_values_of_a_column(tmp_path: Path) -> None:
    rows = [{'image': 'a', 'caption': 'A', 's': 'val'}, {'image': 'b', 'caption': 'B', 's': None}]
    table(tmp_path / '1.parquet', rows)
    table(tmp_path / '2.parquet', [{'image': 'c', 'caption': 'C', 's': 'val'}])
    (tmp_path / 'images').mkdir()
    reader = CaptionTable(
        table=str(tmp_path / '*.parquet'),
        images=(str(tmp_path / 'images'),),
        language='en',
        split_column='s',
    )
    splits = reader.splits()
    assert {split: [Path(p).name for p in parts] for split, parts in splits.items()} == {
        'train': ['1.parquet'],
        'val': ['1.parquet', '2.parquet'],
    }
    assert [example.id for example in examples(reader, 'val')] == ['a', 'c']


def test_pictures_in_the_table_are_whole_examples(tmp_path: Path) -> None:
    rows = [
        {'image': {'bytes': RED, 'path': 'same.jpg'}, 'caption': ['A', 'B'], 'n': 5},
        {'image': {'bytes': BLUE, 'path': 'same.jpg'}, 'caption': None, 'n': 6},
        {'image': {'bytes': None, 'path': 'x.jpg'}, 'caption': ['C'], 'n': 7},
    ]
    names = tmp_path / 'names.csv'
    names.write_text('class,lang,name\n5,en,"dog, big"\n5,de,Hund\n6.0,fi,talo\n')
    reader = CaptionTable(
        table=table(tmp_path / 't.parquet', rows),
        language='en',
        kind='title',
        label_column='n',
        class_names=str(names),
        class_names_columns=('class', 'lang', 'name'),
    )
    assert not reader.image_parts()
    first, second, third = examples(reader)
    assert [first.id, second.id] == ['t.parquet:1', 't.parquet:2']
    assert first.texts == [
        ('en', 'title', 'A'),
        ('en', 'title', 'B'),
        ('en', 'name', 'dog, big'),
        ('de', 'name', 'Hund'),
    ]
    assert (first.image, first.label) == (RED, 5)
    # Classes are numbers in one table and words in the other.
    assert second.image == BLUE
    assert second.label == 6
    assert third.bad == 'no image in the row'
    assert reader.vocabulary()[1] == ['name', 'title']
    keys = [key for key, _ in reader.read_rows('train', reader.splits()['train'][0])]
    assert len(set(keys)) == 3


def test_regions_and_ids(tmp_path: Path) -> None:
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
        table=table(tmp_path / 't.parquet', [row]),
        texts=('a:alt:en',),
        id=('page', 'no'),
        boxes_column='boxes',
        classes_column='classes',
        features_column='features',
    )
    (example,) = examples(reader)
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
def test_broken_regions_are_a_bad_record(tmp_path: Path, broken: dict) -> None:
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
        boxes_column='boxes',
        classes_column='classes',
        features_column='features',
    )
    assert [example.bad for example in examples(reader)] == ['', 'regions are broken']


def test_every_column_is_a_language(tmp_path: Path) -> None:
    captions = tmp_path / 'c.jsonl'
    captions.write_text('\n{"image": "a.jpg", "en": "A", "de": "B"}\n{"image": "a.jpg", "en": 4}\n')
    (tmp_path / 'a.jpg').write_bytes(RED)
    reader = CaptionTable(table=str(captions), images=(str(tmp_path),), texts=('*',))
    (example,) = examples(reader)
    assert example.texts == [('en', 'caption', 'A'), ('de', 'caption', 'B'), ('en', 'caption', '4')]


def test_names_are_unique_or_whole_paths(tmp_path: Path) -> None:
    captions = tmp_path / 'c.csv'
    captions.write_text('image,caption\n1/a.jpg,A\n2/a.jpg,B\n')
    images = tar(tmp_path / 'i.tar', [('./1/a.jpg', RED), ('2/a.jpg', BLUE)])
    given = {'table': str(captions), 'images': (images,), 'language': 'en'}
    with pytest.raises(UserError, match='both 1/a.jpg and 2/a.jpg'):
        examples(CaptionTable(**given))
    found = examples(CaptionTable(**given, folders=True))
    assert [(e.id, e.image) for e in found] == [('1/a.jpg', RED), ('2/a.jpg', BLUE)]


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
def test_wrong_flags(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    captions = tmp_path / 'c.jsonl'
    captions.write_text('\n{"image": "a.jpg", "caption": "A"}\n')
    given = {'table': str(captions), 'images': (str(tmp_path),), 'language': 'en'}
    with pytest.raises(UserError, match=message):
        examples(CaptionTable(**(given | flags)))


def test_a_row_without_name_is_bad(tmp_path: Path) -> None:
    captions = tmp_path / 'c.jsonl'
    captions.write_text('{"image": null, "caption": "A"}\n{"image": "a.jpg", "caption": "B"}\n')
    (tmp_path / 'a.jpg').write_bytes(RED)
    reader = CaptionTable(table=str(captions), images=(str(tmp_path),), language='en')
    assert {example.bad for example in examples(reader)} == {'', 'no image name'}


META = {
    'caption': 'A dog',
    'url': 'http://a.b/c.jpg',
    'key': '000000001',
    'status': 'success',
    'error_message': None,
    'sha256': 'beef',
    'lang': 'fi',
    'alt': ['x', 'y'],
}


def shard(path: Path) -> str:
    meta = json.dumps(META).encode()
    return tar(
        path,
        [
            ('000000001.jpg', RED),
            ('000000001.txt', b'A dog'),
            ('000000001.json', meta),
            ('d.1/b.JPEG', BLUE),
            ('d.1/b.txt', b'caf\xe9'),
            ('c.txt', b'no picture'),
            ('e.png', BLUE),
            ('e.json', b'{"lang": '),
            ('f.seg.png', BLUE),
            ('f.webp', RED),
            ('f.json', b'[]'),
            ('README', b'nothing'),
        ],
    )


def test_samples_share_a_stem(tmp_path: Path) -> None:
    reader = WebDataset(shards=(shard(tmp_path / '00000.tar'),), language='en')
    found = {
        example.id: example
        for example in reader.read_examples('train', reader.splits()['train'][0])
    }
    assert list(found) == [f'00000.tar/{stem}' for stem in ('000000001', 'd.1/b', 'c', 'e', 'f')]
    first, second, *others = found.values()
    assert (first.image, first.texts, first.bad) == (RED, [('en', 'caption', 'A dog')], '')
    assert second.texts == [('en', 'caption', 'caf\udce9')]
    assert [example.bad for example in others] == [
        'no image in the sample',
        'its .json is broken',
        'its .json is not an object',
    ]


def test_texts_of_the_json(tmp_path: Path) -> None:
    reader = WebDataset(
        shards=(shard(tmp_path / '00000.tar'),),
        text_keys=('caption', 'alt:alt:en'),
        language_key='lang',
        id_key='sha256',
        split='val',
    )
    first = next(iter(reader.read_examples('val', reader.splits()['val'][0])))
    assert first.id == 'beef'
    assert first.texts == [('fi', 'caption', 'A dog'), ('en', 'alt', 'x'), ('en', 'alt', 'y')]


def test_shards_without_language(tmp_path: Path) -> None:
    reader = WebDataset(shards=(shard(tmp_path / '00000.tar'),))
    with pytest.raises(UserError, match='language of the texts is unknown'):
        examples(reader)
    with pytest.raises(UserError, match='no tar shard'):
        WebDataset(shards=(str(tmp_path / '*.tgz'),), language='en').splits()


def readers(folder: Path) -> dict[str, tuple[bytes, Reader]]:
    """Of each format a whole file and the reader of it."""
    (folder / 'images').mkdir()
    (folder / 'images' / 'a.jpg').write_bytes(RED)
    rows = [{'image': 'a.jpg', 'caption': 'Ä', 'split': s, 'b': [[0, 0, 1, 1]]} for s in 'xyx']
    lines = '\n'.join(map(json.dumps, rows)).encode()
    cells = 'image{0}caption{0}split\na.jpg{0}"Ä, ä"{0}x\na.jpg{0}B{0}y\n'
    given: dict[str, Any] = {'images': (str(folder / 'images'),), 'language': 'en'}
    given['split_column'] = 'split'
    return {
        'c.jsonl': (lines, CaptionTable(table=f'{folder}/c.jsonl', boxes_column='b', **given)),
        'c.tsv': (cells.format('\t').encode(), CaptionTable(table=f'{folder}/c.tsv', **given)),
        'c.csv': (cells.format(',').encode(), CaptionTable(table=f'{folder}/c.csv', **given)),
        's.tar': (
            Path(shard(folder / 's.tar')).read_bytes(),
            WebDataset(shards=(f'{folder}/s.tar',), text_keys=('caption', 'alt'), language='en'),
        ),
    }


@pytest.mark.parametrize('name', ['c.jsonl', 'c.tsv', 'c.csv', 's.tar'])
def test_broken_files_are_told(tmp_path: Path, name: str) -> None:
    data, reader = readers(tmp_path)[name]
    rng = random.Random(name)
    outcomes: collections.Counter[bool] = collections.Counter()
    for _ in range(FUZZ_ROUNDS):
        (tmp_path / name).write_bytes(mutated(data, rng))
        try:
            for split in reader.splits():
                examples(reader, split)
            reader.vocabulary()
            outcomes[True] += 1
        except UserError:
            outcomes[False] += 1
    assert set(outcomes) == {True, False}


def test_flickr8k() -> None:
    folder = SHARED / 'flickr8k_multi'
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
    found = dict(reader.read_images(reader.image_parts()[0], train))
    assert set(found) == train
    assert not any(example.bad for split in rows for _, example in rows[split])
    assert {text[0] for _, example in rows['dev'] for text in example.texts} == {
        'ar',
        'brx',
        'cs',
        'de',
        'en',
        'fr',
        'hi',
        'pt',
    }


def test_tiny_imagenet() -> None:
    folder = SHARED / 'tiny_imagenet64'
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
        found = list(join.read_split(reader, split))
        counts[split] = len(found)
        assert len({example.label for example in found}) == 160
        assert all(example.image.startswith(b'\xff\xd8') and not example.bad for example in found)
        assert len({key for part in parts for key, _ in reader.read_rows(split, part)}) == len(
            found
        )
    assert counts == {'train': 11_200, 'val': 1600}
    assert len(reader.vocabulary()[0]) == 297


def test_a_cut_off_archive_is_told(tmp_path: Path) -> None:
    whole = gzip.compress(Path(shard(tmp_path / 's.tar')).read_bytes())
    for length in (3, 9, len(whole) // 3, len(whole) // 2):
        (tmp_path / 'cut.tar.gz').write_bytes(whole[:length])
        with pytest.raises(UserError, match='Is it complete'):
            examples(WebDataset(shards=(str(tmp_path / 'cut.tar.gz'),), language='en'))


def test_sparse_files_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / 's.tar'
    with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo('hole.jpg')
        # A terabyte of nothing, in no byte at all.
        member.pax_headers = {'GNU.sparse.size': str(2**40), 'GNU.sparse.map': f'{2**40},0'}
        archive.addfile(member)
        archive.addfile(tarfile.TarInfo('a.jpg'))
    assert [name for name, _ in archives.read_members(str(path))] == ['a.jpg']
