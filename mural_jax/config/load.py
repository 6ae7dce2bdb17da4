"""Finds and reads config files, and applies overrides from the command line."""

from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from mural_jax.config.build import flatten_node, lists_to_tuples, nearest
from mural_jax.types import UserError

Config = dict[str, Any]  # Nested plain values: numbers, strings, tuples, dicts.


def load_config(argument: str, overrides: list[str]) -> dict[str, Any]:
    """The config of `FILE[:arg]` as nested dicts, with overrides applied.

    A config file has a function `get_config(arg)` that returns an `ml_collections.ConfigDict`.

    argument: FILE is a path, or the name of a config that comes with the package: `emoji` or
    `configs/emoji.py`. `arg` goes to `get_config`.
    overrides: `--config.any.field=value`, each for a field that the config has.

    Raises UserError for a missing file, an unknown field or a value of another type.
    """
    path, _, arg = argument.partition(':')
    argv = ['mural', f'--config={find_config_file(path)}' + (f':{arg}' if arg else '')]
    # Parsed once without overrides, so that an unknown field gets a message of ours.
    known = flatten_node(_parse_config(argv).to_dict())
    for override in overrides:
        field = override.split('=', 1)[0].removeprefix('--config.')
        if field not in known:
            raise UserError(f'The config {path} has no field {field!r}.{nearest(field, known)}')
        if '=' not in override:
            raise UserError(f'{override} gives no value; write {override}=VALUE.')
    return lists_to_tuples(_parse_config(argv + overrides).to_dict())


def find_config_file(path: str) -> Path:
    """The config file at a path, or by the name of one that comes with the package.

    Raises UserError if there is none.
    """
    package = Path(__file__).parents[1]
    name = f'{Path(path).stem}.py'
    # Installed, the configs are inside the package; in a checkout they stand beside it.
    places = [Path(path), package / 'configs' / name, package.parent / 'configs' / name]
    for place in places:
        if place.is_file():
            return place
    names = {file.stem for place in places[1:] for file in place.parent.glob('[a-z]*.py')}
    raise UserError(
        f'There is no config file {path}. Give a path, or one that comes with the package: '
        f'{", ".join(sorted(names))}.'
    )


def _parse_config(argv: list[str]) -> ConfigDict:
    values = flags.FlagValues()
    config_flags.DEFINE_config_file('config', flag_values=values, sys_argv=argv)
    try:
        values(argv)
        return values.config
    except (flags.Error, ValueError, TypeError, AttributeError, KeyError) as error:
        # An error inside the file comes as a traceback, whose last line is the message.
        text = str(error)
        text = text.strip().splitlines()[-1] if 'Traceback' in text else text
        raise UserError(f'{argv[-1]}: {text}') from error
