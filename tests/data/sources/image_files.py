"""Small image files and archives for the tests of readers."""

import io
import tarfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image


def encode_colour(colour: str, form: str = 'JPEG') -> bytes:
    """An image file of 4 x 4 pixels of one colour."""
    file = io.BytesIO()
    Image.new('RGB', (4, 4), colour).save(file, form)
    return file.getvalue()


def write_tar(path: Path, files: Iterable[tuple[str, bytes]]) -> str:
    """Writes an archive, compressed if its name ends in .gz, and returns its path."""
    with tarfile.open(path, 'w:gz' if path.suffix == '.gz' else 'w') as archive:
        for name, content in files:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(path)
