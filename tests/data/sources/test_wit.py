"""WIT: published tables, and pictures in each layout and by each name they come in."""

import dataclasses
import gzip
import random
import tarfile
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import REAL_DATA as SHARED
from data.fuzz import FUZZ_ROUNDS, mutate
from data.sources.wit_files import (
    COMMONS,
    PICTURES,
    ROWS,
    URLS,
    WAYS,
    img2dataset,
    layout,
    row,
    table,
    tsv,
    write_pixels,
    write_tar,
)

from mural_jax.data.sources import join
from mural_jax.data.sources.reader import Example
from mural_jax.data.sources.wit import COLUMNS, KINDS, Wit
from mural_jax.types import UserError


def read(reader: Wit, split: str = 'train') -> dict[str, Example]:
    return {example.id: example for example in join.read_split(reader, split)}


@pytest.mark.parametrize(('way', 'name'), WAYS)
def test_each_layout_joins(tmp_path: Path, way: str, name: str) -> None:
    other = {f'{COMMONS}/9/99/Other.jpg': b'nobody tells of it'}
    given = layout(tmp_path, way, name, PICTURES | other)
    found = read(Wit(table=table(tmp_path, tsv(ROWS)), **given))
    assert {url: example.image for url, example in found.items()} == PICTURES
    assert not any(example.bad for example in found.values())


def test_rows_of_a_picture_are_one_example(tmp_path: Path) -> None:
    reader = Wit(table=table(tmp_path, tsv(ROWS)), images=(write_pixels(tmp_path, PICTURES),))
    assert read(reader)[URLS[0]].texts == [
        ('pt', 'reference', 'A "cidade"\nvista\tde longe'),
        ('pt', 'page_title', 'S'),
        ('de', 'attribution', 'Deutsch: Die Stadt'),
        ('de', 'section_title', 'Lage'),
        ('de', 'section_text', 'Am'),
        ('en', 'page_title', 'Town'),
    ]
    assert read(reader)[URLS[1]].texts == [
        ('en', 'alt_text', 'a dog'),
        ('en', 'page_description', 'Dogs bark'),
    ]
    all_of_them = dataclasses.replace(reader, all_attributions=True)
    assert ('en', 'attribution', 'Deutsch: Die Stadt') in read(all_of_them)[URLS[0]].texts


def test_vocabulary_and_languages(tmp_path: Path) -> None:
    reader = Wit(table=table(tmp_path, tsv(ROWS)), images=(write_pixels(tmp_path, PICTURES),))
    assert reader.vocabulary() == (['de', 'en', 'pt'], sorted(KINDS.values()))
    german = dataclasses.replace(reader, languages=('de',))
    assert german.vocabulary()[0] == ['de']
    assert {text[0] for example in read(german).values() for text in example.texts} == {'de'}
    assert set(read(german)) == {URLS[0]}


def test_splits_by_the_names_of_the_tables(tmp_path: Path) -> None:
    for split in ('train', 'val', 'test'):
        pattern = table(tmp_path, tsv(ROWS), split)
    reader = Wit(table=pattern, images=(write_pixels(tmp_path, PICTURES),))
    assert list(reader.splits()) == ['test', 'train', 'val']
    (tmp_path / 'contest.tsv').write_bytes(tsv(ROWS))
    other = dataclasses.replace(reader, table=str(tmp_path / 'contest.tsv'))
    with pytest.raises(UserError, match='--split'):
        other.splits()
    assert list(dataclasses.replace(other, split='dev').splits()) == ['dev']


def test_broken_rows_are_counted_and_stop_nothing(tmp_path: Path) -> None:
    first, second, rest = tsv(ROWS[1:]).split(b'\n', 2)
    no_url = tsv([row('', 'en')]).split(b'\n')[1]
    content = b'\n'.join([first, b'en\ttoo few', no_url, second + b'\ttoo many', second, rest])
    reader = Wit(table=table(tmp_path, content), images=(write_pixels(tmp_path, PICTURES),))
    examples = list(join.read_split(reader, 'train'))
    assert sorted(example.bad for example in examples) == [
        '',
        '',
        'no image_url',
        'row with 18 fields',
        'row with 2 fields',
    ]
    assert {example.id for example in examples if not example.bad} == set(URLS)


