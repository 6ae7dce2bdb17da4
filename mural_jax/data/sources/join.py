"""Reads all examples of a split in this process; `beam` gives the same examples in parallel."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from mural_jax.data.sources.reader import Example, JoinedReader, Reader

NO_IMAGE = 'no image'


def read_split(reader: Reader, split: str) -> Iterator[Example]:
    """Yields the examples of a split.

    For a JoinedReader all texts of the split are held in memory, but only one image at a time.
    An example without an image is bad; an image without texts is left out.
    """
    if isinstance(reader, JoinedReader) and reader.image_parts():
        yield from _join_rows_and_images(reader, split)
    else:
        for part in reader.splits()[split]:
            yield from read_part(reader, split, part)


def read_part(reader: Reader, split: str, part: str) -> Iterator[Example]:
    """Yields the examples of one part of a reader that has nothing to join."""
    if isinstance(reader, JoinedReader):
        yield from (example for _, example in reader.read_rows(split, part))
    else:
        yield from reader.read_examples(split, part)


def _join_rows_and_images(reader: JoinedReader, split: str) -> Iterator[Example]:
    rows: dict[str, list[Example]] = {}
    for part in reader.splits()[split]:
        for key, example in reader.read_rows(split, part):
            if example.bad:
                yield example
            else:
                rows.setdefault(key, []).append(example)
    for part in reader.image_parts():
        for key, image in reader.read_images(part, rows):
            # The first of several images of one key wins: it takes the rows, later ones find none.
            if image and key in rows:
                yield make_example(reader, rows.pop(key), image)
    # The rows that are left met no image.
    for left in rows.values():
        yield make_example(reader, left, b'')


def make_example(reader: JoinedReader, rows: Iterable[Example], image: bytes) -> Example:
    """The example of the rows and the image of one key, independent of the order of the rows.

    It is bad if `image` is empty.
    """
    example = reader.merge(_sort_rows(rows))
    bad = example.bad or ('' if image else NO_IMAGE)
    return dataclasses.replace(example, image=b'' if bad else image, bad=bad)


def _sort_rows(rows: Iterable[Example]) -> Sequence[Example]:
    # By length first, so that row 9 comes before row 10.
    return sorted(rows, key=lambda row: (len(row.where), row.where, row.id, row.texts))
