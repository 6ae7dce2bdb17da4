"""Translation pairs: samples of each layout, wrong input, damaged files, real files."""

import collections
import gzip
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from conftest import REAL_DATA as SHARED
from data.fuzz import FUZZ_ROUNDS, mutated
from pyarrow import parquet

from mural_jax.data.sources import tables
from mural_jax.data.sources.aligned import Aligned, Moses, Tatoeba
from mural_jax.data.sources.pairs import PairTable
from mural_jax.data.sources.reader import Example, Reader
from mural_jax.data.sources.tmx import Tmx
from mural_jax.types import UserError

TMX = """<?xml version="1.0" encoding="{encoding}"?>
<!DOCTYPE tmx SYSTEM "tmx14.dtd">
<tmx version="1.4"><header srclang="en"/><body>
<tu tuid="1"><note>no text</note>
  <tuv xml:lang="en"><prop>no</prop><seg>A <bpt i="1">&lt;b <sub>no</sub>&gt;</bpt>red<ept i="1"/>
 <hi>dog</hi> &amp; co</seg></tuv>
  <tuv lang="de"><seg>Ein Hund</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>alone</seg></tuv><tuv xml:lang="en"><seg>twice</seg></tuv></tu>
<tu><tuv xml:lang="fr"><seg>Été</seg></tuv><tuv xml:lang="en"><seg>Summer</seg></tuv></tu>
</body></tmx>
"""


def examples(reader: Reader) -> dict[str, list[Example]]:
    return {
        split: [example for part in parts for example in reader.read_examples(split, part)]
        for split, parts in reader.splits().items()
    }


