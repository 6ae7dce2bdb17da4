"""Pictures of a folder or of a table become an index: what is new is embedded, and lasts."""

import contextlib
import fcntl
import io
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from PIL import Image

from mural_jax.data.sources import tables
from mural_jax.data.sources.archives import IMAGES
from mural_jax.inference.pictures import resized, upright
from mural_jax.search import store
from mural_jax.search.store import Row
from mural_jax.types import UserError

PART = 1024  # pictures that are embedded, and kept, together; ours
QUALITY = 85  # of JPEG; ours
MOST_BYTES = 200_000_000  # of the file of a picture, at most; ours


class Source(NamedTuple):
    """A picture that is there: its name, what tells that it changed, and how it is read."""

    id: str
    mark: str
    read: Callable[[], bytes]


class Made(NamedTuple):
    """A picture that was read: for the index and for the model, uint8 [S, S, 3]."""

    row: Row
    square: np.ndarray
    thumbnail: bytes


class Done(NamedTuple):
    """What an update did, in pictures."""

    added: int
    kept: int
    removed: int
    broken: int


def listed(images: Path, image_column: str, id_column: str) -> tuple[Iterator[Source], int | None]:
    """(the pictures of a folder, by their paths below it, or of a table, by its rows; how many,
    where that is known before).

    Raises UserError where there is neither.
    """
    if images.is_dir():
        found = [*_folder(images)]
        return iter(found), len(found)
    if not images.is_file():
        raise UserError(f'There is no {images}. Give a folder of pictures, or a table of them.')
    return _table(images, image_column, id_column), tables.count(str(images))


def _folder(folder: Path) -> Iterator[Source]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            if path.suffix.lower() in IMAGES:
                # What is no UTF-8 in a name has no place in a table.
                known = path.relative_to(folder).as_posix()
                yield _file(known.encode(errors='surrogateescape').decode(errors='replace'), path)


def _file(name: str, path: Path) -> Source:
    try:
        about = path.stat()
        mark = f'{about.st_size}-{about.st_mtime_ns}'
    except OSError:
        mark = ''  # A link to nothing: reading it says so.
    return Source(name, mark, lambda: _content(path))


def _content(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise UserError(f'it has {size:,} bytes, more than {MOST_BYTES:,}')
    return path.read_bytes()


def _table(path: Path, image_column: str, id_column: str) -> Iterator[Source]:
    columns = [image_column, *([id_column] if id_column else [])]
    for number, row in enumerate(tables.rows(str(path), columns)):
        value = row[image_column]
        if isinstance(value, dict):  # As the Hugging Face hub writes pictures.
            value = value.get('bytes') or value.get('path')
        name = str(row[id_column]) if id_column else None
        if isinstance(value, bytes):
            mark = f'{len(value)}-{zlib.crc32(value)}'
            yield Source(name or str(number), mark, partial(bytes, value))
        elif isinstance(value, str):
            yield _file(name or value, path.parent / value)
        else:
            yield Source(name or str(number), '', lambda: b'')  # Empty: it is listed as broken.


def update(
    folder: Path, about: store.About, sources: Iterable[Source], encode: Callable, resize: int,
    seen: Callable[[int], None],
) -> Done:  # fmt: skip
    """Brings an index up to what there is; what was kept lasts, so that it goes on where it ends.

    encode: pictures uint8 [S, S, 3] of side `resize` -> float32 [N, D]. seen: hears how many
    pictures were looked at. Raises UserError where two pictures have one name.
    """
    with _alone(folder):
        about.write(folder)
        for rest in (folder / store.PARTS).glob('*.part'):
            rest.unlink()
        known = {(row.id, row.mark) for path in store.parts(folder) for row in store.rows(path)}
        number = 1 + max((int(path.stem) for path in store.parts(folder)), default=-1)
        marks: dict[str, str] = {}
        broken: list[tuple[str, str]] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for batch in _batches(_new(sources, known, marks)):
                made = _made(pool, batch, about.thumbnail, resize, broken)
                if made:
                    store.write_part(
                        folder / store.PARTS / f'{number:06d}.parquet',
                        [one.row for one in made], encode([one.square for one in made]),
                        [one.thumbnail for one in made],
                    )  # fmt: skip
                    number += 1
                seen(len(marks))
        seen(len(marks))
        kept = sum(marks.get(name) == mark for name, mark in known)
        _list(folder, broken)
        removed = _prune(folder, marks)
        return Done(len(marks) - kept - len(broken), kept, removed, len(broken))


def _new(
    sources: Iterable[Source], known: Set[tuple[str, str]], marks: dict[str, str]
) -> Iterator[Source]:
    """Those that are not in the index as they are now; `marks` takes what all of them are now."""
    for source in sources:
        if source.id in marks:
            raise UserError(
                f'Two pictures are called {source.id!r}: names have to differ. Give another '
                '--id_column.'
            )
        marks[source.id] = source.mark
        if (source.id, source.mark) not in known:
            yield source


def _batches(sources: Iterator[Source]) -> Iterator[list[Source]]:
    while batch := [*islice(sources, PART)]:
        yield batch


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Two at once would write the same parts."""
    (folder / store.PARTS).mkdir(parents=True, exist_ok=True)
    with (folder / 'lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f'Another `mural index` works on {folder}. Wait for it.') from error
        yield


def _prune(folder: Path, marks: Mapping[str, str]) -> int:
    """Takes out what is gone or has changed since; how many rows that were."""
    removed = 0
    for path in store.parts(folder):
        stays = [marks.get(row.id) == row.mark for row in store.rows(path)]
        removed += stays.count(False)
        if not any(stays):
            path.unlink()
        elif not all(stays):
            table = store.read(path, [*store.COLUMNS, 'embedding', 'thumbnail'])
            store.write_table(path, table.filter(pa.array(stays)))
    return removed


def _made(
    pool: ThreadPoolExecutor, sources: Sequence[Source], thumbnail: int, resize: int,
    broken: list[tuple[str, str]],
) -> list[Made]:  # fmt: skip
    found = pool.map(lambda source: _one(source, thumbnail, resize), sources)
    made = []
    for source, one in zip(sources, found):
        if isinstance(one, str):
            broken.append((source.id, one))
        else:
            made.append(one)
    return made


def _one(source: Source, thumbnail: int, resize: int) -> Made | str:
    """A picture that was read, or why it could not be."""
    try:
        image = upright(source.read())
    except (UserError, OSError) as error:
        return str(error)
    row = Row(source.id, source.mark, image.width, image.height)
    return Made(row, resized(image, resize), thumbnail_of(image, thumbnail) if thumbnail else b'')


def thumbnail_of(image: Image.Image, side: int) -> bytes:
    """JPEG, its longer side at most `side` pixels."""
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, 'JPEG', quality=QUALITY)
    return file.getvalue()


def _list(folder: Path, broken: Sequence[tuple[str, str]]) -> None:
    """What could not be read and why, for people; the next update tries these again."""
    path = folder / store.BROKEN
    if not broken:
        path.unlink(missing_ok=True)
        return
    lines = ['\t'.join(' '.join(word.split()) for word in pair) for pair in broken]
    store.replace(path, '\n'.join(['id\treason', *lines, '']).encode(errors='replace'))
