"""Reading of aligned text files: Moses files, folders of FLORES and NTREX, Tatoeba."""

import gzip
from pathlib import Path
from typing import Any

import pytest
from data.sources.pair_files import check_broken_files, count_texts, read_all, write_file

from mural_jax.data.sources import tables
from mural_jax.data.sources.aligned import Aligned, Moses, Tatoeba
from mural_jax.types import UserError


def test_moses_lines_end_at_line_feeds_only(tmp_path: Path) -> None:
    write_file(tmp_path / 'c.en-de.en', 'one\u2028still\rone\r\n\ntwo')
    write_file(tmp_path / 'c.en-de.de.gz', gzip.compress(b'eins\n\xff\nzwei\n'))
    reader = Moses(files=(f'{tmp_path}/c.en-de.*',), split='dev')
    assert reader.vocabulary() == (['de', 'en'], ['sentence'])
    examples = read_all(reader)['dev']
    assert [[text for _, _, text in example.texts] for example in examples] == [
        ['eins', 'one\u2028still\rone'],
        ['\udcff', ''],
        ['zwei', 'two'],
    ]
    assert examples[2].id == 'c.en-de:2'


@pytest.fixture
def two_corpora(tmp_path: Path) -> Path:
    for name in ('a.en', 'a.de', 'b.en', 'b.fr'):
        write_file(tmp_path / name, f'{name}\n')
    return tmp_path


def test_moses_files_of_one_name_are_aligned(two_corpora: Path) -> None:
    reader = Moses(files=(f'{two_corpora}/*.*',))
    assert list(reader.splits()['train']) == ['a', 'b']
    assert [len(e.texts) for e in read_all(reader)['train']] == [2, 2]


def test_moses_corpora_without_wanted_languages_are_left_out(two_corpora: Path) -> None:
    reader = Moses(files=(f'{two_corpora}/*.*',), languages=('de', 'en'))
    assert list(reader.splits()['train']) == ['a']


def test_moses_flag_gives_language_of_a_file(two_corpora: Path) -> None:
    reader = Moses(files=(f'sw={two_corpora}/a.en', f'pt_BR={two_corpora}/b.fr'))
    assert reader.vocabulary()[0] == ['pt_BR', 'sw']


def test_moses_files_of_different_lengths_are_refused(tmp_path: Path) -> None:
    write_file(tmp_path / 'a.en', '1\n2\n3\n4\n')
    write_file(tmp_path / 'a.de', '1\n2\n')
    with pytest.raises(UserError, match='a.de has 2 lines, .*a.en has 4'):
        read_all(Moses(files=(f'{tmp_path}/a.*',)))


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({'files': ('none.*',)}, 'no text file'),
        ({'files': ('a.en',)}, 'needs two'),
        ({'files': ('a.en', 'plain')}, 'LANGUAGE='),
        ({'files': ('a.en', 'a.de'), 'languages': ('en', 'xx')}, r"No file is in \['xx'\]"),
        ({'files': ('a.en', 'a.de'), 'languages': ('en',)}, 'nothing to pair'),
    ],
)
def test_wrong_flags_of_moses_are_refused(
    tmp_path: Path, flags: dict[str, Any], message: str
) -> None:
    for name in ('a.en', 'a.de', 'plain'):
        write_file(tmp_path / name, 'x\n')
    flags = flags | {'files': tuple(f'{tmp_path}/{file}' for file in flags['files'])}
    with pytest.raises(UserError, match=message):
        Moses(**flags).vocabulary()


def test_cut_off_gzip_file_raises_user_error(tmp_path: Path) -> None:
    write_file(tmp_path / 'a.en.gz', gzip.compress(b'x\n' * 9999)[:-20])
    write_file(tmp_path / 'a.de', 'x\n' * 9999)
    with pytest.raises(UserError, match='Cannot read'):
        read_all(Moses(files=(f'{tmp_path}/a.*',)))


def test_line_without_end_raises_user_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, 'MAX_FIELD', 1000)
    write_file(tmp_path / 'a.en', 'x' * 2000)
    write_file(tmp_path / 'a.de', 'x' * 2000)
    with pytest.raises(UserError, match='line of 1,000'):
        read_all(Moses(files=(f'{tmp_path}/a.*',)))