def test_an_open_quote_costs_no_more_than_its_rows(tmp_path: Path) -> None:
    content = tsv(ROWS[1:2]) + b'"open'
    reader = Wit(table=table(tmp_path, content), images=(write_pixels(tmp_path, PICTURES),))
    assert sorted(example.bad for example in join.read_split(reader, 'train')) == [
        '',
        'row with 1 fields',
    ]


@pytest.mark.parametrize('name', COLUMNS)
def test_a_missing_column_is_named(tmp_path: Path, name: str) -> None:
    content = tsv(ROWS, [column for column in COLUMNS if column != name])
    reader = Wit(table=table(tmp_path, content), images=(write_pixels(tmp_path, PICTURES),))
    with pytest.raises(UserError, match=rf"no column \['{name}'\]"):
        read(reader)


def test_a_column_more_does_no_harm(tmp_path: Path) -> None:
    # The competition's own tables have one.
    content = tsv(ROWS, [*COLUMNS, 'caption_title_and_reference_description'])
    reader = Wit(table=table(tmp_path, content), images=(write_pixels(tmp_path, PICTURES),))
    assert set(read(reader)) == set(URLS)


def test_one_file_name_of_two_wikis_is_bad_only_by_that_name(tmp_path: Path) -> None:
    local_url = URLS[0].replace('commons/1/1a', 'pt/7/7c')
    rows = [*ROWS, row(local_url, 'pt', page_title='Outra'), row('http' + URLS[1][5:], 'fr')]
    given = layout(tmp_path, 'tar', 'encoded', PICTURES)
    reader = Wit(table=table(tmp_path, tsv(rows)), **given)
    # http or https are no two pictures.
    assert sorted(bool(example.bad) for example in join.read_split(reader, 'train')) == [
        False,
        True,
    ]
    pixels = write_pixels(tmp_path, {**PICTURES, local_url: b'another'})
    found = read(dataclasses.replace(reader, images=(pixels,)))
    assert found[local_url].image == b'another' and not found[URLS[0]].bad
    both = dataclasses.replace(reader, images=(pixels, *reader.images))
    assert {e.image for e in join.read_split(both, 'train') if not e.bad} == {PICTURES[URLS[1]]}


def test_what_is_no_base64_comes_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / 'pixels.csv'
    folder.write_text(f'no tab\n\n\t\t\n{URLS[0]}\t*&(\tx\n{URLS[1]}\tYQ==\n', encoding='utf-8')
    reader = Wit(table=table(tmp_path, tsv(ROWS)), images=(str(folder),))
    assert {url: example.image for url, example in read(reader).items()} == {
        URLS[0]: b'*&(',
        URLS[1]: b'a',
    }


def test_wrong_flags_say_what_to_do(tmp_path: Path) -> None:
    where = table(tmp_path, tsv(ROWS))
    with pytest.raises(UserError, match='known are basename'):
        Wit(table=where, images=('x',), images_key='name')
    with pytest.raises(UserError, match='--images'):
        read(Wit(table=where, images=()))
    write_tar(tmp_path, {'a.jpg': b'a'})
    with pytest.raises(UserError, match=r'\*\.tar'):
        read(Wit(table=where, images=(str(tmp_path),)))
    with pytest.raises(UserError, match='no WIT table'):
        Wit(table=str(tmp_path / 'none*'), images=()).splits()
    with pytest.raises(UserError, match='has no rows'):
        Wit(table=table(tmp_path, tsv([])), images=()).vocabulary()