def written(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def counts(reader: Reader) -> dict[str, collections.Counter[str]]:
    """Texts of each language, split by split; the vocabulary must be what is there."""
    found = {
        split: collections.Counter(text[0] for example in read for text in example.texts)
        for split, read in examples(reader).items()
    }
    assert reader.vocabulary()[0] == sorted(set().union(*found.values()))
    return found


def test_a_column_a_language(tmp_path: Path) -> None:
    table = written(tmp_path / 'a.tsv', '\ufeffpart\ten\tde\ndev\t"Hi\tHallo\n\tBye\tTschüß\n')
    reader = PairTable(table=table, split_column='part')
    assert reader.vocabulary() == (['de', 'en'], ['sentence'])
    found = examples(reader)
    assert found['dev'][0].texts == [('en', 'sentence', '"Hi'), ('de', 'sentence', 'Hallo')]
    assert [(e.id, e.texts[1][2]) for e in found['train']] == [('a.tsv:1', 'Tschüß')]


def test_named_columns(tmp_path: Path) -> None:
    table = written(tmp_path / 'a.csv', 'pair,src,tgt,q\nen-hau,"a, b",c,1\nfr-bam,d,e,2\n')
    texts = ('src:sentence:@pair.0', 'tgt:word:@pair.1')
    reader = PairTable(table=table, texts=texts, id=('pair',), where=('q=2',))
    (example,) = examples(reader)['train']
    assert example.id == 'fr-bam'
    assert example.texts == [('fr', 'sentence', 'd'), ('bam', 'word', 'e')]
    assert reader.vocabulary() == (['bam', 'fr'], ['sentence', 'word'])


def test_a_table_without_header(tmp_path: Path) -> None:
    content = gzip.compress(b'1.2\tHi\tHallo\n1.1\tBye\t\xff\n')
    table = written(tmp_path / 'a.tsv.gz', content)
    reader = PairTable(table=table, columns=('score', 'en', 'de'), texts=('en::en', 'de::de'))
    found = examples(reader)['train']
    assert [len(example.texts) for example in found] == [2, 2]
    assert found[1].texts[1] == ('de', 'sentence', '\udcff')
    parquet.write_table(pyarrow.table({'en': ['a']}), tmp_path / 'a.parquet')
    with pytest.raises(UserError, match='names its columns itself'):
        examples(PairTable(table=str(tmp_path / 'a.parquet'), columns=('en', 'de')))


def test_json_rows_have_their_own_languages(tmp_path: Path) -> None:
    table = written(tmp_path / 'a.jsonl', '{"n": 1, "en": "a", "de": ["b", "c"]}\n{"fr": "d"}\n')
    found = examples(PairTable(table=table))['train']
    assert [[(t[0], t[2]) for t in e.texts] for e in found] == [
        [('en', 'a'), ('de', 'b'), ('de', 'c')],
        [('fr', 'd')],
    ]
    assert PairTable(table=table).vocabulary() == (['de', 'en', 'fr'], ['sentence'])


def test_a_lone_return_ends_no_row(tmp_path: Path) -> None:
    table = written(tmp_path / 'a.tsv', 'en\tde\r\nHi\ryou\tHallo\r\nBye\tNa\r\n')
    found = examples(PairTable(table=table))['train']
    assert [[text for _, _, text in e.texts] for e in found] == [
        ['Hi\ryou', 'Hallo'],
        ['Bye', 'Na'],
    ]


def test_parquet_columns_of_strings_only(tmp_path: Path) -> None:
    bad = pyarrow.array([b'ok', b'\xff\xfe']).cast(pyarrow.string(), safe=False)
    table = pyarrow.table(
        {
            'n': [1, 2],
            'en': pyarrow.array(['a', 'b'], pyarrow.large_string()),
            'de': bad,
            'fr': pyarrow.array(['c', None]).dictionary_encode(),
            'pt': [['d', 'e'], []],
        }
    )
    parquet.write_table(table, tmp_path / 'a.parquet')
    reader = PairTable(table=str(tmp_path / 'a.parquet'))
    assert counts(reader)['train'] == {'en': 2, 'de': 2, 'fr': 1, 'pt': 2}
    assert examples(reader)['train'][1].texts[1][2] == '\udcff\udcfe'


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
def test_wrong_flags_of_a_table(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    written(tmp_path / 'a.txt', 'en\tde\nHi\tHallo\n')
    written(tmp_path / 'a.tsv', 'en\tde\nHi\tHallo\n')
    flags = flags | {'table': str(tmp_path / flags.get('table', 'a.tsv'))}
    with pytest.raises(UserError, match=message):
        examples(PairTable(**flags))


def test_ids_differ_between_files_of_one_name(tmp_path: Path) -> None:
    for folder in 'ab':
        written(tmp_path / folder / 'x.tsv', 'en\tde\nHi\tHallo\n')
    found = examples(PairTable(table=f'{tmp_path}/*/x.tsv'))['train']
    assert [example.id for example in found] == ['a/x.tsv:0', 'b/x.tsv:0']


def test_moses(tmp_path: Path) -> None:
    # Breaks other than \n are part of a line.
    written(tmp_path / 'c.en-de.en', 'one\u2028still\rone\r\n\ntwo')
    written(tmp_path / 'c.en-de.de.gz', gzip.compress(b'eins\n\xff\nzwei\n'))
    reader = Moses(files=(f'{tmp_path}/c.en-de.*',), split='dev')
    assert reader.vocabulary() == (['de', 'en'], ['sentence'])
    found = examples(reader)['dev']
    assert [[text for _, _, text in example.texts] for example in found] == [
        ['eins', 'one\u2028still\rone'],
        ['\udcff', ''],
        ['zwei', 'two'],
    ]
    assert found[2].id == 'c.en-de:2'


def test_moses_with_many_corpora_and_given_languages(tmp_path: Path) -> None:
    for name in ('a.en', 'a.de', 'b.en', 'b.fr'):
        written(tmp_path / name, f'{name}\n')
    reader = Moses(files=(f'{tmp_path}/*.*',))
    assert list(reader.splits()['train']) == ['a', 'b']
    assert [len(e.texts) for e in examples(reader)['train']] == [2, 2]
    assert list(Moses(files=reader.files, languages=('de', 'en')).splits()['train']) == ['a']
    given = Moses(files=(f'sw={tmp_path}/a.en', f'pt_BR={tmp_path}/b.fr'))
    assert given.vocabulary()[0] == ['pt_BR', 'sw']


def test_moses_lines_must_be_aligned(tmp_path: Path) -> None:
    written(tmp_path / 'a.en', '1\n2\n3\n4\n')
    written(tmp_path / 'a.de', '1\n2\n')
    with pytest.raises(UserError, match='a.de has 2 lines, .*a.en has 4'):
        examples(Moses(files=(f'{tmp_path}/a.*',)))


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
def test_wrong_flags_of_moses(tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    for name in ('a.en', 'a.de', 'plain'):
        written(tmp_path / name, 'x\n')
    flags = flags | {'files': tuple(f'{tmp_path}/{file}' for file in flags['files'])}
    with pytest.raises(UserError, match=message):
        Moses(**flags).vocabulary()


def test_a_broken_archive_of_lines(tmp_path: Path) -> None:
    written(tmp_path / 'a.en.gz', gzip.compress(b'x\n' * 9999)[:-20])
    written(tmp_path / 'a.de', 'x\n' * 9999)
    with pytest.raises(UserError, match='Cannot read'):
        examples(Moses(files=(f'{tmp_path}/a.*',)))


def test_flores_and_ntrex(tmp_path: Path) -> None:
    for language in ('eng_Latn', 'deu_Latn', 'sat_Olck'):
        written(tmp_path / 'devtest' / f'{language}.devtest', f'{language} 1\n{language} 2\n')
    reader = Aligned(folder=f'{tmp_path}/devtest', pattern='*.devtest', split='test')
    assert counts(reader)['test'] == {'eng_Latn': 2, 'deu_Latn': 2, 'sat_Olck': 2}
    some = Aligned(
        folder=f'{tmp_path}/devtest', pattern='*.devtest', languages=('deu_Latn', 'eng_Latn')
    )
    assert counts(some)['dev'] == {'eng_Latn': 2, 'deu_Latn': 2}
    for name in ('src.eng', 'ref.eng-GB', 'ref.spa', 'ref-2.spa', 'ref.aze-Latn'):
        written(tmp_path / 'n' / f'newstest2019-{name}.txt', 'x\n')
    reader = Aligned(folder=f'{tmp_path}/n', layout='ntrex')
    assert counts(reader)['test'] == {'eng': 1, 'eng-GB': 1, 'spa': 2, 'aze-Latn': 1}


def test_wrong_flags_of_aligned(tmp_path: Path) -> None:
    written(tmp_path / 'eng_Latn.dev', 'x\n')
    for flags, message in [
        ({}, 'nothing to pair'),
        ({'layout': 'x'}, 'unknown'),
        ({'layout': 'ntrex'}, 'no aligned file'),
        ({'layout': 'ntrex', 'pattern': '*'}, 'does not fit the layout ntrex'),
    ]:
        with pytest.raises(UserError, match=message):
            Aligned(folder=str(tmp_path), **flags).splits()


def test_tatoeba(tmp_path: Path) -> None:
    for pair, lang in [('afr-eng', 'afr'), ('afr-eng', 'eng'), ('eng-zsm', 'eng'), ('eng-zsm', 'zsm')]:  # fmt: skip  # noqa: E501
        written(tmp_path / f'tatoeba.{pair}.{lang}', f'{lang}\n')
    reader = Tatoeba(folder=str(tmp_path))
    assert counts(reader)['test'] == {'afr': 1, 'eng': 2, 'zsm': 1}
    assert examples(reader)['test'][0].id == 'tatoeba.afr-eng:0'
    one = Tatoeba(folder=str(tmp_path), languages=('eng', 'zsm'))
    assert one.splits() == {'test': ['tatoeba.eng-zsm']}
    (tmp_path / 'tatoeba.afr-eng.eng').unlink()
    with pytest.raises(UserError, match='does not have both files'):
        reader.splits()
    # What XTREME makes of them is sorted on one side, and must not be taken for pairs.
    written(tmp_path / 'x' / 'af-en.en', 'x\n')
    with pytest.raises(UserError, match='as in LASER'):
        Tatoeba(folder=f'{tmp_path}/x').splits()


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'iso-8859-1'])
def test_tmx(tmp_path: Path, encoding: str) -> None:
    content = TMX.format(encoding=encoding).encode(encoding)
    written(tmp_path / 'a.tmx.gz', gzip.compress(content))
    reader = Tmx(files=(f'{tmp_path}/*.tmx.gz',))
    found = examples(reader)['train']
    assert [example.id for example in found] == ['a.tmx.gz:0', 'a.tmx.gz:2']
    assert found[0].texts == [
        ('en', 'sentence', 'A red\n dog & co'),
        ('de', 'sentence', 'Ein Hund'),
    ]
    assert found[1].texts[0] == ('fr', 'sentence', 'Été')
    assert reader.vocabulary() == (['de', 'en', 'fr'], ['sentence'])


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16'])
@pytest.mark.parametrize(
    'subset',
    [
        '<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;">',
        '<!ENTITY a SYSTEM "file:///etc/passwd">',
        '<!ENTITY % a SYSTEM "http://example.org/x"> %a;',
        '<!ELEMENT tmx ANY>',
    ],
)
def test_tmx_with_entities_is_refused(tmp_path: Path, subset: str, encoding: str) -> None:
    bomb = TMX.format(encoding=encoding).replace('"tmx14.dtd"', f'"tmx14.dtd" [{subset}]')
    path = written(tmp_path / 'a.tmx', bomb.replace('Ein Hund', '&a;').encode(encoding))
    with pytest.raises(UserError, match='declares entities'):
        examples(Tmx(files=(path,)))


@pytest.mark.parametrize('start', [b'<tmx a="', b'<tmx><!--', b'<tmx><tu><tuv><seg>'])
def test_tmx_with_an_endless_token(tmp_path: Path, start: bytes, monkeypatch: Any) -> None:
    monkeypatch.setattr(tables, 'MAX_FIELD', 2**20)
    path = written(tmp_path / 'a.tmx', start + b'x' * 2**21)
    with pytest.raises(UserError, match='of over 1,048,576'):
        examples(Tmx(files=(path,)))


@pytest.mark.parametrize('content', ['', 'no xml', '<tmx><tu>', '<?xml version="1.0" encoding="?"?>'])  # fmt: skip  # noqa: E501
def test_tmx_that_is_not_whole(tmp_path: Path, content: str) -> None:
    path = written(tmp_path / 'a.tmx', content)
    with pytest.raises(UserError, match='Is the file complete'):
        examples(Tmx(files=(path,)))


def test_a_line_without_end(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(tables, 'MAX_FIELD', 1000)
    written(tmp_path / 'a.en', 'x' * 2000)
    written(tmp_path / 'a.de', 'x' * 2000)
    with pytest.raises(UserError, match='line of 1,000'):
        examples(Moses(files=(f'{tmp_path}/a.*',)))


def _parquet() -> bytes:
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
        ('a.tsv.gz', gzip.compress(TSV * 50), lambda path: PairTable(table=path)),
        ('a.csv', CSV, lambda path: PairTable(table=path)),
        ('a.jsonl', JSON, lambda path: PairTable(table=path)),
        ('a.parquet', _parquet(), lambda path: PairTable(table=path)),
        ('a.tmx', TMX.format(encoding='utf-8').encode(), lambda path: Tmx(files=(path,))),
        ('a.tmx.gz', gzip.compress(TMX.encode()), lambda path: Tmx(files=(path,))),
        ('a.en', b'Hi\nBye\n', lambda path: Moses(files=(path, f'de={path}'))),
        ('a.en.gz', gzip.compress(b'Hi\nBye\n'), lambda path: Moses(files=(path, f'de={path}'))),
    ],
    ids=lambda value: value if isinstance(value, str) else '',  # Compressed bytes hold the time.
)
def test_damaged_files(
    tmp_path: Path, name: str, data: bytes, reader: Callable[[str], Reader]
) -> None:
    rng = random.Random(name)
    for _ in range(FUZZ_ROUNDS):
        damaged = mutated(data, rng)
        path = written(tmp_path / name, damaged)
        try:
            reader(path).vocabulary()
            for read in examples(reader(path)).values():
                assert all(isinstance(t, str) for e in read for text in e.texts for t in text)
        except UserError:
            pass
        except Exception as error:
            raise AssertionError(f'{damaged!r}') from error


