"""Reading of WIT: published tables, and images in each layout and naming."""

import dataclasses
import gzip
import random
import tarfile
import zlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from conftest import REAL_DATA
from data.fuzz import FUZZ_ROUNDS, mutate
from data.sources.wit_files import (
    COMMONS,
    IMAGES,
    LAYOUTS,
    ROWS,
    URLS,
    encode_tsv,
    make_img2dataset_files,
    make_row,
    write_images,
    write_pixels,
    write_table,
    write_tar,
)

from mural_jax.data.sources import join
from mural_jax.data.sources.reader import Example
from mural_jax.data.sources.wit import COLUMNS, KINDS, Wit
from mural_jax.types import UserError


def read_by_id(reader: Wit, split: str = 'train') -> dict[str, Example]:
    return {example.id: example for example in join.read_split(reader, split)}


def make_reader(folder: Path, content: bytes) -> Wit:
    """A reader of a table, with the images in pixel files."""
    return Wit(table=write_table(folder, content), images=(write_pixels(folder, IMAGES),))


@pytest.fixture
def reader(tmp_path: Path) -> Wit:
    return make_reader(tmp_path, encode_tsv(ROWS))


@pytest.mark.parametrize(('way', 'naming'), LAYOUTS)
def test_images_are_joined_in_each_layout(tmp_path: Path, way: str, naming: str) -> None:
    other = {f'{COMMONS}/9/99/Other.jpg': b'no row has it'}
    flags = write_images(tmp_path, way, naming, IMAGES | other)
    examples = read_by_id(Wit(table=write_table(tmp_path, encode_tsv(ROWS)), **flags))
    assert {url: example.image for url, example in examples.items()} == IMAGES
    assert not any(example.bad for example in examples.values())


def test_rows_of_one_image_are_one_example(reader: Wit) -> None:
    assert read_by_id(reader)[URLS[0]].texts == [
        ('pt', 'reference', 'A "cidade"\nvista\tde longe'),
        ('pt', 'page_title', 'S'),
        ('de', 'attribution', 'Deutsch: Die Stadt'),
        ('de', 'section_title', 'Lage'),
        ('de', 'section_text', 'Am'),
        ('en', 'page_title', 'Town'),
    ]
    assert read_by_id(reader)[URLS[1]].texts == [
        ('en', 'alt_text', 'a dog'),
        ('en', 'page_description', 'Dogs bark'),
    ]


def test_attributions_in_other_languages_may_be_kept(reader: Wit) -> None:
    text = ('en', 'attribution', 'Deutsch: Die Stadt')
    assert text not in read_by_id(reader)[URLS[0]].texts
    reader = dataclasses.replace(reader, all_attributions=True)
    assert text in read_by_id(reader)[URLS[0]].texts


def test_tables_tell_the_vocabulary(reader: Wit) -> None:
    assert reader.vocabulary() == (['de', 'en', 'pt'], sorted(KINDS.values()))


def test_other_languages_are_left_out(reader: Wit) -> None:
    german = dataclasses.replace(reader, languages=('de',))
    assert german.vocabulary()[0] == ['de']
    assert {text[0] for example in read_by_id(german).values() for text in example.texts} == {'de'}
    assert set(read_by_id(german)) == {URLS[0]}


def test_names_of_tables_tell_splits(tmp_path: Path, reader: Wit) -> None:
    for split in ('train', 'val', 'test'):
        write_table(tmp_path, encode_tsv(ROWS), split)
    assert list(reader.splits()) == ['test', 'train', 'val']


def test_table_whose_name_tells_no_split_needs_the_flag(tmp_path: Path, reader: Wit) -> None:
    (tmp_path / 'contest.tsv').write_bytes(encode_tsv(ROWS))
    other = dataclasses.replace(reader, table=str(tmp_path / 'contest.tsv'))
    with pytest.raises(UserError, match='--split'):
        other.splits()
    assert list(dataclasses.replace(other, split='dev').splits()) == ['dev']