@pytest.mark.parametrize(
    ('name', 'data'),
    [('a.en', b'Hi\nBye\n'), ('a.en.gz', gzip.compress(b'Hi\nBye\n', mtime=0))],
    ids=['plain', 'gzipped'],
)
def test_broken_moses_files_raise_user_error(tmp_path: Path, name: str, data: bytes) -> None:
    check_broken_files(tmp_path / name, data, lambda path: Moses(files=(path, f'de={path}')))


@pytest.fixture
def flores(tmp_path: Path) -> dict[str, str]:
    """Flags of a folder of FLORES with three languages."""
    for language in ('eng_Latn', 'deu_Latn', 'sat_Olck'):
        path = tmp_path / 'devtest' / f'{language}.devtest'
        write_file(path, f'{language} 1\n{language} 2\n')
    return {'folder': f'{tmp_path}/devtest', 'pattern': '*.devtest'}


def test_flores_file_names_are_languages(flores: dict[str, str]) -> None:
    reader = Aligned(**flores, split='test')
    assert count_texts(reader)['test'] == {'eng_Latn': 2, 'deu_Latn': 2, 'sat_Olck': 2}


def test_flores_languages_are_selected(flores: dict[str, str]) -> None:
    reader = Aligned(**flores, languages=('deu_Latn', 'eng_Latn'))
    assert count_texts(reader)['dev'] == {'eng_Latn': 2, 'deu_Latn': 2}


def test_ntrex_has_two_references_of_a_language(tmp_path: Path) -> None:
    for name in ('src.eng', 'ref.eng-GB', 'ref.spa', 'ref-2.spa', 'ref.aze-Latn'):
        write_file(tmp_path / f'newstest2019-{name}.txt', 'x\n')
    reader = Aligned(folder=str(tmp_path), layout='ntrex')
    assert count_texts(reader)['test'] == {'eng': 1, 'eng-GB': 1, 'spa': 2, 'aze-Latn': 1}


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({}, 'nothing to pair'),
        ({'layout': 'x'}, 'unknown'),
        ({'layout': 'ntrex'}, 'no aligned file'),
        ({'layout': 'ntrex', 'pattern': '*'}, 'does not fit the layout ntrex'),
    ],
)
def test_wrong_flags_of_aligned_are_refused(
    tmp_path: Path, flags: dict[str, str], message: str
) -> None:
    write_file(tmp_path / 'eng_Latn.dev', 'x\n')
    with pytest.raises(UserError, match=message):
        Aligned(folder=str(tmp_path), **flags).splits()


@pytest.fixture
def tatoeba(tmp_path: Path) -> Path:
    for pair in ('afr-eng', 'eng-zsm'):
        for language in pair.split('-'):
            write_file(tmp_path / f'tatoeba.{pair}.{language}', f'{language}\n')
    return tmp_path


def test_tatoeba_pairs_are_parts(tatoeba: Path) -> None:
    reader = Tatoeba(folder=str(tatoeba))
    assert count_texts(reader)['test'] == {'afr': 1, 'eng': 2, 'zsm': 1}
    assert read_all(reader)['test'][0].id == 'tatoeba.afr-eng:0'


def test_tatoeba_pairs_are_selected_by_language(tatoeba: Path) -> None:
    reader = Tatoeba(folder=str(tatoeba), languages=('eng', 'zsm'))
    assert reader.splits() == {'test': ['tatoeba.eng-zsm']}


def test_tatoeba_pair_with_one_file_is_refused(tatoeba: Path) -> None:
    (tatoeba / 'tatoeba.afr-eng.eng').unlink()
    with pytest.raises(UserError, match='does not have both files'):
        Tatoeba(folder=str(tatoeba)).splits()


def test_tatoeba_files_of_xtreme_are_refused(tmp_path: Path) -> None:
    # XTREME sorts the English side, so these lines are no pairs.
    write_file(tmp_path / 'af-en.en', 'x\n')
    with pytest.raises(UserError, match='as in LASER'):
        Tatoeba(folder=str(tmp_path)).splits()
