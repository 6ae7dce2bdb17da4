"""Pictures by their file's name, from folders and from tar archives."""

import lzma
import os
import tarfile
import zlib
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from mural_jax.data.sources import tables
from mural_jax.types import UserError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp')
# What tarfile and the decompressors raise for broken archives, some of it by accident.
BROKEN = (
    tarfile.TarError,
    OSError,
    EOFError,
    ValueError,
    TypeError,
    OverflowError,
    RecursionError,
    zlib.error,
    lzma.LZMAError,
)


def find_parts(paths: Sequence[str]) -> list[str]:
    """The folders and tar archives that paths or patterns name."""
    return [
        file for path in paths for file in tables.find_files(path, 'folder or archive of pictures')
    ]


def read_files(part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the files of a folder or a tar archive, only those in `wanted` if given.

    A name is the path below the folder or in the archive. Raises UserError for a broken archive.
    """
    if Path(part).is_dir():
        yield from _read_folder(Path(part), wanted)
        return
    for name, content in read_members(part):
        if wanted is None or name in wanted:
            yield name, content


def _read_folder(folder: Path, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
    for place, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            key = path.relative_to(folder).as_posix()
            if wanted is None or key in wanted:
                yield key, path.read_bytes()


def read_members(path: str) -> Iterator[tuple[str, bytes]]:
    """(name, content) of the plain files of a tar archive, in their order, read once."""
    try:
        # As a stream: nothing of it is kept.
        with tarfile.open(path, 'r|*') as archive:
            for member in archive:
                # A sparse file may be a few bytes here and terabytes once read; pictures are not.
                plain = member.isfile() and not member.issparse()
                file = archive.extractfile(member) if plain else None
                if file is not None:
                    yield member.name.removeprefix('./'), file.read()
    except BROKEN as error:
        raise UserError(f'Cannot read the archive {path} ({error}). Is it whole?') from error
