"""All examples of a split, in this process; `beam` gives the same on many machines."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from mural_jax.data.sources.reader import Example, JoinedReader, Reader

NO_IMAGE = 'no picture'


def read_split(reader: Reader, split: str) -> Iterator[Example]:
    """The examples of a split. Texts are held in memory, pictures only pass by.

    An example without picture is bad; a picture without texts is left out.
    """
    if isinstance(reader, JoinedReader) and reader.image_parts():
        yield from _join_rows_and_images(reader, split)
    else:
        for part in reader.splits()[split]:
            yield from read_part(reader, split, part)


def read_part(reader: Reader, split: str, part: str) -> Iterator[Example]:
    """The examples of one part, as they are where nothing has to be joined."""
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
            # Of several pictures the first is taken: the others find no rows.
            if image and key in rows:
                yield make_example(reader, rows.pop(key), image)
    for left in rows.values():
        yield make_example(reader, left, b'')


def make_example(reader: JoinedReader, rows: Iterable[Example], image: bytes) -> Example:
    """The example of all rows and the picture of one key, whatever the order of the rows."""
    example = reader.merge(_sort_rows(rows))
    bad = example.bad or ('' if image else NO_IMAGE)
    return dataclasses.replace(example, image=b'' if bad else image, bad=bad)


def _sort_rows(rows: Iterable[Example]) -> Sequence[Example]:
    # By length first, so that row 9 comes before row 10.
    return sorted(rows, key=lambda row: (len(row.where), row.where, row.id, row.texts))
