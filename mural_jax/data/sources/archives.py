"""Image files in folders and in tar archives."""

import lzma
import os
import tarfile
import zlib
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from mural_jax.data.sources import tables
from mural_jax.types import UserError

IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp', '.gif', '.bmp')
# What tarfile and the decompressors raise for broken archives; some of it is an accident.
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
    """The folders and tar archives that match any of the paths or patterns."""
    return [
        file for path in paths for file in tables.find_files(path, 'folder or archive of images')
    ]


def read_files(part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of the files of a folder or a tar archive.

    Args:
      part: The folder or the archive.
      wanted: The names to read, or None for all. A name is the path below the folder or in the
        archive.

    Raises:
      UserError: The archive is broken.
    """
    if Path(part).is_dir():
        yield from _read_folder(Path(part), wanted)
        return
    for name, content in read_members(part):
        if wanted is None or name in wanted:
            yield name, content


def _read_folder(folder: Path, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
    for place, folders, names in os.walk(folder):
        # os.walk descends in the order of this list, so sorting it fixes the order of all files.
        folders.sort()
        for name in sorted(names):
            path = Path(place) / name
            key = path.relative_to(folder).as_posix()
            if wanted is None or key in wanted:
                yield key, path.read_bytes()


def read_members(path: str) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of the regular files of a tar archive, in one pass.

    Raises:
      UserError: The archive is broken.
    """
    try:
        # The mode 'r|*' reads a stream, so tarfile does not keep the members in memory.
        with tarfile.open(path, 'r|*') as archive:
            for member in archive:
                # A sparse file of a few bytes may become terabytes when read. No image is sparse.
                regular = member.isfile() and not member.issparse()
                file = archive.extractfile(member) if regular else None
                if file is not None:
                    yield member.name.removeprefix('./'), file.read()
    except BROKEN as error:
        raise UserError(f'Cannot read the archive {path} ({error}). Is it complete?') from error
