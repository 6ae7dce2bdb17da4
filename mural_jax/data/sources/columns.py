"""Which columns of a table hold texts, in which language and of which kind."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from mural_jax.data.sources.reader import Text
from mural_jax.data.sources.tables import Row
from mural_jax.types import UserError

TEXTS_HELP = (
    'COLUMN[:KIND[:LANGUAGE]] of each column with texts (a string or a list of strings). '
    '@COLUMN stands for the value of another column, @COLUMN.N for its part N between hyphens; '
    '* for every column, each in the language of its name.'
)


@dataclasses.dataclass(frozen=True)
class TextColumn:
    """One column with texts; `kind` and `language` may refer to other columns by @."""

    name: str
    kind: str
    language: str

    @classmethod
    def of(cls, words: str, kind: str, language: str) -> 'TextColumn':
        """Of COLUMN[:KIND[:LANGUAGE]]; what is left out is `kind` and `language`."""
        name, *rest = words.split(':')
        if not name or len(rest) > 2:
            raise UserError(f'--texts {words} must be COLUMN[:KIND[:LANGUAGE]].')
        given = [*rest, '', ''][:2]
        return cls(name, given[0] or kind, given[1] or language)

    def texts(self, row: Row) -> Iterator[Text]:
        """The texts of this column in a row; none where it is null."""
        value = row.get(self.name)
        for text in value if isinstance(value, list | tuple) else [value]:
            if text is not None:
                yield resolve_word(self.language, row), resolve_word(self.kind, row), str(text)

    @property
    def needs(self) -> list[str]:
        """The columns of the table that this one reads."""
        referred = [
            word[1:].split('.')[0] for word in (self.kind, self.language) if word[:1] == '@'
        ]
        return [self.name, *referred]


def resolve_word(word: str, row: Row) -> str:
    """The word itself, or what @COLUMN or @COLUMN.N stands for in a row."""
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
    """The text columns that `--texts` names; `names` are all columns of the table, for *."""
    if tuple(words) == ('*',):
        return [TextColumn(name, kind, name) for name in names]
    columns = [TextColumn.of(word, kind, language) for word in words]
    if any(not column.language for column in columns):
        raise UserError(
            'In which language are the texts? Give --language, or --texts COLUMN:KIND:LANGUAGE.'
        )
    return columns


def fulfils_conditions(row: Row, conditions: Sequence[str]) -> bool:
    """Whether a row fulfils all of COLUMN=VALUE; a missing column never does."""
    return all(
        str(row.get(name)) == value
        for name, _, value in (condition.partition('=') for condition in conditions)
    )


def join_id(row: Row, names: Sequence[str]) -> str:
    """The values of the columns that name an example, joined by '/'."""
    return '/'.join(str(row.get(name)) for name in names)


def parse_class_number(value: Any) -> int:
    """A class number; -1 where there is none."""
    try:
        return int(value)
    except (TypeError, ValueError, OverflowError):
        return -1