@pytest.fixture
def real() -> Path:
    folder = SHARED / 'translation'
    if not folder.is_dir():
        pytest.skip(f'{folder} is missing: MURAL_TEST_DATA names the folder of real data')
    return folder


def test_real_nllb_seed(real: Path) -> None:
    found = counts(PairTable(table=f'{real}/nllb_seed.parquet'))['train']
    assert len(found) == 41
    fewer = {'mni_Beng': 6193 - 660, 'kas_Deva': 6193 - 340}
    assert found == {language: fewer.get(language, 6193) for language in found}


def test_real_flores(real: Path) -> None:
    found = counts(PairTable(table=f'{real}/flores200_dev.parquet', split='dev'))['dev']
    assert len(found) == 205
    assert set(found.values()) == {997}


def test_real_multi30k(real: Path) -> None:
    reader = PairTable(table=f'{real}/multi30k_text.parquet', split_column='split', id=('image',))
    found = counts(reader)
    assert set(found) == {'train', 'val'}
    total = found['train'] + found['val']
    assert total == dict.fromkeys(['en', 'de', 'fr', 'cs', 'pt'], 29115) | {'brx': 29115 - 320}


def test_real_mafand(real: Path) -> None:
    texts = ('source:sentence:@pair.0', 'target:sentence:@pair.1')
    reader = PairTable(
        table=f'{real}/mafand_african_news.parquet', texts=texts, split_column='split'
    )
    found = counts(reader)
    total = found['train'] + found['dev']
    languages = 'bam en fon fr hau ibo pcm swa tsn yor zul'
    assert ' '.join(sorted(total)) == languages
    assert total['en'] + total['fr'] == 77422 == sum(total.values()) / 2
    assert total['fr'] == total['bam'] + total['fon']


def test_real_tatoeba(real: Path) -> None:
    texts = ('text:sentence:@lang', 'en:sentence:en')
    reader = PairTable(table=f'{real}/tatoeba_xtreme36.parquet', texts=texts, split='test')
    found = counts(reader)['test']
    assert found.pop('en') == 31692 == sum(found.values())
    assert len(found) == 36
    assert (min(found.values()), max(found.values())) == (205, 1000)


def test_real_names(real: Path) -> None:
    texts = ('name:@kind:@locale', 'en:@kind:en')
    reader = PairTable(table=f'{real}/cldr_names.parquet', texts=texts, id=('kind', 'code'))
    read = examples(reader)['train']
    assert len(read) == 156068
    languages, kinds = reader.vocabulary()
    assert kinds == ['language', 'script', 'territory']
    assert len(languages) == len(set(languages) | {'en'}) == 306
