"""Flags of the command line from the fields of a dataclass, with the help of its docstring."""

import argparse
import dataclasses
import inspect
import os
import re
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mural_jax.types import UserError

DATA_DIR = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
CONFIG_HELP = (
    'FILE[:arg], a path or the name of a config of the package, such as emoji:mural; '
    'any field is set with --config.field.field=VALUE'
)
_FIELD = re.compile(r'^(\w+): ')


def verb(
    verbs: argparse._SubParsersAction, name: str, run: Callable, text: str
) -> argparse.ArgumentParser:
    """Adds a verb, whose function takes the arguments and may return an exit code."""
    # Without abbreviations, or --conf.x=1 would be taken for --config.
    parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(verb=run)
    return parser


def common(parser: argparse.ArgumentParser, **wanted: bool) -> None:
    """Adds the flags that many verbs have: config, workdir, data_dir, step."""
    if wanted.get('config'):
        parser.add_argument('--config', required=True, help=CONFIG_HELP)
    if wanted.get('workdir'):
        parser.add_argument('--workdir', required=True, type=Path, help='the folder of the run')
    if wanted.get('data_dir'):
        parser.add_argument(
            '--data_dir', type=Path, default=Path(DATA_DIR),
            help='the folder of prepared data (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)',
        )  # fmt: skip
    if wanted.get('step'):
        parser.add_argument('--step', type=int, help='which checkpoint (default: the newest)')


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


def add_scored(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `mural evaluate`; `scored` says which go together."""
    one = parser.add_argument_group('what is scored, one of these')
    one.add_argument('--workdir', type=Path, help='the folder of a run')
    one.add_argument(
        '--model', help='of another library: open_clip:NAME:PRETRAINED or transformers:FOLDER; '
        'with --config and --out',
    )  # fmt: skip
    one.add_argument(
        '--images', type=Path, metavar='FILE', help='embeddings: a table .parquet with the columns '
        'id, embedding, or an array .npy; with --texts and --out',
    )  # fmt: skip
    one.add_argument(
        '--texts', type=Path, metavar='FILE', help='of images: a table .parquet with the columns '
        'id (of the image), language, embedding and perhaps kind, or an array .npy, row by row',
    )  # fmt: skip
    one.add_argument('--language', default='', help='of texts in an array (default: en)')
    one.add_argument('--out', type=Path, help='where scores go that are of no run: OUT/eval/0.json')
    parser.add_argument('--step', help="which checkpoint, or 'all' (default: the newest)")
    parser.add_argument(
        '--config', help='FILE[:arg], whose evaluators and languages are taken, such as '
        'evaluation:flores; fields are set with --config.field=VALUE (default: those of the run)'
    )  # fmt: skip
    parser.add_argument(
        '--only', nargs='+', default=[], metavar='EVALUATOR', help='these alone (default: all)'
    )
    parser.add_argument(
        '--force', action='store_true', help='score again what was scored by the same protocol'
    )


# Flags of `mural evaluate` beside --force and --data_dir, by what is scored: (needed, may be).
_SCORED = {
    'workdir': ((), ('step', 'config', 'only')),
    'model': (('config', 'out'), ('only',)),
    'images': (('texts', 'out'), ('language',)),
}


def scored(arguments: argparse.Namespace) -> str:
    """What is scored: 'workdir', 'model' or 'images'.

    Raises UserError where that is not one thing, or flags do not go with it.
    """
    given = [name for name in _SCORED if getattr(arguments, name)]
    if len(given) != 1:
        said = f'--{" and --".join(given)} are given' if given else 'none is given'
        raise UserError(
            'What is scored? Give one of --workdir=RUN, --model=NAME, or --images=FILE with '
            f'--texts=FILE; {said}.'
        )
    needed, others = _SCORED[given[0]]
    missing = [name for name in needed if not getattr(arguments, name)]
    if missing:
        raise UserError(f'--{given[0]} needs --{" and --".join(missing)} too.')
    known = {name for pair in _SCORED.values() for names in pair for name in names}
    wrong = sorted(n for n in known - {*needed, *others} if getattr(arguments, n))
    if wrong:
        raise UserError(f'--{" and --".join(wrong)} do not go with --{given[0]}. Leave them out.')
    return given[0]


def add_planned(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `mural plan`: for which devices."""
    parser.add_argument(
        '--topology', required=True, help='such as v4:4x4x8, v5e:16x16, v5p:4x4x4, v6e:16x16, '
        'cpu:8, or gpu for the GPUs of this machine',
    )  # fmt: skip
    parser.add_argument(
        '--search', action='store_true', help='where it does not fit, look for settings that do'
    )
    parser.add_argument('--memory_gib', type=float, help='of one device (default: of its kind)')
    parser.add_argument('--json', type=Path, help='all numbers, as a file')


def add_reported(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `mural report`: whose page it is and where it goes."""
    runs = parser.add_mutually_exclusive_group(required=True)
    runs.add_argument('--workdir', type=Path, help='the folder of the run')
    runs.add_argument(
        '--workdirs', nargs='+', metavar='A,B', help='the folders of several runs; the others are '
        'compared with the first'
    )  # fmt: skip
    parser.add_argument(
        '--out', type=Path,
        help='the page (default: WORKDIR/report.html; of several runs report.html, here)',
    )  # fmt: skip


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