def test_broken_rows_are_bad_and_others_are_read(tmp_path: Path) -> None:
    first, second, rest = encode_tsv(ROWS[1:]).split(b'\n', 2)
    no_url = encode_tsv([make_row('', 'en')]).split(b'\n')[1]
    content = b'\n'.join([first, b'en\ttoo few', no_url, second + b'\ttoo many', second, rest])
    reader = make_reader(tmp_path, content)
    examples = list(join.read_split(reader, 'train'))
    assert sorted(example.bad for example in examples) == [
        '',
        '',
        'no image_url',
        'row with 18 fields',
        'row with 2 fields',
    ]
    assert {example.id for example in examples if not example.bad} == set(URLS)


def test_open_quote_spoils_only_the_last_row(tmp_path: Path) -> None:
    content = encode_tsv(ROWS[1:2]) + b'"open'
    reader = make_reader(tmp_path, content)
    assert sorted(example.bad for example in join.read_split(reader, 'train')) == [
        '',
        'row with 1 fields',
    ]


@pytest.mark.parametrize('name', COLUMNS)
def test_missing_column_is_named_in_error(tmp_path: Path, name: str) -> None:
    content = encode_tsv(ROWS, [column for column in COLUMNS if column != name])
    reader = make_reader(tmp_path, content)
    with pytest.raises(UserError, match=rf"no column \['{name}'\]"):
        read_by_id(reader)


def test_additional_column_is_ignored(tmp_path: Path) -> None:
    # The competition's own tables have one.
    content = encode_tsv(ROWS, [*COLUMNS, 'caption_title_and_reference_description'])
    reader = make_reader(tmp_path, content)
    assert set(read_by_id(reader)) == set(URLS)


LOCAL_URL = URLS[0].replace('commons/1/1a', 'pt/7/7c')


@pytest.fixture
def ambiguous_reader(tmp_path: Path) -> Wit:
    """A reader of images by file name, where two wikis use the same name."""
    # http and https are the same URL.
    more = [make_row(LOCAL_URL, 'pt', page_title='Outra'), make_row('http' + URLS[1][5:], 'fr')]
    flags = write_images(tmp_path, 'tar', 'encoded', IMAGES)
    return Wit(table=write_table(tmp_path, encode_tsv([*ROWS, *more])), **flags)


def test_file_name_of_two_wikis_is_bad(ambiguous_reader: Wit) -> None:
    examples = join.read_split(ambiguous_reader, 'train')
    assert sorted(bool(example.bad) for example in examples) == [False, True]


def test_pixel_files_tell_images_of_two_wikis_apart(tmp_path: Path, ambiguous_reader: Wit) -> None:
    pixels = write_pixels(tmp_path, {**IMAGES, LOCAL_URL: b'another'})
    examples = read_by_id(dataclasses.replace(ambiguous_reader, images=(pixels,)))
    assert examples[LOCAL_URL].image == b'another' and not examples[URLS[0]].bad


def test_pixel_files_beside_archives_are_joined_by_file_name(
    tmp_path: Path, ambiguous_reader: Wit
) -> None:
    pixels = write_pixels(tmp_path, {**IMAGES, LOCAL_URL: b'another'})
    both = dataclasses.replace(ambiguous_reader, images=(pixels, *ambiguous_reader.images))
    good = [example for example in join.read_split(both, 'train') if not example.bad]
    assert {example.image for example in good} == {IMAGES[URLS[1]]}


def test_invalid_base64_is_read_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / 'pixels.csv'
    folder.write_text(f'no tab\n\n\t\t\n{URLS[0]}\t*&(\tx\n{URLS[1]}\tYQ==\n', encoding='utf-8')
    reader = Wit(table=write_table(tmp_path, encode_tsv(ROWS)), images=(str(folder),))
    assert {url: example.image for url, example in read_by_id(reader).items()} == {
        URLS[0]: b'*&(',
        URLS[1]: b'a',
    }


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({'images_key': 'name'}, 'known are basename'),
        ({'images': ()}, '--images'),
        ({'images': ('FOLDER',)}, r'\*\.tar'),
        ({'table': 'none*'}, 'no WIT table'),
    ],
)
def test_wrong_flags_are_refused(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    table = write_table(tmp_path, encode_tsv(ROWS))
    write_tar(tmp_path, {'a.jpg': b'a'})
    flags = {'table': table, 'images': ('x',), **flags}
    flags['images'] = tuple(path.replace('FOLDER', str(tmp_path)) for path in flags['images'])
    with pytest.raises(UserError, match=message):
        reader = Wit(**flags)
        reader.splits()
        read_by_id(reader)


def test_table_without_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='has no rows'):
        make_reader(tmp_path, encode_tsv([])).vocabulary()


