"""Flags made from the fields of a dataclass."""

import argparse
import dataclasses
import inspect
import re
import typing
from typing import Any

_FIELD = re.compile(r'^(\w+): ')


def add_fields(parser: argparse._ArgumentGroup, kind: type) -> None:
    """Adds one flag for each field of a dataclass; `build_from_fields` reads them.

    A field is a text, a number, a switch, or a tuple of texts. Its help comes from the line
    `FIELD: TEXT` of the docstring.
    """
    # Types may be written as texts, which `dataclasses.fields` does not resolve.
    helps, hints = _read_field_helps(kind), typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        required = field.default is dataclasses.MISSING
        options: dict[str, Any] = {'dest': _dest(field.name), 'help': helps.get(field.name, '')}
        options |= {'required': True} if required else {'default': field.default}
        if hints[field.name] is bool:
            options['action'] = argparse.BooleanOptionalAction
        elif hints[field.name] in (int, float, str):
            options |= {'type': hints[field.name], 'metavar': field.name.upper()}
        else:
            options |= {'nargs': '+', 'metavar': field.name.upper()}
        if not required and field.default not in ('', (), False):
            default = _format_default(field.default)
            options['help'] = f'{options["help"].removesuffix(".")} (default: {default}).'
        # argparse formats help texts with the % operator.
        options['help'] = options['help'].replace('%', '%%')
        parser.add_argument(f'--{field.name}', **options)


def build_from_fields(kind: type, arguments: argparse.Namespace) -> Any:
    """The dataclass object that the flags of `add_fields` describe."""
    values = {
        field.name: getattr(arguments, _dest(field.name)) for field in dataclasses.fields(kind)
    }
    # argparse returns lists, but fields are hashable.
    return kind(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
    )


def _dest(name: str) -> str:
    # The prefix keeps a field apart from a flag of the verb with the same name.
    return f'field_{name}'


def _format_default(default: Any) -> str:
    return ' '.join(map(str, default)) if isinstance(default, tuple) else str(default)


def _read_field_helps(kind: type) -> dict[str, str]:
    """The text on each field in the docstrings of a class and its bases, as a sentence."""
    fields = {field.name for field in dataclasses.fields(kind)}
    helps: dict[str, str] = {}
    # Bases first, so that a class can describe an inherited field anew.
    for base in reversed(kind.__mro__):
        field = ''
        for line in inspect.cleandoc(base.__doc__ or '').splitlines():
            match = _FIELD.match(line)
            if match and match[1] in fields:
                field = match[1]
                helps[field] = line[match.end() :]
            elif field and line.strip():
                helps[field] += f' {line.strip()}'
            else:
                # An empty line ends the text of a field.
                field = ''
    return {field: text[:1].upper() + text[1:] for field, text in helps.items()}
