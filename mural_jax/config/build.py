"""Configs: a file becomes a ConfigDict, and here, and nowhere else, that becomes objects.

A config file has `get_config(arg)` returning an `ml_collections.ConfigDict` of plain values and
dicts. A dict with a `kind` is one row of a table below; its other keys are arguments.
"""

import dataclasses
import difflib
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

from mural_jax.types import UserError

Node = Mapping[str, Any]


def lists_to_tuples(value: Any) -> Any:
    """Lists as tuples, all the way down, so that configs compare and hash alike."""
    if isinstance(value, Mapping):
        return {key: lists_to_tuples(item) for key, item in value.items()}
    return tuple(map(lists_to_tuples, value)) if isinstance(value, list | tuple) else value


def build(table: Mapping[str, Callable], node: Node, where: str, **given: Any) -> Any:
    """The object that a node with a `kind` names. `where` is its place, for messages.

    `given` are arguments that do not come from the config. Raises UserError for an unknown
    kind, an unknown or missing key, or a value of another type.
    """
    if 'kind' not in node:
        raise UserError(f'config.{where} needs a kind, one of {sorted(table)}.')
    kind = node['kind']
    if kind not in table:
        raise UserError(
            f'config.{where}.kind={kind!r} is not known; there are {sorted(table)}.'
            f'{nearest(kind, table)}'
        )
    rest = {key: value for key, value in node.items() if key != 'kind'}
    return make(table[kind], rest, where, **given)


def make(call: Callable, node: Node, where: str, **given: Any) -> Any:
    """`call` with a node's keys as arguments, each checked by name and by type."""
    parameters = arguments_of(call)
    hints = typing.get_type_hints(call.__init__ if inspect.isclass(call) else call)
    open_to = [name for name in parameters if name not in given]
    for key in node:
        if key not in open_to:
            raise UserError(f'{_place(where)} has no key {key!r}.{nearest(key, open_to)}')
    for name in open_to:
        if parameters[name].default is inspect.Parameter.empty and name not in node:
            raise UserError(f'{_place(where)} lacks the key {name!r}.')
    arguments = {
        key: _typed(value, hints.get(key), f'{where}.{key}') for key, value in node.items()
    }
    return call(**arguments, **given)


def _place(where: str) -> str:
    return f'config.{where}' if where else 'config'


def arguments_of(call: Callable) -> dict[str, inspect.Parameter]:
    """The arguments of a function, or of what makes an object of a class."""
    if not inspect.isclass(call):
        return dict(inspect.signature(call).parameters)
    # Not the signature of the class: a metaclass such as NNX's hides the arguments.
    parameters = dict(inspect.signature(call.__init__).parameters)
    return {name: value for name, value in parameters.items() if name != 'self'}


def _typed(value: Any, hint: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return make(typing.cast(Callable, hint), value, where)
    inner = typing.get_args(hint)[1:]
    if inner and dataclasses.is_dataclass(inner[0]) and isinstance(value, Mapping):
        return {key: _typed(item, inner[0], f'{where}.{key}') for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    if hint in (int, float, str, bool) and type(value) is not hint:
        raise UserError(
            f'config.{where}={value!r} is {type(value).__name__}, it must be {hint.__name__}.'
        )
    origin = hint if isinstance(hint, type) else typing.get_origin(hint)
    if origin is tuple and not isinstance(value, tuple):
        raise UserError(f'config.{where}={value!r} must be a list.')
    if origin in (dict, Mapping) and not isinstance(value, Mapping):
        raise UserError(f'config.{where}={value!r} must be a dict.')
    return value


def check_known(name: str, table: Mapping[str, Any], where: str) -> None:
    """Raises UserError where a config names what is not there."""
    if name not in table:
        raise UserError(f'config.{where} names {name!r}.{nearest(name, table)}')


def nearest(name: str, known: Any) -> str:
    """' Did you mean ...?', or what there is where nothing is near."""
    known = [str(key) for key in known]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:
        tails = {key.split('.')[-1]: key for key in known}
        close = difflib.get_close_matches(name.split('.')[-1], tails, n=1, cutoff=0.5)
        close = [tails[tail] for tail in close]
    return f' Did you mean {close[0]!r}?' if close else f' There are: {", ".join(sorted(known))}.'


def list_differences(ours: Node, theirs: Node) -> list[str]:
    """One line for each field that differs, `field: ours != theirs`."""
    left, right = flatten(ours), flatten(theirs)
    absent = types.SimpleNamespace()
    lines = []
    for key in sorted(left.keys() | right.keys()):
        a, b = left.get(key, absent), right.get(key, absent)
        if isinstance(a, Mapping) or isinstance(b, Mapping) or a == b:
            continue
        words = ['absent' if value is absent else repr(value) for value in (a, b)]
        lines.append(f'{key}: {words[0]} != {words[1]}')
    return lines


def flatten(node: Node, prefix: str = '') -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat[f'{prefix}{key}'] = value
        if isinstance(value, Mapping):
            flat |= flatten(value, f'{prefix}{key}.')
    return flat
