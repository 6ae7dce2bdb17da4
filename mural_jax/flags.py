"""Flags of the command line from the fields of a dataclass, with the help of its docstring."""

import argparse
import dataclasses
import inspect
import re
import typing
from typing import Any

_FIELD = re.compile(r'^(\w+): ')


def add(parser: argparse._ArgumentGroup, kind: type) -> None:
    """Adds a flag for each field: text, number, switch, or several texts."""
    helps, hints = _helps(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        needed = field.default is dataclasses.MISSING
        words: dict[str, Any] = {'dest': _dest(field.name), 'help': helps.get(field.name, '')}
        words |= {'required': True} if needed else {'default': field.default}
        if hints[field.name] is bool:
            words['action'] = argparse.BooleanOptionalAction
        elif hints[field.name] in (int, float, str):
            words |= {'type': hints[field.name], 'metavar': field.name.upper()}
        else:
            words |= {'nargs': '+', 'metavar': field.name.upper()}
        if not needed and field.default not in ('', (), False):
            words['help'] += f' (default: {_shown(field.default)})'
        words['help'] = words['help'].replace('%', '%%')
        parser.add_argument(f'--{field.name}', **words)


def build(kind: type, arguments: argparse.Namespace) -> Any:
    """The object that the flags describe."""
    values = {field.name: getattr(arguments, _dest(field.name)) for field in
              dataclasses.fields(kind)}  # fmt: skip
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})


def _dest(name: str) -> str:
    # Apart from flags of the same name that belong to the verb.
    return f'field_{name}'


def _shown(default: Any) -> str:
    return ' '.join(map(str, default)) if isinstance(default, tuple) else str(default)


def _helps(kind: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each field."""
    helps: dict[str, str] = {}
    for base in reversed(kind.__mro__):
        field = ''
        for line in (inspect.cleandoc(base.__doc__ or '')).splitlines():
            match = _FIELD.match(line)
            if match and match[1] in {f.name for f in dataclasses.fields(kind)}:
                field = match[1]
                helps[field] = line[match.end() :]
            elif field and line.strip():
                helps[field] += f' {line.strip()}'
            else:
                field = ''
    return helps
