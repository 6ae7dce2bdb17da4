"""What published layouts share: aligned lines, lists in JSON files, splits in file names."""

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
    """The files that match any of the patterns.

    Args:
      what: Name of the flag that gave the patterns, for the error message.

    Raises:
      UserError: There are no patterns, or one of them matches no file.
    """
    files = [file for pattern in patterns for file in tables.find_files(pattern, f'file of {what}')]
    if not files:
        raise UserError(f'Give --{what}, the files or patterns of them.')
    return files


def group_by_split(files: Sequence[str], split: str) -> dict[str, list[str]]:
    """The files of each split.

    Args:
      split: The split of all files; if empty, the name of each file tells its split.

    Raises:
      UserError: `split` is empty and the name of a file says neither train, val nor test.
    """
    groups: dict[str, list[str]] = {}
    for file in files:
        match = re.search('train|val|test', Path(file).name)
        if not split and not match:
            raise UserError(
                f'The name of {file} says neither train, val nor test. Give its split with --split.'
            )
        groups.setdefault(split or match[0], []).append(file)  # type: ignore[index]
    return groups


def read_lines(path: str) -> Iterator[str]:
    """Yields the lines of a text file without their ends.

    Only line feeds end a line, so that the lines stay aligned with those of other files.
    """
    with tables.explain_read_errors(path), tables.open_text(path, newline='\n') as file:
        for line in tables.read_lines(file, path):
            yield line.removesuffix('\n').removesuffix('\r')


def pair_names_with_lines(names: Sequence[str], path: str) -> Iterator[tuple[str, str]]:
    """Yields (name, line) for a file with one line for each name.

    Raises:
      UserError: The file has more or fewer lines than there are names.
    """
    number = -1  # An empty file has no line 0.
    # The file is read to its end even if there are too many lines, to count them for the message.
    for number, line in enumerate(read_lines(path)):
        if number < len(names):
            yield names[number], line
    if number + 1 != len(names):
        raise UserError(
            f'{path} has {number + 1} lines, but there are {len(names)} images, so it is unknown '
            'which line belongs to which image. Give files of one release.'
        )


def read_entries(path: str, key: str) -> Iterator[tuple[str, Entry]]:
    """Yields (where, entry) for the list under a key of a JSON file.

    An entry that is not an object is yielded as an empty one.

    Raises:
      UserError: The file is not readable JSON, or has no such list.
    """
    try:
        with tables.open_text(path) as file:
            content = json.load(file)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise UserError(f'{path} is not readable JSON ({error}). Is the file complete?') from error
    # The file may be any JSON: nothing about its content is certain yet.
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise UserError(f'{path} has no list "{key}". Is it the published file?')
    for number, entry in enumerate(entries, 1):
        yield f'{path}, {key} {number}', entry if isinstance(entry, dict) else {}


def select_dicts(value: Any) -> list[Entry]:
    """The objects in a list; empty if the value is no list."""
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def make_captions(texts: Any, language: str) -> list[Text]:
    """Texts of kind 'caption' from the strings in a list; empty if the value is no list."""
    listed = texts if isinstance(texts, list) else []
    return [(language, 'caption', text) for text in listed if isinstance(text, str)]
