"""What every reader gives: examples, split by split, in parts that can be read side by side.

A reader is a dataclass whose fields are the flags of `mural data ingest FORMAT`; the first line
of its docstring and the lines `field: ...` are their help. It says what is wrong with its input
by UserError, and with a single record by `Example.bad`, so that one bad record stops nothing.
"""

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import ClassVar

from numpy.typing import ArrayLike

from mural_jax.types import UserError

Text = tuple[str, str, str]  # (language, kind, text)


@dataclasses.dataclass
class ImageRegions:
    """Parts of a picture, R of them.

    boxes: [R][4], left, top, right, bottom in shares of the picture, in [0, 1].
    classes: [R], class numbers. features: [R][F], F alike for all examples.
    """

    boxes: ArrayLike = ()
    classes: ArrayLike = ()
    features: ArrayLike = ()


@dataclasses.dataclass
class Example:
    """One example as a reader found it, not yet checked or cleaned.

    id: of the picture or the row; examples that share it are never each other's negatives.
    texts: of any languages and kinds; undecodable bytes are surrogate escapes (PEP 383).
    image: the encoded file, empty where there is none. label: a class number, or -1.
    score: a rating, or NaN. where: file and row, for people. bad: a reason, or empty.
    """

    id: str
    texts: list[Text]
    image: bytes = b''
    label: int = -1
    score: float = float('nan')
    regions: ImageRegions = dataclasses.field(default_factory=ImageRegions)
    where: str = ''
    bad: str = ''


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """Examples that come whole, picture and texts together.

    languages: the languages to take; empty takes all, which are then found by a first pass.
    """

    languages: tuple[str, ...] = ()

    family: ClassVar[str] = 'captions'  # or 'translations': what the data set is named by
    # The kinds that a stream draws where its config names none; empty: all of them.
    default_kinds: ClassVar[tuple[str, ...]] = ()

    def splits(self) -> Mapping[str, Sequence[str]]:
        """The parts (files, members, ...) that each split is read from, all non-empty."""
        raise NotImplementedError

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        """What one part adds to a split."""
        raise NotImplementedError

    def read_texts(self, split: str, part: str) -> Iterator[Text]:
        """The texts of a part, in any order, without reading pictures where that can be."""
        for example in self.read_examples(split, part):
            yield from example.texts

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """(languages, kinds), sorted: all that the texts of all splits have."""
        languages, kinds = set(self.languages), set()
        for split, parts in self.splits().items():
            for part in parts:
                for language, kind, _ in self.read_texts(split, part):
                    languages.add(language)
                    kinds.add(kind)
        wanted = set(self.languages) or languages
        if not kinds:
            raise UserError('There is not one text in these files. Check their paths and columns.')
        return sorted(languages & wanted), sorted(kinds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinedReader(Reader):
    """Texts in one place, pictures in another, joined by a key such as the file's name."""

    def read_rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        """(key, example without picture); rows of one key become one example."""
        raise NotImplementedError

    def image_parts(self) -> Sequence[str]:
        """The archives or folders with the pictures of all splits."""
        raise NotImplementedError

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        """(key, encoded picture); only those in `wanted` need be given, None for all."""
        raise NotImplementedError

    def merge(self, rows: Sequence[Example]) -> Example:
        """The one example of the rows of one key."""
        return merge_rows(rows)

    def read_texts(self, split: str, part: str) -> Iterator[Text]:
        for _, example in self.read_rows(split, part):
            yield from example.texts


def merge_rows(rows: Sequence[Example]) -> Example:
    """One example of the rows of one picture: all texts, each once, the rest of the first row."""
    texts = list(dict.fromkeys(text for row in rows for text in row.texts))
    return dataclasses.replace(rows[0], texts=texts)
