"""Which differences are allowed between a config and the run that it continues."""

import dataclasses
import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from mural_jax.config.build import list_differences, lists_to_tuples
from mural_jax.config.changes import MayChange
from mural_jax.config.load import Config
from mural_jax.data.streams.catalog import STREAMS
from mural_jax.distributed import processes
from mural_jax.evaluation.evaluators.catalog import EVALUATORS
from mural_jax.models.build import BUILDERS
from mural_jax.models.catalog import TOWERS
from mural_jax.runs.run import Run
from mural_jax.tasks.catalog import DEFAULT_KIND, TASKS
from mural_jax.types import UserError
from mural_jax.workdir.files import read_config

# Tables of the nodes whose keys depend on their kind, by the key above them.
_TABLES: Mapping[str, Mapping[str, Any]] = {
    'streams': STREAMS,
    'tasks': TASKS,
    'evaluators': EVALUATORS,
    'towers': TOWERS,
}


def check_changes(workdir: Path, config: Config) -> None:
    """Raises UserError where the workdir belongs to a run of another config; writes nothing.

    Prints the differences that are allowed, such as other weights of sources or other devices.
    """
    if not (workdir / 'config.json').exists():
        return
    lines = list_differences(lists_to_tuples(read_config(workdir)), config)
    effects = [find_effect(config, line.split(': ', 1)[0].split('.')) for line in lines]
    shown = '\n  '.join(lines)
    if not all(effects):
        raise UserError(
            f'{workdir} belongs to a run of another config. It differs in (its value != yours):\n  '
            f'{shown}\nGive another --workdir, or the config of that run. Nothing was changed.'
        )
    for effect in dict.fromkeys(effect for effect in effects if effect):
        processes.say(f'From the newest checkpoint on, {effect.effect}.')
    if lines:
        processes.say(f'The config differs in (its value != yours):\n  {shown}')


def find_effect(config: Config, path: Sequence[str]) -> MayChange | None:
    """What a change of the field at `path` means for a run, None where it must not change."""
    # A tower is configured inside the model, so its kind counts, not the model's.
    if path[0] == 'model' and len(path) > 1:
        model = config['model']
        return _find_in_call(BUILDERS[model['kind']], model, path[1:])
    return _find_in_call(Run, config, path)


def _find_in_call(call: Callable, node: Any, path: Sequence[str]) -> MayChange | None:
    """Follows `path` through the types of arguments of `call` down to a field that may change."""
    if not path:
        return None
    made = call.__init__ if inspect.isclass(call) else call
    hint: Any = typing.get_type_hints(made, include_extras=True).get(path[0])
    if typing.get_origin(hint) is Annotated:
        marks = [mark for mark in hint.__metadata__ if isinstance(mark, MayChange)]
        if marks:
            return marks[0]
        hint = hint.__origin__
    inner = node.get(path[0], {}) if isinstance(node, Mapping) else {}
    if dataclasses.is_dataclass(hint):
        return _find_in_call(typing.cast(Callable, hint), inner, path[1:])
    if len(path) < 2:
        return None
    own = inner.get(path[1], {}) if isinstance(inner, Mapping) else {}
    if path[0] in _TABLES:
        kind = _TABLES[path[0]].get(own.get('kind', DEFAULT_KIND))
        return _find_in_call(kind, own, path[2:]) if kind else None
    # A mapping by name: the name is one step of the path.
    values = typing.get_args(hint)[1:]
    if values and dataclasses.is_dataclass(values[0]):
        return _find_in_call(typing.cast(Callable, values[0]), own, path[2:])
    return None
