"""Reading of translation memories."""

import gzip
from pathlib import Path

import pytest
from data.sources.pair_files import check_broken_files, read_all, write_file

from mural_jax.data.sources import tables
from mural_jax.data.sources.reader import Reader
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


def read_one_file(path: str) -> Reader:
    return Tmx(files=(path,))


@pytest.mark.parametrize('encoding', ['utf-8', 'utf-16', 'iso-8859-1'])
def test_units_are_read_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    content = TMX.format(encoding=encoding).encode(encoding)
    write_file(tmp_path / 'a.tmx.gz', gzip.compress(content))
    reader = Tmx(files=(f'{tmp_path}/*.tmx.gz',))
    first, second = read_all(reader)['train']
    # The unit in a single language is left out.
    assert [first.id, second.id] == ['a.tmx.gz:0', 'a.tmx.gz:2']
    # Codes are gone, inline text stays.
    assert first.texts == [('en', 'sentence', 'A red\n dog & co'), ('de', 'sentence', 'Ein Hund')]
    assert second.texts[0] == ('fr', 'sentence', 'Été')
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
def test_declared_entities_are_refused(tmp_path: Path, subset: str, encoding: str) -> None:
    bomb = TMX.format(encoding=encoding).replace('"tmx14.dtd"', f'"tmx14.dtd" [{subset}]')
    path = write_file(tmp_path / 'a.tmx', bomb.replace('Ein Hund', '&a;').encode(encoding))
    with pytest.raises(UserError, match='declares entities'):
        read_all(read_one_file(path))


@pytest.mark.parametrize('start', [b'<tmx a="', b'<tmx><!--', b'<tmx><tu><tuv><seg>'])
def test_endless_token_is_refused(
    tmp_path: Path, start: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, 'MAX_FIELD', 2**20)
    path = write_file(tmp_path / 'a.tmx', start + b'x' * 2**21)
    with pytest.raises(UserError, match='of over 1,048,576'):
        read_all(read_one_file(path))


@pytest.mark.parametrize(
    'content', ['', 'no xml', '<tmx><tu>', '<?xml version="1.0" encoding="?"?>']
)
def test_incomplete_file_raises_user_error(tmp_path: Path, content: str) -> None:
    path = write_file(tmp_path / 'a.tmx', content)
    with pytest.raises(UserError, match='Is the file complete'):
        read_all(read_one_file(path))


@pytest.mark.parametrize(
    ('name', 'data'),
    [
        ('a.tmx', TMX.format(encoding='utf-8').encode()),
        ('a.tmx.gz', gzip.compress(TMX.encode(), mtime=0)),
    ],
    ids=['plain', 'gzipped'],
)
def test_broken_files_raise_user_error(tmp_path: Path, name: str, data: bytes) -> None:
    check_broken_files(tmp_path / name, data, read_one_file)
