"""Rows of tables: Parquet, TSV, CSV, JSON lines, plain or gzipped; one row at a time."""

import csv
import glob
import gzip
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from mural_jax.types import UserError

Row = dict[str, Any]
FORMATS = ('.parquet', '.tsv', '.csv', '.jsonl')
MAX_FIELD = 2**24  # Characters; a longer field is no text any more (ours).


def files(pattern: str, what: str) -> list[str]:
    """The files that a path or a pattern such as `part-*.tsv` names, sorted.

    Raises UserError, saying `what` is missing, where there is none.
    """
    found = sorted(glob.glob(str(Path(pattern).expanduser())))
    if not found:
        raise UserError(f'There is no {what} at {pattern}. Give a file or a pattern like DIR/*.')
    return found


def open_text(path: str, newline: str | None = None) -> IO[str]:
    """A text file, gunzipped where it ends in .gz; bytes that are no UTF-8 become surrogates."""
    try:
        binary: Any = gzip.open(path) if path.endswith('.gz') else open(path, 'rb')
    except OSError as error:
        raise UserError(f'Cannot read {path} ({error.strerror}).') from error
    return io.TextIOWrapper(binary, encoding='utf-8', errors='surrogateescape', newline=newline)


def suffix(path: str) -> str:
    """The ending that tells the format, without .gz."""
    return Path(path.removesuffix('.gz')).suffix.lower()


def rows(path: str, columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows of a table as dicts, only `columns` where some are named.

    Raises UserError for a file that cannot be read, an unknown format or a missing column.
    """
    kinds = {'.parquet': _parquet, '.tsv': _tsv, '.csv': _csv, '.jsonl': _json_lines}
    if suffix(path) not in kinds:
        raise UserError(f'{path} is no table that can be read; known are {", ".join(FORMATS)}.')
    try:
        yield from kinds[suffix(path)](path, columns)
    except (OSError, EOFError, csv.Error) as error:
        raise UserError(f'Cannot read {path} ({error}). Is the file whole?') from error


def _parquet(path: str, columns: Sequence[str]) -> Iterator[Row]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            _check(path, columns, file.schema_arrow.names)
            for batch in file.iter_batches(1024, columns=list(columns) or None):
                yield from batch.to_pylist()
    except pyarrow.ArrowException as error:
        raise UserError(f'{path} is not a readable Parquet file ({error}).') from error


def _tsv(path: str, columns: Sequence[str]) -> Iterator[Row]:
    # Quotes are part of a text in TSV; fields are what stands between tabs.
    return _separated(path, columns, delimiter='\t', quoting=csv.QUOTE_NONE)


def _csv(path: str, columns: Sequence[str]) -> Iterator[Row]:
    return _separated(path, columns, delimiter=',', quoting=csv.QUOTE_MINIMAL)


def _separated(path: str, columns: Sequence[str], **dialect: Any) -> Iterator[Row]:
    csv.field_size_limit(min(MAX_FIELD, sys.maxsize))
    with open_text(path, newline='') as file:
        lines = (line.replace('\0', '') for line in file)
        reader = csv.reader(lines, **dialect)
        names = next(reader, [])
        _check(path, columns, names)
        for values in reader:
            yield dict(zip(names, values))


def _json_lines(path: str, columns: Sequence[str]) -> Iterator[Row]:
    with open_text(path) as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f'{path}, line {number} is not JSON ({error}).') from error
            if not isinstance(row, dict):
                raise UserError(f'{path}, line {number} is not an object.')
            if number == 1:
                _check(path, columns, list(row))
            yield row


def _check(path: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise UserError(f'{path} has no column {missing}; it has {list(found)}.')
