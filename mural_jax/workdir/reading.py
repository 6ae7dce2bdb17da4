"""Reads single checkpoints from disk: which steps there are, their arrays and their `about`."""

import contextlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mural_jax.types import UserError
from mural_jax.workdir.checksums import compute_json_crc, describe_arrays, read_json_item, read_seal
from mural_jax.workdir.damage import DamagedCheckpoint, describe_cause, mentions, raise_if_forbidden

JSON_ITEMS = ('about', 'seal')
NO_MEMORY = ('RESOURCE_EXHAUSTED', 'MemoryError')


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run in this workdir would be resumed."""
    return bool(list_steps(workdir / 'checkpoints'))


def list_steps(folder: Path) -> list[int]:
    """The steps in a folder of checkpoints, ascending.

    Does not need orbax's manager, which would create the folder.
    """
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    return sorted(int(name) for name in names if name.isdigit())


def read_about(folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(about, seal) of a step's folder. Raises DamagedCheckpoint."""
    about, seal = read_json_item(folder / 'about'), read_seal(folder)
    if seal and seal.get('about') != compute_json_crc(about):
        raise DamagedCheckpoint('about is not what was saved: its checksum differs')
    return about, seal


def read_array_shapes(folder: Path, names: Collection[str] = ()) -> dict[str, Any]:
    """The named trees of a step's folder, all for (), with leaves that have `shape` and `dtype`.

    Reads and allocates no array. Raises DamagedCheckpoint.
    """
    trees = {}
    handler = ocp.StandardCheckpointHandler()
    try:
        for item in sorted(folder.resolve().iterdir()):
            if item.is_dir() and item.name not in JSON_ITEMS and (not names or item.name in names):
                trees[item.name] = dict(handler.metadata(item))
    except Exception as error:
        raise_if_forbidden(error, folder)
        raise DamagedCheckpoint(describe_cause(error)) from error
    finally:
        handler.close()
    return trees


def read_arrays(folder: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """The named trees of a step's folder, in the structure and shardings of `like`.

    Reads only this process's part, and waits for no other process: so one may fail alone. Raises
    DamagedCheckpoint, or UserError if the arrays are those of another model.
    """
    like = {name: tree for name, tree in like.items() if jax.tree.leaves(tree)}
    like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    handler = ocp.StandardCheckpointHandler()
    trees = {}
    try:
        for name, tree in like.items():
            item = folder / name
            if not item.is_dir():
                raise FileNotFoundError(f'{item} is missing')
            trees[name] = handler.restore(item, args=ocp.args.StandardRestore(tree))
    except Exception as error:
        # A machine that is too small says nothing of the checkpoint.
        if mentions(error, NO_MEMORY):
            raise
        raise_if_forbidden(error, folder)
        # Orbax fails alike for a damaged file and for an array of another shape.
        _require_same_model(folder, like)
        raise DamagedCheckpoint(describe_cause(error)) from error
    finally:
        handler.close()
    return trees


def _require_same_model(folder: Path, like: Mapping[str, Any]) -> None:
    """Raises UserError if it is certain that the saved arrays are those of another model."""
    try:
        seal = read_seal(folder)
        saved = seal['arrays'] if seal else describe_arrays(read_array_shapes(folder))
    except DamagedCheckpoint:
        return
    for name, tree in describe_arrays(like).items():
        there = {path: tuple(entry['shape']) for path, entry in saved.get(name, {}).items()}
        here = {path: tuple(entry['shape']) for path, entry in tree.items()}
        if there and there != here:
            other = sorted(dict(there.items() ^ here.items()))
            lines = [f'  {name}/{p}: {there.get(p)} != {here.get(p)}' for p in other[:5]]
            raise UserError(
                f'The checkpoint of step {folder.name} in {folder.parent} is of another model: '
                f'{len(other)} arrays differ (its shape != yours):\n'
                + '\n'.join(lines)
                + '\nGive the config and the version of this program that it was trained '
                'with, or another --workdir.'
            )


def read_save_time(folder: Path) -> float:
    """When a step was complete on disk, in seconds since 1970; else the time of its folder."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads((folder / '_CHECKPOINT_METADATA').read_text(encoding='utf-8'))
        return int(known['commit_timestamp_nsecs']) / 1e9
    return folder.stat().st_mtime


def check_vocabulary(expected: str, found: str, workdir: Path) -> None:
    """Raises UserError if a checkpoint was trained with another vocabulary."""
    if expected != found:
        raise UserError(
            f'The vocabulary {found} is not the one that the checkpoints in {workdir} were '
            f'trained with, {expected}: every token would mean something else. '
            'Give the data_dir and config of that run, or another workdir.'
        )
