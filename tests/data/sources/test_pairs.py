"""Reading of translations in tables."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from conftest import REAL_DATA
from data.sources.pair_files import check_broken_files, count_texts, read_all, write_file
from pyarrow import parquet

from mural_jax.data.sources.pairs import PairTable
from mural_jax.data.sources.reader import Reader
from mural_jax.types import UserError


def test_each_column_is_a_language(tmp_path: Path) -> None:
    table = write_file(tmp_path / 'a.tsv', '\ufeffpart\ten\tde\ndev\t"Hi\tHallo\n\tBye\tTschüß\n')
    reader = PairTable(table=table, split_column='part')
    assert reader.vocabulary() == (['de', 'en'], ['sentence'])
    examples = read_all(reader)
    assert examples['dev'][0].texts == [('en', 'sentence', '"Hi'), ('de', 'sentence', 'Hallo')]
    assert [(e.id, e.texts[1][2]) for e in examples['train']] == [('a.tsv:1', 'Tschüß')]


def test_texts_flag_names_columns_kinds_and_languages(tmp_path: Path) -> None:
    table = write_file(tmp_path / 'a.csv', 'pair,src,tgt,q\nen-hau,"a, b",c,1\nfr-bam,d,e,2\n')
    texts = ('src:sentence:@pair.0', 'tgt:word:@pair.1')
    reader = PairTable(table=table, texts=texts, id=('pair',), where=('q=2',))
    (example,) = read_all(reader)['train']
    assert example.id == 'fr-bam'
    assert example.texts == [('fr', 'sentence', 'd'), ('bam', 'word', 'e')]
    assert reader.vocabulary() == (['bam', 'fr'], ['sentence', 'word'])


def test_columns_flag_names_columns_of_a_table_without_header(tmp_path: Path) -> None:
    content = gzip.compress(b'1.2\tHi\tHallo\n1.1\tBye\t\xff\n')
    table = write_file(tmp_path / 'a.tsv.gz', content)
    reader = PairTable(table=table, columns=('score', 'en', 'de'), texts=('en::en', 'de::de'))
    examples = read_all(reader)['train']
    assert [len(example.texts) for example in examples] == [2, 2]
    assert examples[1].texts[1] == ('de', 'sentence', '\udcff')


def test_columns_flag_is_refused_for_parquet(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({'en': ['a']}), tmp_path / 'a.parquet')
    with pytest.raises(UserError, match='names its columns itself'):
        read_all(PairTable(table=str(tmp_path / 'a.parquet'), columns=('en', 'de')))


def test_json_rows_have_languages_of_their_own(tmp_path: Path) -> None:
    table = write_file(tmp_path / 'a.jsonl', '{"n": 1, "en": "a", "de": ["b", "c"]}\n{"fr": "d"}\n')
    examples = read_all(PairTable(table=table))['train']
    assert [[(t[0], t[2]) for t in e.texts] for e in examples] == [
        [('en', 'a'), ('de', 'b'), ('de', 'c')],
        [('fr', 'd')],
    ]
    assert PairTable(table=table).vocabulary() == (['de', 'en', 'fr'], ['sentence'])


def test_lone_carriage_return_does_not_end_a_row(tmp_path: Path) -> None:
    table = write_file(tmp_path / 'a.tsv', 'en\tde\r\nHi\ryou\tHallo\r\nBye\tNa\r\n')
    examples = read_all(PairTable(table=table))['train']
    assert [[text for _, _, text in e.texts] for e in examples] == [
        ['Hi\ryou', 'Hallo'],
        ['Bye', 'Na'],
    ]


def test_star_takes_only_string_columns_of_parquet(tmp_path: Path) -> None:
    bad = pyarrow.array([b'ok', b'\xff\xfe']).cast(pyarrow.string(), safe=False)
    columns = {
        'n': [1, 2],
        'en': pyarrow.array(['a', 'b'], pyarrow.large_string()),
        'de': bad,
        'fr': pyarrow.array(['c', None]).dictionary_encode(),
        'pt': [['d', 'e'], []],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / 'a.parquet')
    reader = PairTable(table=str(tmp_path / 'a.parquet'))
    assert count_texts(reader)['train'] == {'en': 2, 'de': 2, 'fr': 1, 'pt': 2}
    assert read_all(reader)['train'][1].texts[1][2] == '\udcff\udcfe'


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        ({'table': 'none.tsv'}, 'no table'),
        ({'table': 'a.txt'}, 'known formats are'),
        ({'texts': ('xx::en',)}, "no column \\['xx'\\]"),
        ({'texts': ('en',)}, 'Give --language'),
        ({'split_column': 'xx'}, 'no column'),
        ({'where': ('en=none',)}, 'No row'),
        ({'id': ('en',)}, 'fewer than two columns'),
    ],
)
def test_wrong_flags_are_refused(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    write_file(tmp_path / 'a.txt', 'en\tde\nHi\tHallo\n')
    write_file(tmp_path / 'a.tsv', 'en\tde\nHi\tHallo\n')
    flags = flags | {'table': str(tmp_path / flags.get('table', 'a.tsv'))}
    with pytest.raises(UserError, match=message):
        read_all(PairTable(**flags))


def test_ids_differ_between_files_of_one_name(tmp_path: Path) -> None:
    for folder in 'ab':
        write_file(tmp_path / folder / 'x.tsv', 'en\tde\nHi\tHallo\n')
    examples = read_all(PairTable(table=f'{tmp_path}/*/x.tsv'))['train']
    assert [example.id for example in examples] == ['a/x.tsv:0', 'b/x.tsv:0']


def encode_parquet() -> bytes:
    sink = pyarrow.BufferOutputStream()
    columns = {'en': [f'Good {i}' for i in range(50)], 'de': ['gut', None] * 25}
    parquet.write_table(pyarrow.table(columns), sink)
    return sink.getvalue().to_pybytes()


TSV = b'en\tde\ts\nHi\tHallo\ta\nBye\tTsch\xc3\xbc\xc3\x9f\tb\n'
CSV = b'en,de,s\n"Hi, ""you""",Hallo,a\nBye,"Tsch\n",b\n'
JSON = b'{"en": "Hi", "de": ["Hallo", "Na"], "s": 1}\n{"en": "Bye", "de": null}\n'


