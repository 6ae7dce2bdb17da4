"""Reads the rows of tables one at a time: Parquet, TSV, CSV or JSON lines, plain or gzipped."""

import contextlib
import csv
import glob
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mural_jax.types import UserError

Row = dict[str, Any]
FORMATS = ('.parquet', '.tsv', '.csv', '.jsonl')
SEPARATED = ('.tsv', '.csv')
MAX_FIELD = 2**24  # Characters; anything longer is no text (ours).


def find_files(pattern: str, what: str) -> list[str]:
    """The files that match a path or a pattern such as `part-*.tsv`, sorted.

    Args:
      what: What the files are, for the error message.

    Raises:
      UserError: No file matches.
    """
    # Path.glob takes no absolute pattern.
    files = sorted(glob.glob(str(Path(pattern).expanduser())))  # noqa: PTH207
    if not files:
        raise UserError(f'There is no {what} at {pattern}. Give a file or a pattern like DIR/*.')
    return files


def open_binary(path: str) -> Any:
    """A file of bytes, decompressed if its name ends in .gz."""
    try:
        return gzip.open(path) if path.endswith('.gz') else Path(path).open('rb')  # noqa: SIM115
    except OSError as error:
        raise UserError(f'Cannot read {path} ({error.strerror}).') from error


def open_text(path: str, newline: str | None = None) -> IO[str]:
    """A UTF-8 text file, decompressed if its name ends in .gz.

    Bytes that are not UTF-8 become surrogate escapes.
    """
    # 'utf-8-sig' drops the byte order mark that some programs write before the text.
    return io.TextIOWrapper(
        open_binary(path), encoding='utf-8-sig', errors='surrogateescape', newline=newline
    )


@contextlib.contextmanager
def explain_read_errors(path: str) -> Iterator[None]:
    """Turns the errors of reading a broken or truncated file into a UserError about `path`."""
    try:
        yield
    except (OSError, EOFError, csv.Error, zlib.error) as error:
        raise UserError(f'Cannot read {path} ({error}). Is the file complete?') from error


def read_lines(file: IO[str], path: str) -> Iterator[str]:
    """Yields the lines of a text file with their line ends.

    Raises:
      UserError: A line has MAX_FIELD characters or more.
    """
    while line := file.readline(MAX_FIELD):
        if len(line) == MAX_FIELD:
            raise UserError(f'{path} has a line of {MAX_FIELD:,} characters. Is it a text file?')
        yield line


def suffix(path: str) -> str:
    """The suffix that tells the format, in lower case and without .gz."""
    return Path(path.removesuffix('.gz')).suffix.lower()


def read_rows(path: str, columns: Sequence[str] = (), header: Sequence[str] = ()) -> Iterator[Row]:
    """Yields the rows of a table as dicts.

    Args:
      columns: The columns to read; empty for all of them.
      header: Names of the columns of a TSV or CSV file that has no header line.

    Raises:
      UserError: The file is unreadable, its format is unknown, or a column is missing.
    """
    kind = _check_format(path, header)
    with explain_read_errors(path):
        if kind in SEPARATED:
            yield from _read_separated(path, columns, header)
        else:
            yield from (_read_parquet if kind == '.parquet' else _read_json_lines)(path, columns)


def list_text_columns(path: str, header: Sequence[str] = ()) -> list[str]:
    """The columns of a table that may hold texts.

    In Parquet these are the columns of strings and of lists of strings. For JSON lines, whose
    objects may differ, they are the keys of the first object.
    """
    kind = _check_format(path, header)
    if kind == '.parquet':
        return _list_string_columns(path)
    if header:
        return list(header)
    with explain_read_errors(path):
        if kind == '.jsonl':
            return list(next(_read_json_lines(path, ()), {}))
        return next(_read_fields(path), [])


def count_rows(path: str) -> int | None:
    """The number of rows of a Parquet file; None for other formats, which have to be read whole."""
    if suffix(path) != '.parquet':
        return None
    with _open_parquet(path) as file:
        return file.metadata.num_rows


