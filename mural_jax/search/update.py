"""Updating an index: embeds the images that are new, drops those that are gone, keeps the rest."""

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
from mural_jax.data.sources.archives import IMAGE_SUFFIXES
from mural_jax.inference.images import load_upright, resize_square
from mural_jax.search import store
from mural_jax.search.fingerprints import require_model
from mural_jax.search.store import ImageRow, IndexDescription
from mural_jax.types import UserError

JPEG_QUALITY = 85  # Of thumbnails (ours).
MAX_FILE_BYTES = 200_000_000  # Larger image files are listed as broken (ours).


class ImageFile(NamedTuple):
    """An image to index: its id, its version, and the function that reads its bytes.

    version: changes whenever the content does, so that a changed image is embedded again.
    """

    id: str
    version: str
    read: Callable[[], bytes]


class ImageEncoder(NamedTuple):
    """The model of an update.

    encode: N images uint8 [S, S, 3] -> their embeddings.
    resize: pixels of the side S that `encode` takes.
    fingerprint: tells the model apart from others.
    """

    encode: Callable[[Sequence[np.ndarray]], np.ndarray]
    resize: int
    fingerprint: str


class PreparedImage(NamedTuple):
    """An image that was read: its row, its pixels for the model, uint8 [S, S, 3], its thumbnail."""

    row: ImageRow
    image_SSC: np.ndarray
    thumbnail: bytes


class UpdateCounts(NamedTuple):
    """How many images an update added, kept, removed, and could not read."""

    added: int
    kept: int
    removed: int
    broken: int


def list_images(
    images: Path, image_column: str, id_column: str
) -> tuple[Iterator[ImageFile], int | None]:
    """(the images of a folder or a table, how many there are; None if that is not known yet).

    Images of a folder have their paths below it as ids; those of a table have `id_column`, or else
    the file or the number of the row. Raises UserError if `images` is neither folder nor table.
    """
    if images.is_dir():
        files = [*_list_folder(images)]
        return iter(files), len(files)
    if not images.is_file():
        raise UserError(f'There is no {images}. Give a folder of images, or a table of them.')
    return _list_table(images, image_column, id_column), tables.count_rows(str(images))


def _list_folder(folder: Path) -> Iterator[ImageFile]:
    for place, folders, names in os.walk(folder):
        folders.sort()  # os.walk visits them in this order.
        for name in sorted(names):
            path = Path(place) / name
            if path.suffix.lower() in IMAGE_SUFFIXES:
                # Parquet takes UTF-8 alone, but a file's name can be any bytes.
                id_ = path.relative_to(folder).as_posix().encode(errors='surrogateescape')
                yield _describe_file(id_.decode(errors='replace'), path)


def _describe_file(id_: str, path: Path) -> ImageFile:
    try:
        stat = path.stat()
        # Not a checksum: an update must not read every image that it keeps.
        version = f'{stat.st_size}-{stat.st_mtime_ns}'
    except OSError:
        version = ''  # A dangling link: reading it will say so.
    return ImageFile(id_, version, lambda: _read_file(path))


def _read_file(path: Path) -> bytes:
    size = path.stat().st_size
    if size > MAX_FILE_BYTES:
        raise UserError(f'it has {size:,} bytes, more than {MAX_FILE_BYTES:,}')
    return path.read_bytes()


def _list_table(path: Path, image_column: str, id_column: str) -> Iterator[ImageFile]:
    columns = [image_column, *([id_column] if id_column else [])]
    for number, row in enumerate(tables.read_rows(str(path), columns)):
        value = row[image_column]
        if isinstance(value, dict):  # The Hugging Face hub writes images so.
            value = value.get('bytes') or value.get('path')
        id_ = str(row[id_column]) if id_column else None
        if isinstance(value, bytes):
            # These bytes are read anyway, and have no time of their own.
            version = f'{len(value)}-{zlib.crc32(value)}'
            yield ImageFile(id_ or str(number), version, partial(bytes, value))
        elif isinstance(value, str):
            yield _describe_file(id_ or value, path.parent / value)
        else:
            # No bytes are no image, so the row will be listed as broken.
            yield ImageFile(id_ or str(number), '', lambda: b'')


def require_same_index(
    folder: Path, description: IndexDescription, fingerprint: str, model: str
) -> None:
    """Raises UserError if the index in `folder` differs in anything that an update cannot change.

    description: of the update. fingerprint, model: of its model, and where that is. `update` itself
    takes any model: an index can hold rows of several.
    """
    require_model(store.read_fingerprints(folder), fingerprint, folder, model)
    before = IndexDescription.read(folder)
    fixed = {
        'space': 'another space',
        'images': 'other images',
        'thumbnail': 'another --thumbnail',
        'form': 'another form of embeddings',
    }
    for name, what in fixed.items():
        if getattr(before, name) != getattr(description, name):
            raise UserError(
                f'{folder} was made with {what} ({getattr(before, name)}). Give another folder '
                'with --out, or remove it.'
            )


