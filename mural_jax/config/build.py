"""Builds objects from config nodes, and compares configs.

A node is a dict of plain values and further nodes. Its keys are the arguments of a class or a
function; the key `kind` picks which one, from the literal table of a package.
"""

import dataclasses
import difflib
import inspect
import typing
from collections.abc import Callable, Mapping
from typing import Any

from mural_jax.types import UserError

Node = Mapping[str, Any]


def lists_to_tuples(value: Any) -> Any:
    """A config value with all its lists as tuples, at every depth.

    Config files have tuples, and JSON turns them into lists: so both compare alike.
    """
    if isinstance(value, Mapping):
        return {key: lists_to_tuples(item) for key, item in value.items()}
    return tuple(map(lists_to_tuples, value)) if isinstance(value, list | tuple) else value


def build(table: Mapping[str, Callable], node: Node, where: str, **given: Any) -> Any:
    """The object that a node with a `kind` describes.

    Args:
    table: classes or functions by kind.
    node: the kind, and the arguments.
    where: place of the node in the config, for messages.
    given: arguments that do not come from the config.

    Raises UserError for an unknown kind, an unknown or missing key, or a value of another type.
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
    """The result of `call` with the keys of a node as arguments.

    Checks each key by name and each value by the type hint of its argument; a node for an argument
    that is a dataclass becomes that dataclass. Raises UserError as `build` does.
    """
    parameters = list_arguments(call)
    hints = typing.get_type_hints(call.__init__ if inspect.isclass(call) else call)
    from_config = [name for name in parameters if name not in given]
    for key in node:
        if key not in from_config:
            raise UserError(f'{_name_place(where)} has no key {key!r}.{nearest(key, from_config)}')
    for name in from_config:
        if parameters[name].default is inspect.Parameter.empty and name not in node:
            raise UserError(f'{_name_place(where)} lacks the key {name!r}.')
    arguments = {
        key: _check_type(value, hints.get(key), f'{where}.{key}') for key, value in node.items()
    }
    return call(**arguments, **given)


def _name_place(where: str) -> str:
    return f'config.{where}' if where else 'config'


def list_arguments(call: Callable) -> dict[str, inspect.Parameter]:
    """The parameters of a function, or of the constructor of a class."""
    if not inspect.isclass(call):
        return dict(inspect.signature(call).parameters)
    # Not the signature of the class itself: a metaclass such as that of NNX hides the arguments.
    parameters = dict(inspect.signature(call.__init__).parameters)
    return {name: value for name, value in parameters.items() if name != 'self'}


def _check_type(value: Any, hint: Any, where: str) -> Any:
    """The value in the form of its type hint. Raises UserError if it has another type."""
    if dataclasses.is_dataclass(hint) and isinstance(value, Mapping):
        return make(typing.cast(Callable, hint), value, where)
    # A mapping from names to dataclasses.
    inner = typing.get_args(hint)[1:]
    if inner and dataclasses.is_dataclass(inner[0]) and isinstance(value, Mapping):
        return {key: _check_type(item, inner[0], f'{where}.{key}') for key, item in value.items()}
    if hint is float and type(value) is int:
        return float(value)
    # By the exact type: to `isinstance`, True is an int.
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
    """Raises UserError if a config names something that is not in the table."""
    if name not in table:
        raise UserError(f'config.{where} names {name!r}.{nearest(name, table)}')


def nearest(name: str, known: Any) -> str:
    """The end of a message: ' Did you mean ...?', or all that is known if nothing is similar."""
    known = [str(key) for key in known]
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if not close:
        # A field by its own name alone, without the nodes above it.
        tails = {key.split('.')[-1]: key for key in known}
        close = difflib.get_close_matches(name.split('.')[-1], tails, n=1, cutoff=0.5)
        close = [tails[tail] for tail in close]
    return f' Did you mean {close[0]!r}?' if close else f' There are: {", ".join(sorted(known))}.'


def list_differences(ours: Node, theirs: Node) -> list[str]:
    """One line `field: ours != theirs` for each field that differs, sorted by field."""
    left, right = flatten_node(ours), flatten_node(theirs)
    absent = object()  # equal to no value of a config
    lines = []
    for key in sorted(left.keys() | right.keys()):
        a, b = left.get(key, absent), right.get(key, absent)
        # A node that only one config has shows by its fields.
        if isinstance(a, Mapping) or isinstance(b, Mapping) or a == b:
            continue
        words = ['absent' if value is absent else repr(value) for value in (a, b)]
        lines.append(f'{key}: {words[0]} != {words[1]}')
    return lines


def flatten_node(node: Node, prefix: str = '') -> dict[str, Any]:
    """All fields and nodes below a node by their dotted names."""
    flat: dict[str, Any] = {}
    for key, value in node.items():
        flat[f'{prefix}{key}'] = value
        if isinstance(value, Mapping):
            flat |= flatten_node(value, f'{prefix}{key}.')
    return flat
