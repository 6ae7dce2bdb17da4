"""Sentences and their translations in TMX, the exchange format of translation memories."""

import dataclasses
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, ClassVar
from xml.parsers import expat

from mural_jax.data.sources import tables
from mural_jax.data.sources.pairs import short_name
from mural_jax.data.sources.reader import Example, Reader
from mural_jax.types import UserError

CHUNK = 2**18  # Bytes.
# Inline elements that hold codes of a document's format, not text (TMX 1.4b, "Content Markup").
CODES = ('bpt', 'ept', 'it', 'ph', 'ut')
Unit = list[tuple[str, str]]  # (language, text) of one <tu>.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tmx(Reader):
    """Translation memories, TMX 1.4 (also 1.1), plain or gzipped, as OPUS publishes them.

    Each <tu> is an example, its <tuv> are the texts, in the language of xml:lang. Of inline markup
    the text is kept, codes in <bpt>, <ept>, <it>, <ph>, <ut> are not. A <tu> in fewer than two
    languages is left out. A file that declares entities is refused: no TMX needs them.

    files: the files, or patterns such as DIR/*.tmx.gz.
    split: the split of all examples.
    kind: what the texts are.
    """

    files: tuple[str, ...]
    split: str = 'train'
    kind: str = 'sentence'

    family: ClassVar[str] = 'translations'

    def splits(self) -> Mapping[str, Sequence[str]]:
        return {self.split: self._files()}

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        name = short_name(part, self._files())
        for number, unit in enumerate(read_units(part)):
            if len({language for language, _ in unit}) > 1:
                yield Example(
                    id=f'{name}:{number}',
                    texts=[(language, self.kind, text) for language, text in unit],
                    where=f'{part}, <tu> {number + 1}',
                )

    def _files(self) -> list[str]:
        paths = [path for pattern in self.files for path in tables.find_files(pattern, 'TMX file')]
        return list(dict.fromkeys(paths))


def read_units(path: str) -> Iterator[Unit]:
    """The units of a file, one after the other: nothing but the current chunk is held.

    Raises UserError where it is no whole XML, declares entities, or has an element or a text too
    large to be held.
    """
    try:
        with tables.open_binary(path) as file:
            yield from _UnitParser(path).units(file)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'Cannot read {path} ({error}). Is the file whole?') from error
    except (expat.ExpatError, LookupError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'{path} is not readable XML ({error}). Is the file whole?') from error


class _UnitParser:
    """Collects units from expat's events.

    The events are used instead of a tree so that entities are seen before they are expanded, in
    any encoding, and so that nothing has to be cleared. Nothing outside the file is ever opened.
    """

    def __init__(self, path: str):
        self._path = path
        self._found: list[Unit] = []
        self._unit: Unit = []
        self._language = ''
        self._text: list[str] | None = None  # None outside of <seg>.
        self._codes = 0  # How many elements deep the parser is inside of codes.
        self._size = 0
        self._expat = expat.ParserCreate()
        self._expat.buffer_text = True
        self._expat.StartDoctypeDeclHandler = self._doctype
        self._expat.EntityDeclHandler = self._entity
        self._expat.StartElementHandler = self._start
        self._expat.EndElementHandler = self._end
        self._expat.CharacterDataHandler = self._characters

    def units(self, file: IO[bytes]) -> Iterator[Unit]:
        fed = 0
        while chunk := file.read(CHUNK):
            self._expat.Parse(chunk, False)
            fed += len(chunk)
            # What expat holds back is one unfinished tag, comment or the like.
            if fed - self._expat.CurrentByteIndex > tables.MAX_FIELD:
                raise UserError(f'{self._path} has a tag of over {tables.MAX_FIELD:,} bytes.')
            yield from self._taken()
        self._expat.Parse(b'', True)
        yield from self._taken()

    def _taken(self) -> list[Unit]:
        found, self._found = self._found, []
        return found

    def _doctype(self, name: str, system: Any, public: Any, has_subset: int) -> None:
        if has_subset:
            self._entity()

    def _entity(self, *declaration: Any) -> None:
        raise UserError(
            f'{self._path} declares entities or a document type of its own. They can make a small '
            'file endless, so it is not read. Remove what stands in [ ] after <!DOCTYPE.'
        )

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if self._codes or (self._text is not None and name in CODES):
            self._codes += 1
        elif name == 'tu':
            self._unit, self._size = [], 0
        elif name == 'tuv':
            self._language = attributes.get('xml:lang') or attributes.get('lang') or ''
        elif name == 'seg':
            self._text = []

    def _characters(self, data: str) -> None:
        if self._text is None or self._codes:
            return
        self._size += len(data)
        if self._size > tables.MAX_FIELD:
            raise UserError(f'{self._path} has a <tu> of over {tables.MAX_FIELD:,} characters.')
        self._text.append(data)

    def _end(self, name: str) -> None:
        if self._codes:
            self._codes -= 1
        elif name == 'seg' and self._text is not None:
            if self._language:
                self._unit.append((self._language, ''.join(self._text)))
            self._text = None
        elif name == 'tu':
            self._found.append(self._unit)
            self._unit = []
