"""Images that are joined to their texts by file name."""

import dataclasses
from collections.abc import Container, Iterator, Sequence
from pathlib import PurePosixPath

from mural_jax.data.sources import archives
from mural_jax.data.sources.reader import Example, JoinedReader, Text
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedImages(JoinedReader):
    """A reader of images in folders and tar archives, joined by the last part of their path.

    images: Folders or tar archives with the images, or patterns of them.
    """

    images: tuple[str, ...] = ()

    def image_parts(self) -> Sequence[str]:
        if not self.images:
            raise UserError('Give --images, the folders or tar archives with the images.')
        return archives.find_parts(self.images)

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        return read_named_images(part, wanted)


def read_named_images(part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
    """Yields (last part of the path, content) of the images of a folder or a tar archive.

    Raises:
      UserError: Two images, wanted or not, have the same name.
    """
    for path, content in archives.read_files(part, _WantedPaths(part, wanted)):
        yield base_name(path), content


class _WantedPaths(Container[str]):
    """The paths whose last part is wanted; it checks every path that it is asked about."""

    def __init__(self, part: str, wanted: Container[str] | None):
        self.part, self.wanted = part, wanted
        self.path_by_name: dict[str, str] = {}

    def __contains__(self, path: object) -> bool:
        # Readers of archives ask about each path once, so this sees every file, wanted or not.
        name = base_name(str(path))
        is_image = name.lower().endswith(archives.IMAGE_SUFFIXES)
        if is_image and self.path_by_name.setdefault(name, str(path)) != path:
            raise UserError(
                f'{self.part} has both {self.path_by_name[name]} and {path}, but images are found '
                'by the last part of their path. Give only one of these folders, or, for a table, '
                '--folders.'
            )
        # A table may list images with unusual suffixes, so a wanted name needs no known suffix.
        return is_image if self.wanted is None else name in self.wanted


def base_name(path: str) -> str:
    """The last part of a path, also of a Windows path; empty if the path names no file."""
    return PurePosixPath(path.replace('\\', '/')).name


def make_row(name: object, texts: Sequence[Text], where: str) -> tuple[str, Example]:
    """(key, example) of an image's texts; a bad example if the image has no name.

    Args:
      name: Path or name of the image; anything but a string is no name.
      texts: The texts of the example.
      where: File and row of the example.
    """
    key = base_name(name) if isinstance(name, str) else ''
    if not key:
        return make_bad_row('no image name', where)
    return key, Example(id=key, texts=list(texts), where=where)


def make_bad_row(reason: str, where: str) -> tuple[str, Example]:
    """(key, example) of a record that cannot be used; no other record has this key."""
    return f'bad/{where}', Example(id=where, texts=[], where=where, bad=reason)
