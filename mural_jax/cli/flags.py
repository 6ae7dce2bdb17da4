"""Flags that several verbs share, and flags made from the fields of a dataclass."""

import argparse
import dataclasses
import inspect
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mural_jax.types import UserError

if TYPE_CHECKING:
    from mural_jax.search.searcher import Searcher

Verbs = argparse._SubParsersAction  # What argparse returns for the verbs of a parser.

DATA_DIR = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
# The keys of `search.finder.CANDIDATES`, whose module imports jax.
SEARCH_METHODS = ('exact', 'binary', 'faiss')
_FIELD = re.compile(r'^(\w+): ')


def add_verb(
    verbs: Verbs, name: str, run: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    """Adds a verb and returns its parser. `run` may return an exit code."""
    # argparse would otherwise read --conf.x=1 as an abbreviation of --config.
    parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(run=run)
    return parser


def user_path(word: str) -> Path:
    """The path that the user wrote, with `~` expanded."""
    return Path(word).expanduser()


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config, which the verb requires. `load_config` reads it."""
    parser.add_argument(
        '--config',
        required=True,
        metavar='FILE[:ARG]',
        help='Path of a config file, or the name of one that comes with the package, such as '
        'emoji:mural. --config.FIELD.FIELD=VALUE overrides any of its fields.',
    )


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """Adds --workdir, which the verb requires."""
    parser.add_argument('--workdir', required=True, type=user_path, help='Folder of the run.')


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds --data_dir."""
    parser.add_argument(
        '--data_dir',
        type=user_path,
        # A text, because argparse applies `type` to it as to the word of a user.
        default=DATA_DIR,
        help='Folder of the prepared data (default: $TFDS_DATA_DIR or ~/tensorflow_datasets).',
    )


def add_step(parser: argparse.ArgumentParser) -> None:
    """Adds --step, the number of one checkpoint."""
    parser.add_argument('--step', type=int, help='Step of the checkpoint (default: the newest).')


def add_searcher(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how an index is searched. `open_searcher` reads them."""
    parser.add_argument(
        '--model',
        type=user_path,
        help='Folder of the exported model, if it moved since the index was made.',
    )
    parser.add_argument(
        '--how',
        default='exact',
        choices=SEARCH_METHODS,
        help='Compare the query with every image, or find candidates first, by the signs of the '
        'embeddings (binary) or by faiss (default: exact).',
    )
    parser.add_argument(
        '--rerank',
        type=int,
        help='Number of candidates that are compared exactly (default: 5000 for binary, 200 for '
        'faiss).',
    )


def load_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """The config that --config names, with the --config.FIELD=VALUE overrides applied."""
    from mural_jax.config import load

    return load.load_config(arguments.config, arguments.overrides)


def open_searcher(arguments: argparse.Namespace) -> 'Searcher':
    """The index that --index names, with its model. Raises UserError for a wrong --rerank."""
    if arguments.rerank is not None and arguments.rerank < 1:
        raise UserError(f'--rerank {arguments.rerank} must be at least 1.')
    from mural_jax.search import searcher

    return searcher.open_searcher(arguments.index, arguments.model, arguments.how, arguments.rerank)


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
