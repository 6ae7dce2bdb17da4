"""A workdir: the config it belongs to, its vocabulary, and its checkpoints.

WORKDIR/config.json        the config, checked before anything is written
WORKDIR/vocabulary.model   the vocabulary, whose hash is in every checkpoint
WORKDIR/checkpoints/STEP   arrays, stream positions, counts, vocabulary hash (orbax)
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from mural_jax.types import UserError


def create_folder(folder: Path, flag: str) -> None:
    """Raises UserError, naming the flag it was given by, where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f'.write-{os.getpid()}'
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f'Cannot write in {folder} ({error.strerror}). '
            f'Give a folder that this user may write with {flag}.'
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    part.write_text(text, encoding='utf-8')
    part.replace(path)


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of a workdir as JSON gives it. Raises UserError where there is none."""
    path = workdir / 'config.json'
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise UserError(
            f'{workdir} is not a workdir of a run: it has no config.json. '
            'Give the --workdir that `mural train` was given.'
        ) from error
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f'Cannot read {path} ({error}). Restore it or start a new workdir.') from (
            error
        )


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run in this workdir would be resumed."""
    folder = workdir / 'checkpoints'
    return folder.is_dir() and any(entry.name.isdigit() for entry in folder.iterdir())


class Checkpoints:
    """The checkpoints of a workdir, saved in the background, whole or not at all."""

    def __init__(self, workdir: Path, keep: int = 2):
        """`keep` is how many of the newest stay."""
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._path = (workdir / 'checkpoints').resolve()
        self._manager = ocp.CheckpointManager(self._path, options=options)

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    def save(self, step: int, trees: Mapping[str, Any], about: Mapping[str, Any]) -> None:
        """Starts to save named trees of arrays; `about` is JSON. Waits for the save before it."""
        items = {
            name: ocp.args.StandardSave(tree)
            for name, tree in trees.items()
            if jax.tree.leaves(tree)
        }
        about_item = ocp.args.JsonSave(dict(about))
        self._manager.save(step, args=ocp.args.Composite(about=about_item, **items))

    def about(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays."""
        items = ocp.args.Composite(about=ocp.args.JsonRestore())
        return self._manager.restore(step, args=items)['about']

    def restore(self, step: int, **like: Any) -> Any:
        """The named trees that are asked for.

        Each is restored with the structure, shapes and shardings of what is given for it, arrays
        or `jax.ShapeDtypeStruct`.
        """
        items = {
            name: ocp.args.StandardRestore(jax.tree.map(ocp.utils.to_shape_dtype_struct, tree))
            for name, tree in like.items()
            if jax.tree.leaves(tree)
        }
        return dict(like) | dict(self._manager.restore(step, args=ocp.args.Composite(**items)))

    def read(self, step: int, *names: str) -> dict[str, Any]:
        """Those of the named trees that there are, as they were saved, on the first device."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def like(array: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device)

        # The manager knows what is in a checkpoint only when it is told, so not by the manager.
        handler = ocp.StandardCheckpointHandler()
        trees = {}
        for name in names:
            folder = self._manager.directory / str(step) / name
            if folder.exists():
                tree = jax.tree.map(like, dict(handler.metadata(folder)))
                trees[name] = handler.restore(folder, args=ocp.args.StandardRestore(tree))
        handler.close()
        return trees

    def choose(self, step: int | None) -> int:
        """`step`, or the newest. Raises UserError where there is no such checkpoint."""
        steps = self.steps
        if not steps:
            raise UserError(f'There is no checkpoint in {self._path}. Run `mural train` first.')
        if step is not None and step not in steps:
            raise UserError(f'There is no checkpoint of step {step}; there are {steps}.')
        return steps[-1] if step is None else step

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


def check_vocabulary(expected: str, found: str, workdir: Path) -> None:
    """Raises UserError where a checkpoint was trained with another vocabulary."""
    if expected != found:
        raise UserError(
            f'The vocabulary {found} is not the one that the checkpoints in {workdir} were '
            f'trained with, {expected}: every token would mean something else. '
            'Give the data_dir and config of that run, or another workdir.'
        )