def _check_format(path: str, header: Sequence[str]) -> str:
    """The suffix of a table, once it fits the formats and the header."""
    kind = suffix(path)
    if kind not in FORMATS:
        raise UserError(
            f'{path} is not a table that can be read; known formats are {", ".join(FORMATS)}.'
        )
    if header and kind not in SEPARATED:
        raise UserError(
            f'{path} names its columns itself. Give the names of columns only for TSV and CSV.'
        )
    return kind


def _read_parquet(path: str, columns: Sequence[str]) -> Iterator[Row]:
    with _open_parquet(path) as file:
        _check_columns(path, columns, file.schema_arrow.names)
        for batch in file.iter_batches(1024, columns=list(columns) or None):
            yield from _list_rows(batch)


@contextlib.contextmanager
def _open_parquet(path: str) -> Iterator[Any]:
    """A Parquet file; errors of pyarrow become a UserError."""
    # Imported here, because only Parquet needs it and it is slow to import.
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError, OverflowError, UnicodeDecodeError) as error:
        raise UserError(f'{path} is not a readable Parquet file ({error}).') from error


def _list_rows(batch: Any) -> list[Row]:
    """The rows of a batch; strings that are not UTF-8 get surrogates, as in the other formats."""
    try:
        return batch.to_pylist()
    except UnicodeDecodeError:
        columns = [_decode_column(column) for column in batch.columns]
        return [dict(zip(batch.schema.names, row)) for row in zip(*columns)]


def _decode_column(column: Any) -> list[Any]:
    import pyarrow

    if pyarrow.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if not _is_string(column.type):
        return column.to_pylist()
    values = column.cast(pyarrow.large_binary()).to_pylist()
    return [value if value is None else value.decode(errors='surrogateescape') for value in values]


def _list_string_columns(path: str) -> list[str]:
    with _open_parquet(path) as file:
        return [field.name for field in file.schema_arrow if _holds_text(field.type)]


def _holds_text(kind: Any) -> bool:
    """Whether a column type is one of strings: plain, dictionary-encoded or in lists."""
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_list(kind) or types.is_large_list(kind):
        kind = kind.value_type
    return _is_string(kind)


def _is_string(kind: Any) -> bool:
    from pyarrow import types

    return types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind)


def _read_fields(path: str) -> Iterator[list[str]]:
    """Yields the fields of each line of a TSV or CSV file."""
    if suffix(path) == '.tsv':
        # TSV has no quoting: quotes and a lone \r are part of the text, \n ends a row, and a tab
        # ends a field.
        with open_text(path, newline='\n') as file:
            for line in read_lines(file, path):
                yield line.rstrip('\r\n').split('\t')
    else:
        csv.field_size_limit(min(MAX_FIELD, sys.maxsize))
        with open_text(path, newline='') as file:
            # The csv module refuses NUL characters.
            yield from csv.reader(line.replace('\0', '') for line in read_lines(file, path))


def _read_separated(path: str, columns: Sequence[str], header: Sequence[str]) -> Iterator[Row]:
    values = _read_fields(path)
    names = header or next(values, [])
    _check_columns(path, columns, names)
    for row in values:
        yield dict(zip(names, row))


def _read_json_lines(path: str, columns: Sequence[str]) -> Iterator[Row]:
    first = True
    with open_text(path) as file:
        for number, line in enumerate(read_lines(file, path), 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f'{path}, line {number} is not JSON ({error}).') from error
            if not isinstance(row, dict):
                raise UserError(f'{path}, line {number} is not a JSON object.')
            # Only the first object has to have all columns: a key may be missing from later ones.
            if first:
                _check_columns(path, columns, list(row))
            first = False
            yield row


def _check_columns(path: str, wanted: Sequence[str], columns: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise UserError(f'{path} has no column {missing}; it has {list(columns)}.')
