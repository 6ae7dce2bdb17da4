"""Reading of image files from archives."""

import tarfile
from pathlib import Path

from mural_jax.data.sources import archives


def test_sparse_files_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / 's.tar'
    with tarfile.open(path, 'w', format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo('hole.jpg')
        # A terabyte of zeros that takes no byte in the archive.
        member.pax_headers = {'GNU.sparse.size': str(2**40), 'GNU.sparse.map': f'{2**40},0'}
        archive.addfile(member)
        archive.addfile(tarfile.TarInfo('a.jpg'))
    assert [name for name, _ in archives.read_members(str(path))] == ['a.jpg']