@pytest.mark.parametrize(
    ('name', 'data', 'reader'),
    [
        ('a.tsv', TSV, lambda path: PairTable(table=path, split_column='s')),
        ('a.tsv.gz', gzip.compress(TSV * 50, mtime=0), lambda path: PairTable(table=path)),
        ('a.csv', CSV, lambda path: PairTable(table=path)),
        ('a.jsonl', JSON, lambda path: PairTable(table=path)),
        ('a.parquet', encode_parquet(), lambda path: PairTable(table=path)),
    ],
    ids=['tsv', 'gzipped', 'csv', 'jsonl', 'parquet'],
)
def test_broken_files_raise_user_error(
    tmp_path: Path, name: str, data: bytes, reader: Callable[[str], Reader]
) -> None:
    check_broken_files(tmp_path / name, data, reader)


@pytest.fixture
def real() -> Path:
    folder = REAL_DATA / 'translation'
    if not folder.is_dir():
        pytest.skip(f'{folder} is missing: MURAL_TEST_DATA names the folder of real data')
    return folder


def test_real_nllb_seed(real: Path) -> None:
    counts = count_texts(PairTable(table=f'{real}/nllb_seed.parquet'))['train']
    assert len(counts) == 41
    fewer = {'mni_Beng': 6193 - 660, 'kas_Deva': 6193 - 340}
    assert counts == {language: fewer.get(language, 6193) for language in counts}


def test_real_flores(real: Path) -> None:
    counts = count_texts(PairTable(table=f'{real}/flores200_dev.parquet', split='dev'))['dev']
    assert len(counts) == 205
    assert set(counts.values()) == {997}


def test_real_multi30k(real: Path) -> None:
    reader = PairTable(table=f'{real}/multi30k_text.parquet', split_column='split', id=('image',))
    counts = count_texts(reader)
    assert set(counts) == {'train', 'val'}
    total = counts['train'] + counts['val']
    assert total == dict.fromkeys(['en', 'de', 'fr', 'cs', 'pt'], 29115) | {'brx': 29115 - 320}


def test_real_mafand(real: Path) -> None:
    texts = ('source:sentence:@pair.0', 'target:sentence:@pair.1')
    table = f'{real}/mafand_african_news.parquet'
    counts = count_texts(PairTable(table=table, texts=texts, split_column='split'))
    total = counts['train'] + counts['dev']
    languages = 'bam en fon fr hau ibo pcm swa tsn yor zul'
    assert ' '.join(sorted(total)) == languages
    assert total['en'] + total['fr'] == 77422 == sum(total.values()) / 2
    assert total['fr'] == total['bam'] + total['fon']


def test_real_tatoeba(real: Path) -> None:
    texts = ('text:sentence:@lang', 'en:sentence:en')
    reader = PairTable(table=f'{real}/tatoeba_xtreme36.parquet', texts=texts, split='test')
    counts = count_texts(reader)['test']
    assert counts.pop('en') == 31692 == sum(counts.values())
    assert len(counts) == 36
    assert (min(counts.values()), max(counts.values())) == (205, 1000)


def test_real_display_names(real: Path) -> None:
    texts = ('name:@kind:@locale', 'en:@kind:en')
    reader = PairTable(table=f'{real}/cldr_names.parquet', texts=texts, id=('kind', 'code'))
    assert len(read_all(reader)['train']) == 156068
    languages, kinds = reader.vocabulary()
    assert kinds == ['language', 'script', 'territory']
    assert len(languages) == len(set(languages) | {'en'}) == 306