def test_a_cut_file_is_an_error(tmp_path: Path) -> None:
    images = (write_pixels(tmp_path, PICTURES),)
    reader = Wit(table=table(tmp_path, tsv(ROWS)), images=images)
    for path in (*reader.splits()['train'], *reader.image_parts()):
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[:-12])
        with pytest.raises(UserError, match='complete'):
            read(reader)
        Path(path).write_bytes(whole)
    assert set(read(reader)) == set(URLS)


def attempt(reader: Wit) -> None:
    """Reads all; only a UserError may come of it."""
    try:
        reader.vocabulary()
        for example in join.read_split(reader, 'train'):
            assert isinstance(example.image, bytes)
    except UserError:
        pass


@pytest.mark.parametrize('suffix', ['.tsv', '.tsv.gz'])
def test_fuzzed_tables(tmp_path: Path, suffix: str) -> None:
    rng, path = random.Random(0), tmp_path / f'train{suffix}'
    reader = Wit(table=str(path), images=(write_pixels(tmp_path, PICTURES),))
    pack = gzip.compress if suffix.endswith('gz') else bytes
    for _ in range(FUZZ_ROUNDS):
        path.write_bytes(mutate(pack(tsv(ROWS)), rng))
        attempt(reader)


@pytest.mark.parametrize('key', ['basename', 'json', 'sha1'])
@pytest.mark.parametrize('suffix', ['.csv', '.csv.gz', '.tar'])
def test_fuzzed_pictures(tmp_path: Path, suffix: str, key: str) -> None:
    images = write_tar(tmp_path, img2dataset(PICTURES))
    content = (tmp_path / '00000.tar').read_bytes()
    if suffix != '.tar':
        images = write_pixels(tmp_path, PICTURES)
        content = next(tmp_path.glob('image_pixels/*')).read_bytes()
        content = content if suffix.endswith('gz') else zlib.decompress(content, 31)
    path = tmp_path / f'fuzzed{suffix}'
    # A part that is whole beside it: then pixel files are joined by `images_key`.
    reader = Wit(table=table(tmp_path, tsv(ROWS)), images=(images, str(path)), images_key=key)
    rng = random.Random(1)
    for _ in range(FUZZ_ROUNDS // 3):
        path.write_bytes(mutate(content, rng))
        attempt(reader)


@pytest.fixture(scope='module')
def flickr() -> tuple[list[dict[str, str]], dict[str, bytes]]:
    """(rows, pictures by URL) of 200 real pictures, written as WIT has them."""
    folder = SHARED / 'flickr8k_multi'
    if not folder.is_dir():
        pytest.skip(f'no {folder}')
    parquet = pytest.importorskip('pyarrow.parquet')
    with tarfile.open(folder / 'images112.tar') as archive:
        members = archive.getmembers()[:200]
        files = {m.name: archive.extractfile(m).read() for m in members}
    urls = {name: f'{COMMONS}/a/ab/{quote("Ö_" + name)}' for name in files}
    captions = parquet.read_table(folder / 'captions.parquet').to_pylist()
    rows = [
        row(urls[c['image']], c['lang'], caption_reference_description=c['caption'])
        for c in captions
        if c['image'] in urls
    ]
    return rows, {urls[name]: content for name, content in files.items()}


@pytest.mark.parametrize(('way', 'name'), WAYS)
def test_real_pictures(tmp_path: Path, flickr: Any, way: str, name: str) -> None:
    rows, pictures = flickr
    random.Random(0).shuffle(rows)
    reader = Wit(table=table(tmp_path, tsv(rows)), **layout(tmp_path, way, name, pictures))
    assert {'ar', 'brx', 'en', 'hi'} <= set(reader.vocabulary()[0])
    found = read(reader)
    assert {url: example.image for url, example in found.items()} == pictures
    texts = {(url, language, text) for url, e in found.items() for language, _, text in e.texts}
    assert texts == {
        (r['image_url'], r['language'], r['caption_reference_description']) for r in rows
    }
