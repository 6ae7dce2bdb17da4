"""What published layouts share: aligned lines, lists in JSON files, splits in files' names."""

import json
import re
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from mural_jax.data.sources import tables
from mural_jax.data.sources.reader import Text
from mural_jax.types import UserError

Entry = dict[str, Any]


def find_files(patterns: Sequence[str], what: str) -> list[str]:
    found = [file for pattern in patterns for file in tables.find_files(pattern, f'file of {what}')]
    if not found:
        raise UserError(f'Give --{what}, the files or patterns of them.')
    return found


def group_by_split(files: Sequence[str], split: str) -> dict[str, list[str]]:
    """The files of each split; of `split` where it is given, else of what their names say."""
    found: dict[str, list[str]] = {}
    for file in files:
        said = re.search('train|val|test', Path(file).name)
        if not split and not said:
            raise UserError(f'Of which split is {file}? Its name does not say; give --split.')
        found.setdefault(split or said[0], []).append(file)  # type: ignore[index]
    return found


def read_lines(path: str) -> Iterator[str]:
    """The lines of a text file, ended by line feeds only, so that they stay aligned."""
    try:
        with tables.open_text(path, newline='\n') as file:
            for line in tables.read_lines(file, path):
                yield line.removesuffix('\n').removesuffix('\r')
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'Cannot read {path} ({error}). Is the file whole?') from error


def pair_names_with_lines(names: Sequence[str], path: str) -> Iterator[tuple[str, str]]:
    """(name, line) of a file with a line for each name."""
    number = -1
    for number, line in enumerate(read_lines(path)):
        if number < len(names):
            yield names[number], line
    if number + 1 != len(names):
        raise UserError(
            f'{path} has {number + 1} lines, but there are {len(names)} pictures: '
            'which line belongs to which? Give files of one release.'
        )


def read_entries(path: str, key: str) -> Iterator[tuple[str, Entry]]:
    """(where, entry) of a list in a JSON file; an entry that is no object is an empty one."""
    try:
        with tables.open_text(path) as file:
            content = json.load(file)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise UserError(f'{path} is not readable JSON ({error}). Is the file whole?') from error
    listed = content.get(key) if isinstance(content, dict) else None
    if not isinstance(listed, list):
        raise UserError(f'{path} has no list "{key}". Is it the file that was published?')
    for number, entry in enumerate(listed, 1):
        yield f'{path}, {key} {number}', entry if isinstance(entry, dict) else {}


def select_dicts(value: Any) -> list[Entry]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def make_captions(texts: Any, language: str) -> list[Text]:
    """Texts of kind 'caption', of what is a list of strings."""
    found = texts if isinstance(texts, list) else []
    return [(language, 'caption', text) for text in found if isinstance(text, str)]
