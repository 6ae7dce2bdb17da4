"""The interface of all readers: examples by split, in parts that can be read in parallel.

A reader is a dataclass, and its fields are the flags of `mural data ingest FORMAT`. The first line
of its docstring is the help text of the format; each line `field: ...` is that of a flag.
A reader raises UserError when its input as a whole is unusable. It reports a single unusable
record by `Example.bad`, so that one bad record does not stop the others.
"""

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import ClassVar

from numpy.typing import ArrayLike

from mural_jax.types import UserError

Text = tuple[str, str, str]  # (language, kind, text)


@dataclasses.dataclass
class ImageRegions:
    """R parts of one image.

    boxes: [R, 4], the left, top, right and bottom edges as shares of the image, in [0, 1].
    classes: [R], class numbers.
    features: [R, F], where F is the same for all examples of a data set.
    """

    boxes: ArrayLike = ()
    classes: ArrayLike = ()
    features: ArrayLike = ()


@dataclasses.dataclass
class Example:
    """One example as a reader found it, neither checked nor cleaned yet.

    id: Names the image or the row. Examples that share an id are never each other's negatives.
    texts: Texts of any languages and kinds. Undecodable bytes are surrogate escapes (PEP 383).
    image: The encoded file, empty if the example has no image.
    label: A class number, or -1.
    score: A rating, or NaN.
    regions: Parts of the image.
    where: File and row of the example, for error messages.
    bad: Why the example is unusable, or the empty string.
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
    """A reader whose examples come whole, image and texts together.

    languages: Languages to ingest; without the flag all languages, which a first pass over the
        data finds.
    """

    languages: tuple[str, ...] = ()

    # First part of the data set's name: 'captions' or 'translations'.
    family: ClassVar[str] = 'captions'
    # The kinds of texts that a stream draws if its config names none; empty for all kinds.
    default_kinds: ClassVar[tuple[str, ...]] = ()

    def splits(self) -> Mapping[str, Sequence[str]]:
        """The parts (files, members, ...) of each split; no split is empty."""
        raise NotImplementedError

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        """Yields the examples of a split that one part holds."""
        raise NotImplementedError

    def read_texts(self, split: str, part: str) -> Iterator[Text]:
        """Yields the texts of a part in any order; readers that can do so read no images."""
        for example in self.read_examples(split, part):
            yield from example.texts

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """(languages, kinds) of the texts of all splits, both sorted.

        Languages outside the field `languages` are left out.

        Raises:
          UserError: There is no text at all.
        """
        languages, kinds = set(self.languages), set()
        for split, parts in self.splits().items():
            for part in parts:
                for language, kind, _ in self.read_texts(split, part):
                    languages.add(language)
                    kinds.add(kind)
        wanted = set(self.languages) or languages
        if not kinds:
            raise UserError('These files hold no text. Check their paths and columns.')
        return sorted(languages & wanted), sorted(kinds)


@dataclasses.dataclass(frozen=True, kw_only=True)
class JoinedReader(Reader):
    """A reader whose texts and images are in different files, joined by a key.

    The key is, for example, the image's file name.
    """

    def read_rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        """Yields (key, example without image); all rows of one key become one example."""
        raise NotImplementedError

    def image_parts(self) -> Sequence[str]:
        """The archives or folders with the images of all splits."""
        raise NotImplementedError

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        """Yields (key, encoded image) of a part.

        Args:
          wanted: The keys that are needed; other images may be skipped. None for all images.
        """
        raise NotImplementedError

    def merge(self, rows: Sequence[Example]) -> Example:
        """The one example that the rows of one key become."""
        return merge_rows(rows)

    def read_texts(self, split: str, part: str) -> Iterator[Text]:
        for _, example in self.read_rows(split, part):
            yield from example.texts


def merge_rows(rows: Sequence[Example]) -> Example:
    """One example with the texts of all rows, each text once; the rest is that of the first row."""
    # A dict keeps the order of the texts, which a set would lose.
    texts = list(dict.fromkeys(text for row in rows for text in row.texts))
    return dataclasses.replace(rows[0], texts=texts)
