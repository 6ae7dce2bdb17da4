"""Ingestion: a data set is built once and completely, and holds what its reader gave."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from data.datasets import draw_image, encode_image, ingest_captions, write_captions, write_rows

from mural_jax.data.ingest.ingest import ingest
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sets.records import Records, list_splits
from mural_jax.data.sources.captions import CaptionTable
from mural_jax.data.sources.pairs import PairTable
from mural_jax.types import UserError

IMAGES = {f'{n}.png': encode_image(draw_image(n)) for n in range(6)}
ROWS = [(name, lang, f'{lang} {name}') for name in IMAGES for lang in ('en', 'de')][:-1]
ROWS += [('0.png', 'en', 'another one'), ('5.png', 'sw', 'picha')]


def read_files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """(content, time of writing) of each file below a folder."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob('*')
        if path.is_file()
    }


def list_ids(data_dir: Path, name: str = 'captions/some') -> set[str]:
    return {example['id'] for example in Records(name, 'train', data_dir).examples(image=False)}


@pytest.fixture(scope='module')
def ingested(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CaptionTable]:
    """(folder of data sets, reader) of the data set captions/some."""
    folder = tmp_path_factory.mktemp('ingested')
    reader = write_captions(folder / 'made', IMAGES, ROWS)
    assert ingest(reader, 'some', folder, RecordLimits(), 0.0) == 'captions/some'
    return folder, reader


def test_second_ingestion_changes_nothing(ingested: tuple[Path, CaptionTable]) -> None:
    folder, reader = ingested
    before = read_files(folder / 'captions' / 'some')
    assert ingest(reader, 'some', folder, RecordLimits(), 0.0) == 'captions/some'
    assert read_files(folder / 'captions' / 'some') == before


@pytest.mark.parametrize('changed', ['reader', 'limits'])
def test_same_name_with_other_options_is_refused(
    ingested: tuple[Path, CaptionTable], changed: str
) -> None:
    folder, reader = ingested
    before = read_files(folder / 'captions' / 'some')
    limits = RecordLimits(max_pixels=10) if changed == 'limits' else RecordLimits()
    if changed == 'reader':
        reader = dataclasses.replace(reader, kind='alt')
    with pytest.raises(UserError, match='was made with other options'):
        ingest(reader, 'some', folder, limits, 0.0)
    assert read_files(folder / 'captions' / 'some') == before


@pytest.mark.parametrize('left', ['incomplete', 'no ingest.json', 'no index', 'no quarantine'])
def test_interrupted_build_is_repeated(tmp_path: Path, left: str) -> None:
    ingest_captions(tmp_path, 'some', IMAGES, ROWS)
    folder = tmp_path / 'captions' / 'some' / '1.0.0'
    if left == 'incomplete':
        half = folder.with_name('incomplete.AB12CD_1.0.0')
        folder.rename(half)
        next(half.glob('*array_record*')).write_bytes(b'half')
        with pytest.raises(UserError, match='is not prepared'):
            Records('captions/some', 'train', tmp_path)
    elif left == 'no ingest.json':
        (folder / 'ingest.json').unlink()
        next(folder.glob('*array_record*')).write_bytes(b'half')
    elif left == 'no index':
        shutil.rmtree(folder / 'index-train')
        with pytest.raises(UserError, match='mural prepare'):
            _ = Records('captions/some', 'train', tmp_path).index
    else:
        (folder / 'quarantine-train.jsonl').unlink()
    ingest_captions(tmp_path, 'some', IMAGES, ROWS)
    assert list_ids(tmp_path) == set(IMAGES)
    assert len(Records('captions/some', 'train', tmp_path).index.record_T) == len(ROWS)


def test_only_wanted_languages_are_stored(tmp_path: Path) -> None:
    reader = write_captions(tmp_path / 'made', IMAGES, ROWS, languages=('de', 'sw'))
    ingest(reader, 'some', tmp_path, RecordLimits(), max_bad=0.0)
    records = Records('captions/some', 'train', tmp_path)
    assert records.languages == ['de', 'sw']
    texts = {example['id']: example['texts'] for example in records.examples(image=False)}
    assert texts['0.png'] == {'de': {'caption': ['de 0.png']}}
    assert texts['5.png'] == {'sw': {'caption': ['picha']}}


def test_examples_without_wanted_languages_are_left_out(tmp_path: Path) -> None:
    german = write_captions(tmp_path / 'made', IMAGES, ROWS, languages=('de',))
    ingest(german, 'german', tmp_path, RecordLimits(), max_bad=0.0)
    assert list_ids(tmp_path, 'captions/german') == set(IMAGES) - {'5.png'}
    assert len(Records('captions/german', 'train', tmp_path)) == 5


@pytest.fixture(scope='module')
def records_with_bad_one(tmp_path_factory: pytest.TempPathFactory) -> Records:
    folder = tmp_path_factory.mktemp('bad')
    rows = [*ROWS, ('6.png', 'en', 'bad')]
    ingest_captions(folder, 'some', IMAGES | {'6.png': b'bad'}, rows)
    return Records('captions/some', 'train', folder)


def test_good_examples_are_stored_unchanged(records_with_bad_one: Records) -> None:
    examples = {example['id']: example for example in records_with_bad_one.examples(image=True)}
    assert {name: example['image'] for name, example in examples.items()} == IMAGES
    expected = {'en': {'caption': ['en 0.png', 'another one']}, 'de': {'caption': ['de 0.png']}}
    assert examples['0.png']['texts'] == expected


def test_index_has_sizes_hashes_and_bad_records(records_with_bad_one: Records) -> None:
    assert len(records_with_bad_one) == 7
    index = records_with_bad_one.index
    assert index.bad_R.sum() == 1
    assert (index.hash_R[~index.bad_R] > 0).all()
    assert {(w, h) for w, h in zip(index.width_R, index.height_R)} == {(96, 72), (0, 0)}


@pytest.fixture(scope='module')
def rows_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data sets with translations/rows, texts in two splits."""
    folder = tmp_path_factory.mktemp('rows')
    rows = [
        {'split': split, 'en': f'{split} {n}', 'de': f'{split}e {n}', 'fr': 'x' * (n % 2)}
        for split, count in (('train', 9), ('test', 4))
        for n in range(count)
    ]
    table = str(write_rows(folder / 'rows.jsonl', rows))
    ingest(PairTable(table=table, split_column='split'), 'rows', folder, RecordLimits(), 0.0)
    return folder


def test_split_column_makes_splits(rows_dir: Path) -> None:
    assert list_splits('translations/rows', rows_dir) == ['test', 'train']
    records = Records('translations/rows', 'test', rows_dir)
    assert not records.has_image
    assert len(records) == 4
    texts = [example['texts'] for example in records.examples(image=False)]
    assert {text['en']['sentence'][0] for text in texts} == {f'test {n}' for n in range(4)}


def test_empty_cell_is_no_text(rows_dir: Path) -> None:
    records = Records('translations/rows', 'test', rows_dir)
    texts = [example['texts'] for example in records.examples(image=False)]
    assert len(texts) == 4
    assert sum('fr' in text for text in texts) == 2
