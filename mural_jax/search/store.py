"""An index on disk: a folder of embedded images, written in parts that are whole or absent.

INDEX/index.json        describes the index: its space, its form, where its images come from
INDEX/parts/*.parquet   hold the rows, one per image; each part names the model that embedded it
INDEX/broken.tsv        lists the images that could not be read
INDEX/faiss.index       is the index of faiss, if the user asked for one
"""

import dataclasses
import functools
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from mural_jax.search.forms import FORMS
from mural_jax.types import UserError

DESCRIPTION, PARTS, BROKEN, FAISS = 'index.json', 'parts', 'broken.tsv', 'faiss.index'
LAYOUT = 1  # Version of the folder's layout; other versions are refused.
PART_ROWS = 1024  # Rows of one part (ours).
GROUP_ROWS = 64  # Rows that are read to get one thumbnail, about half a megabyte (ours).
ROW_COLUMNS = ('id', 'file_version', 'width', 'height', 'names', 'split')
EMBEDDED_BY = b'embedded_by'  # Key in a part's Parquet metadata.


@dataclasses.dataclass(frozen=True)
class IndexDescription:
    """What index.json says about an index.

    space: space of the embeddings.
    dim: dimensions of an embedding.
    model: folder of the model when the index was made.
    images: folder, table or splits that the images come from.
    thumbnail: longer side of the stored images in pixels; 0 if none are stored, None if the
      originals are.
    form: form of the embeddings, a key of FORMS.
    faiss: factory string of faiss.index, '' if there is none.
    """

    space: str
    dim: int
    model: str
    images: str
    thumbnail: int | None
    form: str = 'dense'
    faiss: str = ''
    layout: int = LAYOUT

    @property
    def has_images(self) -> bool:
        """Whether the index stores images or thumbnails beside the embeddings."""
        return self.thumbnail != 0

    @classmethod
    def read(cls, folder: Path) -> 'IndexDescription':
        """The description of an index. Raises UserError if the folder is not a readable index."""
        path = folder / DESCRIPTION
        try:
            fields = json.loads(path.read_text(encoding='utf-8'))
            if fields['layout'] != LAYOUT:
                raise UserError(
                    f'{path} has layout {fields["layout"]}, but this version reads layout '
                    f'{LAYOUT}. Make the index again.'
                )
            description = cls(**fields)
        except FileNotFoundError as error:
            raise UserError(
                f'{folder} is not an index: it has no {DESCRIPTION}. `mural index` makes one.'
            ) from error
        except (OSError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f'{path} cannot be read ({error!r}). Make the index again.') from error
        if description.form not in FORMS:
            raise UserError(
                f'{path} has embeddings of the form {description.form!r}, but this version reads '
                f'{", ".join(FORMS)}. Make the index again.'
            )
        return description

    def write(self, folder: Path) -> None:
        """Replaces the description of the index in `folder` atomically."""
        text = json.dumps(dataclasses.asdict(self), indent=1) + '\n'
        replace_file(folder / DESCRIPTION, text.encode())


class ImageRow(NamedTuple):
    """What an index knows about one image beside its embedding.

    id: path, table row or example id of the image.
    embedded_by: fingerprint of the model that embedded the image.
    width, height: pixels of the original image, 0 if unknown.
    file_version: size and time of the file when it was embedded, '' for examples of a data set.
    names: text of the image by language.
    split: split of the data set, '' if the image is from none.
    """

    id: str
    embedded_by: str
    width: int = 0
    height: int = 0
    file_version: str = ''
    names: Mapping[str, str] = {}
    split: str = ''


def list_parts(folder: Path) -> list[Path]:
    """The Parquet files of an index, oldest first."""
    return sorted((folder / PARTS).glob('*.parquet'))


def part_path(folder: Path, number: int) -> Path:
    """The Parquet file of the part with this number."""
    return folder / PARTS / f'{number:06d}.parquet'


def write_part(
    path: Path, form: str, rows: Sequence[ImageRow], embeddings: np.ndarray, images: Sequence[bytes]
) -> None:
    """Writes one Parquet file of N rows atomically.

    All rows must be embedded by one model.

    form: a key of FORMS.
    embeddings: what the form stores; 'dense' takes float32 [N, D] of unit length.
    images: encoded image or thumbnail of each row, empty bytes if none is stored.
    """
    (embedded_by,) = {row.embedded_by for row in rows}
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in rows] for name in ROW_COLUMNS if name != 'names'
    }
    # Null reads far faster than '{}': an index of a plain folder has no names at all.
    texts = [json.dumps(row.names, ensure_ascii=False) if row.names else None for row in rows]
    columns['names'] = pa.array(texts, pa.string())
    columns['embedding'] = FORMS[form].write(embeddings)
    columns['image'] = pa.array(images, pa.binary())
    table = pa.table(columns).replace_schema_metadata({EMBEDDED_BY: embedded_by.encode()})
    write_table(path, table)


