"""A folder of embedded pictures: read whole to be searched, written in parts that last.

INDEX/index.json says what it is, INDEX/parts/*.parquet hold the pictures, INDEX/broken.tsv those
that could not be read, INDEX/faiss.index is what faiss made of them, where it was asked to.
"""

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from mural_jax.types import UserError

ABOUT, PARTS, BROKEN, FAISS = 'index.json', 'parts', 'broken.tsv', 'faiss.index'
LAYOUT = 1  # of the folder; another is not read
GROUP = 64  # rows that are read for one thumbnail: half a megabyte; ours
COLUMNS = ('id', 'mark', 'width', 'height')


@dataclasses.dataclass(frozen=True)
class About:
    """What a folder says of itself.

    model: the folder of the exported model, and `hash` its fingerprint. space, dim: in which its
    pictures were embedded. images: where they came from. thumbnail: pixels of the longer side, 0
    for none. faiss: the factory of its index, '' for none.
    """

    model: str
    hash: str
    space: str
    dim: int
    images: str
    thumbnail: int
    faiss: str = ''
    layout: int = LAYOUT

    @classmethod
    def read(cls, folder: Path) -> 'About':
        """Raises UserError where the folder is no index that can be read."""
        path = folder / ABOUT
        try:
            words = json.loads(path.read_text(encoding='utf-8'))
            if words['layout'] != LAYOUT:
                raise UserError(
                    f'{path} is of layout {words["layout"]}, this version reads {LAYOUT}. Make the '
                    'index again.'
                )
            return cls(**words)
        except FileNotFoundError as error:
            raise UserError(
                f'{folder} is no index: it has no {ABOUT}. `mural index` makes one.'
            ) from error
        except (OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f'{path} cannot be read ({error!r}). Make the index again.') from error

    def write(self, folder: Path) -> None:
        """Whole or not at all."""
        replace(folder / ABOUT, (json.dumps(dataclasses.asdict(self), indent=1) + '\n').encode())


@dataclasses.dataclass(frozen=True)
class Row:
    """A picture of an index: its name, what its file was when it was embedded, its pixels."""

    id: str
    mark: str
    width: int
    height: int


def parts(folder: Path) -> list[Path]:
    """The files of pictures, in the order in which they were made."""
    return sorted((folder / PARTS).glob('*.parquet'))


def write_part(
    path: Path, rows: Sequence[Row], image_ND: np.ndarray, thumbnails: Sequence[bytes]
) -> None:
    """One file of pictures: float32 unit vectors [N, D] and what is known of them."""
    columns: dict[str, Any] = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
    flat = pa.array(np.ascontiguousarray(image_ND, np.float32).reshape(-1))
    columns['embedding'] = pa.FixedSizeListArray.from_arrays(flat, image_ND.shape[1])
    columns['thumbnail'] = pa.array(thumbnails, pa.binary())
    write_table(path, pa.table(columns))


def write_table(path: Path, table: pa.Table) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix('.part')
    # Embeddings and JPEG have nothing left to compress.
    parquet.write_table(table, part, row_group_size=GROUP, compression='none')
    part.replace(path)


def replace(path: Path, content: bytes) -> None:
    """Writes a file, whole or not at all."""
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    with os.fdopen(handle, 'wb') as file:
        file.write(content)
    Path(name).chmod(0o644)
    Path(name).replace(path)


def read(path: Path, columns: Sequence[str]) -> pa.Table:
    """Columns of a part. Raises UserError where it is broken."""
    try:
        with parquet.ParquetFile(path) as file:
            return file.read(columns=[*columns])
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f'{path} cannot be read ({error}). Remove it and run `mural index` again: its pictures '
            'are embedded again.'
        ) from error


def rows(path: Path) -> Iterator[Row]:
    """What is known of the pictures of a part."""
    for values in zip(*(read(path, COLUMNS)[name].to_pylist() for name in COLUMNS)):
        yield Row(*values)


class Gallery:
    """N pictures in memory: names and vectors; thumbnails are read when they are asked for."""

    def __init__(self, folder: Path):
        """Raises UserError where the folder is no index, or has no picture."""
        self.folder, self.about = folder, About.read(folder)
        self._parts = parts(folder)
        self.rows = [row for path in self._parts for row in rows(path)]
        if not self.rows:
            raise UserError(f'The index {folder} has no picture yet. Run `mural index` for it.')
        self.image_ND = np.concatenate([vectors(path, self.about.dim) for path in self._parts])
        ends = np.cumsum([parquet.read_metadata(path).num_rows for path in self._parts])
        self._ends = [0, *ends.tolist()]

    def thumbnail(self, number: int) -> bytes:
        """The picture of a row, small, JPEG; empty where the index keeps none."""
        part = int(np.searchsorted(self._ends, number, side='right')) - 1
        place = number - self._ends[part]
        with parquet.ParquetFile(self._parts[part]) as file:
            group = file.read_row_group(place // GROUP, columns=['thumbnail'])
        return group['thumbnail'][place % GROUP].as_py()


def vectors(path: Path, dim: int) -> np.ndarray:
    """The embeddings of a part, float32 [N, dim]."""
    column = read(path, ['embedding'])['embedding'].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    if flat.size != len(column) * dim:
        raise UserError(f'{path} has vectors of another length than {dim}. Make the index again.')
    return flat.reshape(-1, dim)