def test_cut_off_files_raise_user_error(reader: Wit) -> None:
    for path in (*reader.splits()['train'], *reader.image_parts()):
        whole = Path(path).read_bytes()
        Path(path).write_bytes(whole[:-12])
        with pytest.raises(UserError, match='complete'):
            read_by_id(reader)
        Path(path).write_bytes(whole)
    assert set(read_by_id(reader)) == set(URLS)


def read_broken(reader: Wit) -> None:
    """Reads everything and allows only a UserError."""
    try:
        reader.vocabulary()
        for example in join.read_split(reader, 'train'):
            assert isinstance(example.image, bytes)
    except UserError:
        pass


@pytest.mark.parametrize('suffix', ['.tsv', '.tsv.gz'])
def test_broken_tables_raise_user_error(tmp_path: Path, suffix: str) -> None:
    rng, path = random.Random(0), tmp_path / f'train{suffix}'
    reader = Wit(table=str(path), images=(write_pixels(tmp_path, IMAGES),))
    pack = gzip.compress if suffix.endswith('gz') else bytes
    for _ in range(FUZZ_ROUNDS):
        path.write_bytes(mutate(pack(encode_tsv(ROWS)), rng))
        read_broken(reader)


@pytest.mark.parametrize('key', ['basename', 'json', 'sha1'])
@pytest.mark.parametrize('suffix', ['.csv', '.csv.gz', '.tar'])
def test_broken_images_raise_user_error(tmp_path: Path, suffix: str, key: str) -> None:
    images = write_tar(tmp_path, make_img2dataset_files(IMAGES))
    content = (tmp_path / '00000.tar').read_bytes()
    if suffix != '.tar':
        images = write_pixels(tmp_path, IMAGES)
        content = next(tmp_path.glob('image_pixels/*')).read_bytes()
        content = content if suffix.endswith('gz') else zlib.decompress(content, 31)
    path = tmp_path / f'fuzzed{suffix}'
    table = write_table(tmp_path, encode_tsv(ROWS))
    # With another part beside them pixel files are joined by `images_key`.
    reader = Wit(table=table, images=(images, str(path)), images_key=key)
    rng = random.Random(1)
    for _ in range(FUZZ_ROUNDS // 3):
        path.write_bytes(mutate(content, rng))
        read_broken(reader)


@pytest.fixture(scope='module')
def flickr() -> tuple[list[dict[str, str]], dict[str, bytes]]:
    """(rows, images by URL) of 200 real images, written as WIT has them."""
    folder = REAL_DATA / 'flickr8k_multi'
    if not folder.is_dir():
        pytest.skip(f'no {folder}')
    parquet = pytest.importorskip('pyarrow.parquet')
    with tarfile.open(folder / 'images112.tar') as archive:
        members = archive.getmembers()[:200]
        files = {m.name: archive.extractfile(m).read() for m in members}
    urls = {name: f'{COMMONS}/a/ab/{quote("Ö_" + name)}' for name in files}
    captions = parquet.read_table(folder / 'captions.parquet').to_pylist()
    rows = [
        make_row(urls[c['image']], c['lang'], caption_reference_description=c['caption'])
        for c in captions
        if c['image'] in urls
    ]
    return rows, {urls[name]: content for name, content in files.items()}


@pytest.mark.parametrize(('way', 'naming'), LAYOUTS)
def test_real_images_are_joined_in_each_layout(
    tmp_path: Path, flickr: Any, way: str, naming: str
) -> None:
    rows, images = flickr
    random.Random(0).shuffle(rows)
    flags = write_images(tmp_path, way, naming, images)
    reader = Wit(table=write_table(tmp_path, encode_tsv(rows)), **flags)
    assert {'ar', 'brx', 'en', 'hi'} <= set(reader.vocabulary()[0])
    examples = read_by_id(reader)
    assert {url: example.image for url, example in examples.items()} == images
    texts = {(url, language, text) for url, e in examples.items() for language, _, text in e.texts}
    assert texts == {
        (r['image_url'], r['language'], r['caption_reference_description']) for r in rows
    }
