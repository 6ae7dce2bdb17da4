"""All examples of a split, in this process; `beam` gives the same on many machines."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

from mural_jax.data.sources.reader import Example, JoinedReader, Reader

NO_PICTURE = 'no picture'


def local(reader: Reader, split: str) -> Iterator[Example]:
    """The examples of a split. Texts are held in memory, pictures only pass by.

    An example without picture is bad; a picture without texts is left out.
    """
    if isinstance(reader, JoinedReader) and reader.picture_parts():
        yield from _joined(reader, split)
    else:
        for part in reader.splits()[split]:
            yield from of_part(reader, split, part)


def of_part(reader: Reader, split: str, part: str) -> Iterator[Example]:
    """The examples of one part, as they are where nothing has to be joined."""
    if isinstance(reader, JoinedReader):
        yield from (example for _, example in reader.rows(split, part))
    else:
        yield from reader.examples(split, part)


def _joined(reader: JoinedReader, split: str) -> Iterator[Example]:
    rows: dict[str, list[Example]] = {}
    for part in reader.splits()[split]:
        for key, example in reader.rows(split, part):
            if example.bad:
                yield example
            else:
                rows.setdefault(key, []).append(example)
    for part in reader.picture_parts():
        for key, image in reader.pictures(part, rows):
            # Of several pictures the first is taken: the others find no rows.
            if image and key in rows:
                yield example_of(reader, rows.pop(key), image)
    for left in rows.values():
        yield example_of(reader, left, b'')


def example_of(reader: JoinedReader, rows: Iterable[Example], image: bytes) -> Example:
    """The example of all rows and the picture of one key, whatever the order of the rows."""
    example = reader.merge(_in_order(rows))
    bad = example.bad or ('' if image else NO_PICTURE)
    return dataclasses.replace(example, image=b'' if bad else image, bad=bad)


def _in_order(rows: Iterable[Example]) -> Sequence[Example]:
    # By length first, so that row 9 comes before row 10.
    return sorted(rows, key=lambda row: (len(row.where), row.where, row.id, row.texts))