def write_table(path: Path, table: pa.Table) -> None:
    """Writes a Parquet file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix('.part')
    # Neither embeddings nor encoded images become smaller by compression.
    parquet.write_table(table, unfinished, row_group_size=GROUP_ROWS, compression='none')
    unfinished.replace(path)


def replace_file(path: Path, content: bytes) -> None:
    """Writes or replaces a file atomically."""
    handle, name = tempfile.mkstemp(prefix=f'.{path.name}.', dir=path.parent)
    # In the same folder: a rename across file systems would not be atomic.
    with os.fdopen(handle, 'wb') as file:
        file.write(content)
    Path(name).chmod(0o644)  # mkstemp lets nobody else read the file.
    Path(name).replace(path)


def read_table(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a part. Raises UserError if the file is damaged, or is not a part."""
    try:
        with parquet.ParquetFile(path) as file:
            if EMBEDDED_BY not in (file.schema_arrow.metadata or {}):
                raise OSError('it does not say which model embedded its images')
            return file.read(columns=[*columns])
    except (pa.ArrowException, OSError) as error:
        raise UserError(
            f'{path} cannot be read ({error}). Remove it and run the command that made it again '
            '(`mural index` or `mural evaluate`): its images are embedded again.'
        ) from error


def read_rows(path: Path) -> list[ImageRow]:
    """The rows of a part."""
    return parse_rows(read_table(path, ROW_COLUMNS))


def parse_rows(table: pa.Table) -> list[ImageRow]:
    """The rows of a table that has the columns ROW_COLUMNS."""
    embedded_by = parse_fingerprint(table)
    columns = (table[name].to_pylist() for name in ROW_COLUMNS)
    return [
        ImageRow(
            id_, embedded_by, width, height, version, json.loads(names) if names else {}, split
        )
        for id_, version, width, height, names, split in zip(*columns)
    ]


def parse_fingerprint(table: pa.Table) -> str:
    """The fingerprint of the model that embedded the rows of a part."""
    return table.schema.metadata[EMBEDDED_BY].decode()


def read_fingerprints(folder: Path) -> set[str]:
    """The fingerprints of all models that embedded rows of an index; reads no rows."""
    return {parse_fingerprint(read_table(path, [])) for path in list_parts(folder)}


def write_index(
    folder: Path,
    description: IndexDescription,
    rows: Sequence[ImageRow],
    embeddings: np.ndarray,
    images: Sequence[bytes],
) -> None:
    """Writes a whole index, in place of any that `folder` holds.

    Nobody sees the new index before it is complete. The arguments are those of `write_part`.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(prefix=f'.{folder.name}.', suffix='.part', dir=folder.parent))
    try:
        new.chmod(0o755)  # mkdtemp lets nobody else read the folder.
        for number, start in enumerate(range(0, len(rows), PART_ROWS)):
            some = slice(start, start + PART_ROWS)
            write_part(
                part_path(new, number), description.form, rows[some], embeddings[some], images[some]
            )
        description.write(new)
        if folder.exists():
            # A folder cannot be renamed onto one that has files. A process killed between the two
            # renames leaves no index, which is an error with a remedy, rather than half of one.
            old = new.with_suffix('.old')
            folder.rename(old)
            new.rename(folder)
            shutil.rmtree(old)
        else:
            new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


class ImageIndex:
    """N images in memory: rows and embeddings. Stored images are read from disk one by one.

    rows: one ImageRow per image.
    image_ND: the embeddings; in the form 'dense', float32 [N, D] of unit length.
    """

    def __init__(self, folder: Path):
        """Reads an index. Raises UserError if the folder is not an index or has no rows."""
        self.folder, self.description = folder, IndexDescription.read(folder)
        form, dim = FORMS[self.description.form], self.description.dim
        self._parts = list_parts(folder)
        self.rows: list[ImageRow] = []
        self._ends = [0]  # Numbers of the rows at which parts begin, then N.
        chunks: list[pa.Array] = []
        for path in self._parts:
            table = read_table(path, [*ROW_COLUMNS, 'embedding'])
            # Parts of different widths would otherwise fail only when a query is compared.
            if table['embedding'].type != form.column_type(dim):
                raise UserError(
                    f'{path} does not hold {self.description.form} embeddings of {dim} '
                    'dimensions, as index.json says. Make the index again.'
                )
            self.rows += parse_rows(table)
            self._ends.append(len(self.rows))
            chunks += table['embedding'].chunks
        if not self.rows:
            raise UserError(f'The index {folder} has no images yet. Run `mural index` to add some.')
        self.image_ND = form.read(pa.chunked_array(chunks), dim)

    @property
    def space(self) -> str:
        """The space of the embeddings."""
        return self.description.space

    @functools.cached_property
    def names(self) -> list[Mapping[str, str]]:
        """The text of each image by language."""
        return [row.names for row in self.rows]

    @functools.cached_property
    def splits(self) -> list[str]:
        """The split of each image."""
        return [row.split for row in self.rows]

    @property
    def fingerprints(self) -> set[str]:
        """The fingerprints of all models that embedded rows of this index."""
        return {row.embedded_by for row in self.rows}

    def read_image(self, number: int) -> bytes:
        """The stored image or thumbnail of row `number`, encoded; empty if none is stored."""
        part = int(np.searchsorted(self._ends, number, side='right')) - 1
        place = number - self._ends[part]
        # Opened anew each time: the page reads thumbnails from several threads.
        with parquet.ParquetFile(self._parts[part]) as file:
            group = file.read_row_group(place // GROUP_ROWS, columns=['image'])
        return group['image'][place % GROUP_ROWS].as_py()
