"""Pictures joined to their texts by the name of their file."""

import dataclasses
from collections.abc import Container, Iterator, Sequence
from pathlib import PurePosixPath

from mural_jax.data.sources import archives
from mural_jax.data.sources.reader import Example, JoinedReader, Text
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedImages(JoinedReader):
    """Pictures of folders and tar archives, joined by the last part of their path.

    images: folders or tar archives with the pictures, or patterns of them.
    """

    images: tuple[str, ...] = ()

    def image_parts(self) -> Sequence[str]:
        if not self.images:
            raise UserError('Where are the pictures? Give --images, folders or tar archives.')
        return archives.find_parts(self.images)

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        return read_named_images(part, wanted)


def read_named_images(part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
    """(last part of the path, content) of the pictures of a folder or a tar archive.

    Raises UserError where two folders hold pictures of one name, whether they are wanted or not.
    """
    for path, content in archives.read_files(part, _WantedPaths(part, wanted)):
        yield base_name(path), content


class _WantedPaths(Container[str]):
    """The paths whose last part is wanted, in the order in which they are asked for."""

    def __init__(self, part: str, wanted: Container[str] | None):
        self.part, self.wanted = part, wanted
        self.seen: dict[str, str] = {}

    def __contains__(self, path: object) -> bool:
        name = base_name(str(path))
        picture = name.lower().endswith(archives.IMAGE_SUFFIXES)
        if picture and self.seen.setdefault(name, str(path)) != path:
            raise UserError(
                f'{self.part} has both {self.seen[name]} and {path}, but pictures are found by '
                'the last part of their path. Give only one of those folders, or, for a table, '
                '--folders.'
            )
        return picture if self.wanted is None else name in self.wanted


def base_name(path: str) -> str:
    """The last part of a path, of Windows too; empty for one that names no file."""
    return PurePosixPath(path.replace('\\', '/')).name


def make_row(name: object, texts: Sequence[Text], where: str) -> tuple[str, Example]:
    """(key, example) of a picture's texts; a bad example of its own where it has no name."""
    key = base_name(name) if isinstance(name, str) else ''
    if not key:
        return make_bad_row('no name of a picture', where)
    return key, Example(id=key, texts=list(texts), where=where)


def make_bad_row(reason: str, where: str) -> tuple[str, Example]:
    """(key, example) of a record that cannot be used; the key is nobody else's."""
    return f'bad/{where}', Example(id=where, texts=[], where=where, bad=reason)
