"""Sentences and their translations in TMX, the exchange format of translation memories."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, ClassVar
from xml.parsers import expat

from mural_jax.data.sources import tables
from mural_jax.data.sources.pairs import short_name
from mural_jax.data.sources.reader import Example, Reader
from mural_jax.types import UserError

CHUNK = 2**18  # Bytes that are parsed at a time.
# Inline elements that hold formatting codes, not text (TMX 1.4b, "Content Markup").
CODES = ('bpt', 'ept', 'it', 'ph', 'ut')
Unit = list[tuple[str, str]]  # (language, text) of one <tu>.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tmx(Reader):
    """Translation memories in TMX 1.4 or 1.1, plain or gzipped, as OPUS publishes them.

    Each <tu> becomes an example; its <tuv> elements are the texts, in the language of xml:lang.
    Text inside of inline markup stays, but the codes in <bpt>, <ept>, <it>, <ph> and <ut> are
    removed. A <tu> in fewer than two languages is left out. A file that declares entities is
    refused: no TMX file needs them.

    files: Files, or patterns such as DIR/*.tmx.gz.
    split: Split of all examples.
    kind: Kind of the texts.
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
    """Yields the units of a file; only one chunk of the file is held in memory.

    Raises:
      UserError: The file is unreadable or incomplete, declares entities, or has a tag or a text
        that is too large.
    """
    try:
        with tables.explain_read_errors(path), tables.open_binary(path) as file:
            yield from _UnitParser(path).read_units(file)
    except UserError:
        raise
    # expat raises LookupError and ValueError for encodings that it does not know.
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise UserError(f'{path} is not readable XML ({error}). Is the file complete?') from error


class _UnitParser:
    """Collects units from the events of expat.

    Events, not a tree: so entities are seen before they are expanded, in any encoding, and memory
    does not grow with the file. The parser never opens anything outside the file.
    """

    def __init__(self, path: str):
        self._path = path
        self._units: list[Unit] = []
        self._unit: Unit = []
        self._language = ''
        self._text: list[str] | None = None  # None outside of <seg>.
        self._code_depth = 0  # Number of open elements inside of codes, the outermost included.
        self._size = 0  # Characters of the current unit.
        self._expat = expat.ParserCreate()
        # One event for a whole run of characters.
        self._expat.buffer_text = True
        self._expat.StartDoctypeDeclHandler = self._on_doctype
        self._expat.EntityDeclHandler = self._on_entity
        self._expat.StartElementHandler = self._on_start
        self._expat.EndElementHandler = self._on_end
        self._expat.CharacterDataHandler = self._on_characters

    def read_units(self, file: IO[bytes]) -> Iterator[Unit]:
        bytes_fed = 0
        while chunk := file.read(CHUNK):
            self._expat.Parse(chunk, False)
            bytes_fed += len(chunk)
            # expat holds back what it cannot finish, such as a tag or a comment.
            if bytes_fed - self._expat.CurrentByteIndex > tables.MAX_FIELD:
                raise UserError(f'{self._path} has a tag of over {tables.MAX_FIELD:,} bytes.')
            yield from self._take_units()
        self._expat.Parse(b'', True)
        yield from self._take_units()

    def _take_units(self) -> list[Unit]:
        units, self._units = self._units, []
        return units

    def _on_doctype(self, name: str, system: Any, public: Any, has_subset: int) -> None:
        # An internal subset may declare entities; a mere reference to a DTD is harmless.
        if has_subset:
            self._on_entity()

    def _on_entity(self, *declaration: Any) -> None:
        raise UserError(
            f'{self._path} declares entities or a document type of its own. Entities can make a '
            'small file endless, so the file is not read. Remove the part in [ ] after <!DOCTYPE.'
        )

    def _on_start(self, name: str, attributes: dict[str, str]) -> None:
        if self._code_depth or (self._text is not None and name in CODES):
            self._code_depth += 1
        elif name == 'tu':
            self._unit, self._size = [], 0
        elif name == 'tuv':
            self._language = attributes.get('xml:lang') or attributes.get('lang') or ''
        elif name == 'seg':
            self._text = []

    def _on_characters(self, data: str) -> None:
        if self._text is None or self._code_depth:
            return
        self._size += len(data)
        if self._size > tables.MAX_FIELD:
            raise UserError(f'{self._path} has a <tu> of over {tables.MAX_FIELD:,} characters.')
        self._text.append(data)

    def _on_end(self, name: str) -> None:
        if self._code_depth:
            self._code_depth -= 1
        elif name == 'seg' and self._text is not None:
            if self._language:
                self._unit.append((self._language, ''.join(self._text)))
            self._text = None
        elif name == 'tu':
            self._units.append(self._unit)
            self._unit = []
