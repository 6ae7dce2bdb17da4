"""Ingesting: once, whole or not at all, the languages that are asked for, and read back."""

import shutil
from pathlib import Path

import pytest
from data.datasets import draw_image, encode_image, ingest_captions, write_captions, write_rows

from mural_jax.data.ingest.ingest import ingest
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sets.records import Records, list_splits
from mural_jax.data.sources.pairs import PairTable
from mural_jax.types import UserError

PICTURES = {f'{n}.png': encode_image(draw_image(n)) for n in range(6)}
ROWS = [(name, lang, f'{lang} {name}') for name in PICTURES for lang in ('en', 'de')][:-1]
ROWS += [('0.png', 'en', 'another one'), ('5.png', 'sw', 'picha')]


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    """What each file below a folder holds, and when it was written."""
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob('*')
        if path.is_file()
    }


def ids(data_dir: Path, name: str = 'captions/some') -> set[str]:
    return {one['id'] for one in Records(name, 'train', data_dir).examples(image=False)}


def test_a_second_time_changes_nothing_and_other_options_are_refused(tmp_path: Path) -> None:
    reader = write_captions(tmp_path / 'made', PICTURES, ROWS)
    name = ingest(reader, 'some', tmp_path, RecordLimits(), 0.0)
    assert name == 'captions/some'
    before = files(tmp_path / name)
    assert ingest(reader, 'some', tmp_path, RecordLimits(), 0.0) == name
    other = write_captions(tmp_path / 'made', PICTURES, ROWS, kind='alt')
    for reader_, limits in ((other, RecordLimits()), (reader, RecordLimits(max_pixels=10))):
        with pytest.raises(UserError, match='was made with other options'):
            ingest(reader_, 'some', tmp_path, limits, 0.0)
    assert files(tmp_path / name) == before


@pytest.mark.parametrize('left', ['incomplete', 'no ingest.json', 'no index', 'no quarantine'])
def test_what_a_killed_build_left_is_made_anew(tmp_path: Path, left: str) -> None:
    ingest_captions(tmp_path, 'some', PICTURES, ROWS)
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
    ingest_captions(tmp_path, 'some', PICTURES, ROWS)
    assert ids(tmp_path) == set(PICTURES)
    assert len(Records('captions/some', 'train', tmp_path).index.record_T) == len(ROWS)


def test_only_some_languages_are_taken(tmp_path: Path) -> None:
    """What has no text in them is left out, and is not bad."""
    reader = write_captions(tmp_path / 'made', PICTURES, ROWS, languages=('de', 'sw'))
    ingest(reader, 'some', tmp_path, RecordLimits(), max_bad=0.0)
    records = Records('captions/some', 'train', tmp_path)
    assert records.languages == ['de', 'sw']
    texts = {one['id']: one['texts'] for one in records.examples(image=False)}
    assert texts['0.png'] == {'de': {'caption': ['de 0.png']}}
    assert texts['5.png'] == {'sw': {'caption': ['picha']}}
    german = write_captions(tmp_path / 'made', PICTURES, ROWS, languages=('de',))
    ingest(german, 'german', tmp_path, RecordLimits(), max_bad=0.0)
    assert ids(tmp_path, 'captions/german') == set(PICTURES) - {'5.png'}
    assert len(Records('captions/german', 'train', tmp_path)) == 5


def test_examples_are_read_back_as_they_were(tmp_path: Path) -> None:
    ingest_captions(tmp_path, 'some', PICTURES | {'6.png': b'bad'}, [*ROWS, ('6.png', 'en', 'bad')])
    records = Records('captions/some', 'train', tmp_path)
    assert len(records) == 7
    found = {one['id']: one for one in records.examples(image=True)}
    assert {name: one['image'] for name, one in found.items()} == PICTURES
    expected = {'en': {'caption': ['en 0.png', 'another one']}, 'de': {'caption': ['de 0.png']}}
    assert found['0.png']['texts'] == expected
    index = records.index
    assert index.bad_R.sum() == 1
    assert (index.hash_R[~index.bad_R] > 0).all()
    assert {(w, h) for w, h in zip(index.width_R, index.height_R)} == {(96, 72), (0, 0)}


def test_rows_of_texts_have_splits_and_no_pictures(tmp_path: Path) -> None:
    rows = [
        {'split': split, 'en': f'{split} {n}', 'de': f'{split}e {n}', 'fr': 'x' * (n % 2)}
        for split, count in (('train', 9), ('test', 4))
        for n in range(count)
    ]
    table = str(write_rows(tmp_path / 'rows.jsonl', rows))
    ingest(PairTable(table=table, split_column='split'), 'rows', tmp_path, RecordLimits(), 0.0)
    assert list_splits('translations/rows', tmp_path) == ['test', 'train']
    records = Records('translations/rows', 'test', tmp_path)
    assert not records.has_image
    assert len(records) == 4
    found = list(records.examples(image=False))
    assert {one['texts']['en']['sentence'][0] for one in found} == {f'test {n}' for n in range(4)}
    # An empty cell is no text, and makes no row bad.
    assert sum('fr' in one['texts'] for one in found) == 2
