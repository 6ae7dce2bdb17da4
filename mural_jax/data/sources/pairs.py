"""Sentences and their translations in tables.

One example is one row, with its texts in all the languages it has; any two of them are a pair.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from mural_jax.data.sources import tables
from mural_jax.data.sources.columns import (
    TextColumn,
    fulfils_conditions,
    join_id,
    parse_text_columns,
)
from mural_jax.data.sources.reader import Example, Reader
from mural_jax.data.sources.tables import Row
from mural_jax.types import UserError


def short_name(path: str, paths: Sequence[str]) -> str:
    """A file's path below the folder that all the files are in: the same on every machine."""
    return Path(path).relative_to(os.path.commonpath([Path(p).parent for p in paths])).as_posix()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairTable(Reader):
    """Translations in a table, a row each: Parquet, TSV, CSV or JSON lines, plain or gzipped.

    A column a language, as tables of NLLB-Seed or Multi30k have, or a column with the language of
    another. TSV files of aligned sentences often have no header line, such as WikiMatrix (score,
    text, text): name their columns.

    table: the file, or a pattern of files such as DIR/*.tsv.
    texts: COLUMN[:KIND[:LANGUAGE]] of each column with texts (a string or a list of strings).
        @COLUMN stands for the value of another column, @COLUMN.N for its part N between hyphens;
        * for every column of strings, each in the language of its name, but for those that
        --split_column, --id and --where name.
    language: of the texts that name none.
    kind: of the texts that name none.
    split: the split of all rows, or of those whose split column is empty.
    split_column: the column that names each row's split.
    id: the columns whose values name a row; rows of one name are never each other's negatives.
        By default every row is its own: file and row number.
    where: COLUMN=VALUE that a row must fulfil to be taken.
    columns: the names of the columns, in order, of a TSV or CSV file without a header line.
    """

    table: str
    texts: tuple[str, ...] = ('*',)
    language: str = ''
    kind: str = 'sentence'
    split: str = 'train'
    split_column: str = ''
    id: tuple[str, ...] = ()
    where: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()

    family: ClassVar[str] = 'translations'

    def splits(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for file in self._files():
            for split in sorted(self._splits_of(file)):
                found.setdefault(split, []).append(file)
        if not found:
            raise UserError(f'No row of {self.table} fulfils --where {" ".join(self.where)}.')
        return found

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        texts = self._text_columns(part)
        needs = [name for column in texts for name in column.needs]
        name = short_name(part, self._files())
        for number, row in enumerate(self._rows(part, needs)):
            if self._takes(row, split):
                yield Example(
                    id=join_id(row, self.id) if self.id else f'{name}:{number}',
                    texts=[
                        text for column in texts or self._own(row) for text in column.texts(row)
                    ],
                    where=f'{part}, row {number + 1}',
                )

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """As in Reader; columns that all name language and kind themselves need not be read."""
        columns = [column for file in self._files() for column in self._text_columns(file)]
        words = [word for column in columns for word in (column.language, column.kind)]
        if not words or any(word.startswith('@') for word in words):
            return super().vocabulary()
        languages = {column.language for column in columns}
        return (
            sorted(set(self.languages) or languages),
            sorted({column.kind for column in columns}),
        )

    def _files(self) -> list[str]:
        return tables.find_files(self.table, 'table')

    def _rows(self, file: str, needs: Sequence[str]) -> Iterator[Row]:
        wanted = dict.fromkeys([*needs, *self._said()]) if needs else {}
        return tables.read_rows(file, list(wanted), self.columns)

    def _said(self) -> list[str]:
        """The columns that say something of the row and hold no text."""
        conditions = [condition.partition('=')[0] for condition in self.where]
        return [*filter(None, [self.split_column]), *self.id, *conditions]

    def _text_columns(self, file: str) -> list[TextColumn]:
        """Those of a file; none where each row has its own, as JSON objects can."""
        if self.texts != ('*',):
            return parse_text_columns(self.texts, (), self.kind, self.language)
        if tables.suffix(file) == '.jsonl':
            return []
        names = [
            name
            for name in tables.list_text_columns(file, self.columns)
            if name not in self._said()
        ]
        if len(names) < 2:
            raise UserError(f'{file} has fewer than two columns of texts: {names}. Give --texts.')
        return parse_text_columns(self.texts, names, self.kind, '')

    def _own(self, row: Row) -> list[TextColumn]:
        names = [
            name
            for name, value in row.items()
            if name not in self._said() and isinstance(value, str | list)
        ]
        return parse_text_columns(self.texts, names, self.kind, '')

    def _splits_of(self, file: str) -> set[str]:
        if not self.split_column and not self.where:
            return {self.split}
        rows = self._rows(file, self._said())
        return {self._split_of(row) for row in rows if fulfils_conditions(row, self.where)}

    def _split_of(self, row: Row) -> str:
        value = row.get(self.split_column) if self.split_column else None
        return self.split if value in (None, '') else str(value)

    def _takes(self, row: Row, split: str) -> bool:
        return fulfils_conditions(row, self.where) and self._split_of(row) == split