def update(
    folder: Path,
    description: IndexDescription,
    encoder: ImageEncoder,
    files: Iterable[ImageFile],
    report_progress: Callable[[int], None],
) -> UpdateCounts:
    """Makes an index hold exactly `files`; embeds only those that are new or have changed.

    Every part that was written lasts: after a kill, the next update goes on with the rest. Rows
    that another model embedded are kept, and still name that model. `report_progress` is called
    with the number of images looked at so far. Raises UserError if two images have one id.
    """
    with _lock(folder):
        description.write(folder)
        # A killed update can leave one; nobody else writes here now.
        for unfinished in (folder / store.PARTS).glob('*.part'):
            unfinished.unlink()
        parts = store.list_parts(folder)
        known = {(row.id, row.file_version) for path in parts for row in store.read_rows(path)}
        # New parts sort behind all others, so that the rows of the others keep their numbers.
        number = 1 + max((int(path.stem) for path in parts), default=-1)
        versions: dict[str, str] = {}
        broken: list[tuple[str, str]] = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for batch in _split_batches(_select_new(files, known, versions)):
                prepare = partial(_prepare, description=description, encoder=encoder)
                prepared = _sort_out(batch, pool.map(prepare, batch), broken)
                if prepared:
                    store.write_part(
                        store.part_path(folder, number),
                        description.form,
                        [one.row for one in prepared],
                        encoder.encode([one.image_SSC for one in prepared]),
                        [one.thumbnail for one in prepared],
                    )
                    number += 1
                report_progress(len(versions))
        report_progress(len(versions))
        kept = sum(versions.get(id_) == version for id_, version in known)
        _write_broken(folder, broken)
        # Last, so that a killed update leaves an image twice rather than not at all.
        removed = _prune(folder, versions)
        return UpdateCounts(len(versions) - kept - len(broken), kept, removed, len(broken))


def _select_new(
    files: Iterable[ImageFile], known: Set[tuple[str, str]], versions: dict[str, str]
) -> Iterator[ImageFile]:
    """Yields the images whose (id, version) is not known; adds the version of all to `versions`."""
    for file in files:
        if file.id in versions:
            raise UserError(
                f'Two images have the id {file.id!r}, but ids have to differ. Give another '
                '--id_column.'
            )
        versions[file.id] = file.version
        if (file.id, file.version) not in known:
            yield file


def _split_batches(files: Iterator[ImageFile]) -> Iterator[list[ImageFile]]:
    while batch := [*islice(files, store.PART_ROWS)]:
        yield batch


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Lets one process update an index at a time: two would write the same parts."""
    (folder / store.PARTS).mkdir(parents=True, exist_ok=True)
    # The kernel releases the lock when its process ends, so a kill leaves none behind.
    with (folder / 'lock').open('w') as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(f'Another `mural index` works on {folder}. Wait for it.') from error
        yield


def _prune(folder: Path, versions: Mapping[str, str]) -> int:
    """Drops the rows of images that are gone or have changed; returns how many."""
    removed = 0
    for path in store.list_parts(folder):
        stays = [versions.get(row.id) == row.file_version for row in store.read_rows(path)]
        removed += stays.count(False)
        if not any(stays):
            path.unlink()
        elif not all(stays):
            table = store.read_table(path, [*store.ROW_COLUMNS, 'embedding', 'image'])
            store.write_table(path, table.filter(pa.array(stays)))
    return removed


def _sort_out(
    files: Sequence[ImageFile],
    results: Iterable[PreparedImage | str],
    broken: list[tuple[str, str]],
) -> list[PreparedImage]:
    """The images that could be read; adds (id, reason) of the others to `broken`."""
    prepared = []
    for file, result in zip(files, results):
        if isinstance(result, str):
            broken.append((file.id, result))
        else:
            prepared.append(result)
    return prepared


def _prepare(
    file: ImageFile, description: IndexDescription, encoder: ImageEncoder
) -> PreparedImage | str:
    """The image for the index and the model, or the reason why it cannot be read."""
    try:
        image = load_upright(file.read())
    except (UserError, OSError) as error:
        return str(error)
    side = description.thumbnail
    return PreparedImage(
        ImageRow(file.id, encoder.fingerprint, image.width, image.height, file.version),
        resize_square(image, encoder.resize),
        make_thumbnail(image, side) if side else b'',
    )


def make_thumbnail(image: Image.Image, side: int) -> bytes:
    """The image as a JPEG whose longer side has at most `side` pixels."""
    small = image.copy()  # Image.thumbnail changes the image itself.
    small.thumbnail((side, side), Image.Resampling.BICUBIC)
    file = io.BytesIO()
    small.save(file, 'JPEG', quality=JPEG_QUALITY)
    return file.getvalue()


def _write_broken(folder: Path, broken: Sequence[tuple[str, str]]) -> None:
    """Lists the images that could not be read, for people; the next update tries them again."""
    path = folder / store.BROKEN
    if not broken:
        path.unlink(missing_ok=True)
        return
    lines = ['\t'.join(' '.join(word.split()) for word in pair) for pair in broken]
    store.replace_file(path, '\n'.join(['id\treason', *lines, '']).encode(errors='replace'))
