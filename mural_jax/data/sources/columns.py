"""Which columns of a table hold texts, and the language and kind of these texts."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from mural_jax.data.sources.reader import Text
from mural_jax.data.sources.tables import Row
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class TextColumn:
    """One column with texts.

    name: Name of the column.
    kind, language: A word, or @COLUMN or @COLUMN.N for a value of the same row.
    """

    name: str
    kind: str
    language: str

    @classmethod
    def parse(cls, words: str, kind: str, language: str) -> 'TextColumn':
        """The column that COLUMN[:KIND[:LANGUAGE]] describes.

        `kind` and `language` are the defaults for the parts that are left out.

        Raises:
          UserError: `words` has another form.
        """
        name, *rest = words.split(':')
        if not name or len(rest) > 2:
            raise UserError(f'--texts {words} must be COLUMN[:KIND[:LANGUAGE]].')
        # Missing parts are empty, and so are parts that are left empty, as in COLUMN::LANGUAGE.
        given = [*rest, '', ''][:2]
        return cls(name, given[0] or kind, given[1] or language)

    def read_texts(self, row: Row) -> Iterator[Text]:
        """Yields the texts of this column in a row: one, several for a list, none for null."""
        value = row.get(self.name)
        for text in value if isinstance(value, list | tuple) else [value]:
            if text is not None:
                yield resolve_word(self.language, row), resolve_word(self.kind, row), str(text)

    @property
    def required_columns(self) -> list[str]:
        """The columns of the table that this column needs: itself and those it refers to."""
        referred = [
            word[1:].split('.')[0] for word in (self.kind, self.language) if word[:1] == '@'
        ]
        return [self.name, *referred]


def resolve_word(word: str, row: Row) -> str:
    """The word itself, or the value in the row that @COLUMN or @COLUMN.N refers to.

    @COLUMN.N is part N of the value, which hyphens divide; empty if there are fewer parts.
    """
    if not word.startswith('@'):
        return word
    name, _, number = word[1:].partition('.')
    value = str(row.get(name) or '')
    if not number:
        return value
    parts = value.split('-')
    return parts[int(number)] if number.isdigit() and int(number) < len(parts) else ''


def parse_text_columns(
    words: Sequence[str], names: Sequence[str], kind: str, language: str
) -> list[TextColumn]:
    """The text columns that the flag --texts describes.

    Args:
      words: The words after --texts, each COLUMN[:KIND[:LANGUAGE]], or '*' alone.
      names: The columns that '*' stands for, each in the language of its name.
      kind: The kind of texts for words without one.
      language: The language for words without one.

    Raises:
      UserError: A word has another form, or the language of a column is unknown.
    """
    if tuple(words) == ('*',):
        # The columns are named after languages.
        return [TextColumn(name, kind, name) for name in names]
    columns = [TextColumn.parse(word, kind, language) for word in words]
    if any(not column.language for column in columns):
        raise UserError(
            'The language of the texts is unknown. Give --language, or '
            '--texts COLUMN:KIND:LANGUAGE.'
        )
    return columns


def fulfils_conditions(row: Row, conditions: Sequence[str]) -> bool:
    """Whether a row fulfils all conditions COLUMN=VALUE; a missing column fulfils none."""
    return all(
        str(row.get(name)) == value
        for name, _, value in (condition.partition('=') for condition in conditions)
    )


def condition_columns(conditions: Sequence[str]) -> list[str]:
    """The columns that the conditions COLUMN=VALUE compare."""
    return [condition.partition('=')[0] for condition in conditions]


def find_split(row: Row, split_column: str, default: str) -> str:
    """The split in a row's split column; `default` if there is no column or it is empty."""
    value = row.get(split_column) if split_column else None
    return default if value in (None, '') else str(value)


def join_id(row: Row, names: Sequence[str]) -> str:
    """The id of an example: the values of the given columns, joined by '/'."""
    return '/'.join(str(row.get(name)) for name in names)


def parse_class_number(value: Any) -> int:
    """A value as a class number, or -1 if it is none."""
    try:
        # OverflowError is raised for infinity, ValueError for NaN and for words.
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return -1
