"""Sentences and their translations in tables.

One row is one example with its texts in all languages; any two of these texts are a pair.
"""

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from mural_jax.data.sources import columns, tables
from mural_jax.data.sources.columns import TextColumn
from mural_jax.data.sources.reader import Example, Reader
from mural_jax.data.sources.tables import Row
from mural_jax.types import UserError


def short_name(path: str, paths: Sequence[str]) -> str:
    """The path of a file below the folder that holds all `paths`: the same on every machine."""
    return Path(path).relative_to(os.path.commonpath([Path(p).parent for p in paths])).as_posix()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PairTable(Reader):
    """Translations in a table, one row each: Parquet, TSV, CSV or JSON lines, plain or gzipped.

    Either each language has its own column, as in NLLB-Seed or Multi30k, or one column says the
    language of another. Published TSV files of aligned sentences, such as WikiMatrix (score, text,
    text), often have no header line: give the names of their columns with --columns.

    table: The table, or a pattern of files such as DIR/*.tsv.
    texts: COLUMN[:KIND[:LANGUAGE]] for each column with texts (a string or a list of strings).
        @COLUMN is the value of another column, @COLUMN.N its part N between hyphens. * is every
        column of strings that --split_column, --id and --where do not name, each in the language
        of its name.
    language: Language of the columns for which --texts gives none.
    kind: Kind of the columns for which --texts gives none.
    split: Split of all rows, or of the rows with an empty split column.
    split_column: Column with the split of each row.
    id: Columns whose values together are the id of a row; rows with the same id are never each
        other's negatives. Without the flag every row has an id of its own (file and row number).
    where: COLUMN=VALUE conditions; only the rows that fulfil all of them are read.
    columns: Names of the columns, in order, of a TSV or CSV file without a header line.
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
        files_by_split: dict[str, list[str]] = {}
        for file in self._files():
            for split in sorted(self._splits_of(file)):
                files_by_split.setdefault(split, []).append(file)
        if not files_by_split:
            raise UserError(f'No row of {self.table} fulfils --where {" ".join(self.where)}.')
        return files_by_split

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        texts = self._text_columns(part)
        # Only these columns are read, which saves most of the time for wide Parquet tables.
        needs = [name for column in texts for name in column.required_columns]
        name = short_name(part, self._files())
        for number, row in enumerate(self._read_rows(part, needs)):
            if self._is_in_split(row, split):
                yield Example(
                    id=columns.join_id(row, self.id) if self.id else f'{name}:{number}',
                    texts=[
                        text
                        for column in texts or self._columns_of_row(row)
                        for text in column.read_texts(row)
                    ],
                    where=f'{part}, row {number + 1}',
                )

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """As in Reader; no row is read if the flags give the language and kind of every column."""
        texts = [column for file in self._files() for column in self._text_columns(file)]
        words = [word for column in texts for word in (column.language, column.kind)]
        if not words or any(word.startswith('@') for word in words):
            return super().vocabulary()
        languages = {column.language for column in texts}
        return (sorted(set(self.languages) or languages), sorted({column.kind for column in texts}))

    def _files(self) -> list[str]:
        return tables.find_files(self.table, 'table')

    def _read_rows(self, file: str, needs: Sequence[str]) -> Iterator[Row]:
        # Without needs the languages are unknown yet, so all columns are read.
        wanted = dict.fromkeys([*needs, *self._columns_without_text()]) if needs else {}
        return tables.read_rows(file, list(wanted), self.columns)

    def _columns_without_text(self) -> list[str]:
        """The columns that describe the row and hold no text."""
        conditions = columns.condition_columns(self.where)
        return [*filter(None, [self.split_column]), *self.id, *conditions]

    def _text_columns(self, file: str) -> list[TextColumn]:
        """The text columns of a file; none if each row has its own, as JSON objects can."""
        if self.texts != ('*',):
            return columns.parse_text_columns(self.texts, (), self.kind, self.language)
        if tables.suffix(file) == '.jsonl':
            return []
        others = self._columns_without_text()
        names = [n for n in tables.list_text_columns(file, self.columns) if n not in others]
        if len(names) < 2:
            raise UserError(f'{file} has fewer than two columns of texts: {names}. Give --texts.')
        return columns.parse_text_columns(self.texts, names, self.kind, '')

    def _columns_of_row(self, row: Row) -> list[TextColumn]:
        names = [
            name
            for name, value in row.items()
            if name not in self._columns_without_text() and isinstance(value, str | list)
        ]
        return columns.parse_text_columns(self.texts, names, self.kind, '')

    def _splits_of(self, file: str) -> set[str]:
        # Without conditions every row has the same split, and the file need not be read.
        if not self.split_column and not self.where:
            return {self.split}
        rows = self._read_rows(file, self._columns_without_text())
        return {
            columns.find_split(row, self.split_column, self.split)
            for row in rows
            if columns.fulfils_conditions(row, self.where)
        }

    def _is_in_split(self, row: Row, split: str) -> bool:
        return (
            columns.fulfils_conditions(row, self.where)
            and columns.find_split(row, self.split_column, self.split) == split
        )
