"""A workdir: the config it belongs to, its vocabulary, and its checkpoints.

WORKDIR/config.json        the config, checked before anything is written
WORKDIR/vocabulary.model   the vocabulary, whose hash is in every checkpoint
WORKDIR/checkpoints/STEP   a folder a step, which appears whole or not at all (orbax):
    params, statistics, progress   arrays
    about                          stream positions, counts, vocabulary hash
    seal                           checksums of all that, and the metrics of the step
WORKDIR/checkpoints/STEP.broken    a step that could not be read, moved aside
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers

from mural_jax.types import UserError
from mural_jax.workdir.checksums import (
    Best,
    Damaged,
    check_allowed,
    checksums,
    crc,
    metrics_of,
    read_json,
    read_seal,
    says,
    shapes,
    together,
    verify,
    why_of,
)

DISK_FULL = ('No space left on device', 'Disk quota exceeded')
LEFT = ocp.path.atomicity_types.TMP_DIR_SUFFIX
JSON_ITEMS = ('about', 'seal')
NO_MEMORY = ('RESOURCE_EXHAUSTED', 'MemoryError')


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run in this workdir would be resumed."""
    return bool(steps_in(workdir / 'checkpoints'))


@dataclasses.dataclass
class _KeepBest(managers.PreservationPolicy):
    """Orbax's BestN ranks values that are not finite, and fails where the metric is missing."""

    best: Best
    metrics: Mapping[int, Mapping[str, Any]]

    def should_preserve(
        self, checkpoints: Sequence[managers.PolicyCheckpointInfo], *, context: Any
    ) -> list[bool]:
        there = {info.step: self.metrics.get(info.step, {}) for info in checkpoints}
        kept = self.best.rank(there)[: self.best.keep]
        return [info.step in kept for info in checkpoints]


@dataclasses.dataclass
class _KeepSteps(managers.PreservationPolicy):
    """Keeps the checkpoints of given steps."""

    steps: Collection[int]

    def should_preserve(
        self, checkpoints: Sequence[managers.PolicyCheckpointInfo], *, context: Any
    ) -> list[bool]:
        return [info.step in self.steps for info in checkpoints]


class Checkpoints:
    """The checkpoints of a workdir, saved in the background, whole or not at all."""

    def __init__(
        self,
        workdir: Path,
        keep: int = 2,
        best: Best | None = None,
        pinned: Collection[int] = (),
    ):
        """Args:
        workdir: the run's folder.
        keep: number of newest checkpoints that stay.
        best: which checkpoints stay because of a metric.
        pinned: steps whose checkpoints always stay.
        """
        self._pinned = frozenset(pinned)
        self._path = (workdir / 'checkpoints').resolve()
        self._keep, self._best = keep, best
        self._saving: int | None = None
        self._manager = self._open()

    def _open(self) -> ocp.CheckpointManager:
        self._metrics = {step: metrics_of(self._path / str(step)) for step in steps_in(self._path)}
        policies: list[managers.PreservationPolicy] = [managers.LatestN(self._keep)]
        if self._best:
            policies.append(_KeepBest(self._best, self._metrics))
        if self._pinned:
            policies.append(_KeepSteps(self._pinned))
        options = ocp.CheckpointManagerOptions(
            create=True, preservation_policy=managers.AnyPreservationPolicy(policies)
        )
        return ocp.CheckpointManager(self._path, options=options)

    @property
    def steps(self) -> list[int]:
        return sorted(self._manager.all_steps())

    @property
    def best_step(self) -> int | None:
        """The step with the best metric; None where none has a finite one."""
        if self._best is None:
            return None
        ranked = self._best.rank({step: self._metrics.get(step, {}) for step in self.steps})
        return ranked[0] if ranked else None

    def save(
        self,
        step: int,
        trees: Mapping[str, Any],
        about: Mapping[str, Any],
        metrics: Mapping[str, float] | None = None,
    ) -> None:
        """Starts to save named trees of arrays; `about` is JSON. Waits for the save before it.

        Raises UserError where the disk is full, for this save or the one before it.
        """
        trees = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        about = json.loads(json.dumps(about))  # As it is now: it is written while training goes on.
        self._wait()
        self._metrics[step] = {name: float(value) for name, value in (metrics or {}).items()}
        seal = {
            'about': crc(about),
            'arrays': checksums(trees),
            'metrics': self._metrics[step],
            'best': dataclasses.asdict(self._best) if self._best else None,
        }
        jsons = {'about': ocp.args.JsonSave(about), 'seal': ocp.args.JsonSave(seal)}
        with _disk(self._path, step):
            self._manager.save(step, args=ocp.args.Composite(**jsons, **items))
            self._saving = step

    def about(self, step: int) -> dict[str, Any]:
        """What was saved beside the arrays. Raises UserError where it cannot be read."""
        try:
            return self._about(step)[0]
        except Damaged as error:
            raise self._cannot_read(step, error) from error

    def restore(self, step: int, **like: Any) -> Any:
        """The named trees that are asked for.

        Each is restored with the structure, shapes and shardings of what is given for it, arrays
        or `jax.ShapeDtypeStruct`. Raises UserError where that is not what was saved.
        """
        try:
            trees = self._load(step, like)
            verify(trees, read_seal(self._path / str(step)))
        except Damaged as error:
            raise self._cannot_read(step, error) from error
        return dict(like) | trees

    def resume(
        self, check: Callable[[dict[str, Any]], None], say: Callable[[str], None], **like: Any
    ) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """(step, about, trees as `restore` gives them) of the newest checkpoint that is whole.

        Those that are not are said and moved aside, once an older one was read; all processes
        decide alike. None where there is no checkpoint. `check` gets `about` before arrays are
        read. Raises UserError where `check` does, where the arrays are those of another model,
        and where there are checkpoints but none can be read: then nothing is moved.
        """
        self._wait()
        self._wait()
        damage: dict[int, str] = {}
        for step in reversed(self.steps):
            try:
                about, seal = together(self._about, step)
                check(about)
                trees = together(self._load, step, like)
                together(verify, trees, seal)
            except Damaged as error:
                damage[step] = str(error)
                continue
            self._move_aside(damage, step, say)
            return step, about, dict(like) | trees
        if damage:
            raise UserError(
                f'None of the checkpoints in {self._path} can be read:\n'
                + '\n'.join(f'  step {step}: {why}' for step, why in damage.items())
                + '\nNothing was changed. Put back a copy of one, or give a new --workdir.'
            )
        self._move_aside({}, 0, say)
        return None

    def _move_aside(self, damage: Mapping[int, str], good: int, say: Callable[[str], None]) -> None:
        """Also removes what was left half written, which only who trains here may do."""
        self._manager.close()
        writer = jax.process_index() == 0
        for step, why in damage.items():
            folder = self._path / str(step)
            aside = folder.with_name(f'{step}.broken')
            say(
                f'the checkpoint of step {step} cannot be read ({why}); going back to step {good}, '
                f'the broken one is kept as {aside}'
            )
            if writer:
                if aside.exists():
                    shutil.rmtree(aside)
                folder.rename(aside)
        for left in self._path.glob(f'*{LEFT}*') if writer else ():
            shutil.rmtree(left)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices('checkpoints moved aside')
        self._manager = self._open()

    def read(self, step: int, *names: str) -> dict[str, Any]:
        """Those of the named trees that there are, as they were saved, on the first device."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def like(array: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device)

        try:
            found = arrays(self._path / str(step), names)
        except Damaged as error:
            raise self._cannot_read(step, error) from error
        return self.restore(step, **jax.tree.map(like, found))

    def _about(self, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """(about, seal). Raises Damaged."""
        folder = self._path / str(step)
        about, seal = read_json(folder / 'about'), read_seal(folder)
        if seal and seal.get('about') != crc(about):
            raise Damaged('about is not what was saved: its checksum differs')
        return about, seal

    def _load(self, step: int, like: Mapping[str, Any]) -> dict[str, Any]:
        """Reads this process's part; processes do not wait for each other, so one may fail.

        Raises Damaged, or UserError where another model was saved.
        """
        like = {name: tree for name, tree in like.items() if jax.tree.leaves(tree)}
        like = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        handler = ocp.StandardCheckpointHandler()
        trees = {}
        try:
            for name, tree in like.items():
                folder = self._path / str(step) / name
                if not folder.is_dir():
                    raise FileNotFoundError(f'{folder} is missing')
                trees[name] = handler.restore(folder, args=ocp.args.StandardRestore(tree))
        except Exception as error:
            if says(error, NO_MEMORY):
                raise
            check_allowed(error, self._path / str(step))
            self._check_model(step, like)
            raise Damaged(why_of(error)) from error
        finally:
            handler.close()
        return trees

    def _check_model(self, step: int, like: Mapping[str, Any]) -> None:
        """Raises UserError where it is certain that other arrays were saved than are asked for."""
        folder = self._path / str(step)
        try:
            seal = read_seal(folder)
            saved = seal['arrays'] if seal else shapes(arrays(folder))
        except Damaged:
            return
        for name, tree in shapes(like).items():
            there = {path: tuple(kept['shape']) for path, kept in saved.get(name, {}).items()}
            here = {path: tuple(kept['shape']) for path, kept in tree.items()}
            if there and there != here:
                other = sorted(dict(there.items() ^ here.items()))
                lines = [f'  {name}/{p}: {there.get(p)} != {here.get(p)}' for p in other[:5]]
                raise UserError(
                    f'The checkpoint of step {step} in {self._path} is of another model: '
                    f'{len(other)} arrays differ (shape there != here):\n'
                    + '\n'.join(lines)
                    + '\nGive the config and the version of this program that it was trained '
                    'with, or another --workdir.'
                )

    def _cannot_read(self, step: int, error: Damaged) -> UserError:
        others = [other for other in self.steps if other != step]
        advice = f'Give one of the other steps, {others}.' if others else 'Put back a copy of it.'
        return UserError(
            f'The checkpoint of step {step} in {self._path} cannot be read: {error}. {advice}'
        )

    def choose(self, step: int | None) -> int:
        """`step`, or the newest. Raises UserError where there is no such checkpoint."""
        steps = self.steps
        if not steps:
            raise UserError(f'There is no checkpoint in {self._path}. Run `mural train` first.')
        if step is not None and step not in steps:
            raise UserError(f'There is no checkpoint of step {step}; there are {steps}.')
        return steps[-1] if step is None else step

    def _wait(self) -> None:
        with _disk(self._path, self._saving):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk. Raises UserError where the disk is full."""
        self._wait()
        self._manager.close()


def bytes_of(tree: Any) -> int:
    """What the arrays of a tree, or their shapes, take."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def steps_in(folder: Path) -> list[int]:
    """The steps that are on disk, ascending, without asking orbax."""
    if not folder.is_dir():
        return []
    names = [entry.name for entry in folder.iterdir() if entry.is_dir()]
    return sorted(int(name) for name in names if name.isdigit())


def arrays(folder: Path, names: Collection[str] = ()) -> dict[str, Any]:
    """The trees of one step, all or those named, with what has `shape` and `dtype` as leaves.

    No array is read or made. Raises Damaged.
    """
    trees = {}
    handler = ocp.StandardCheckpointHandler()
    try:
        for item in sorted(folder.resolve().iterdir()):
            if item.is_dir() and item.name not in JSON_ITEMS and (not names or item.name in names):
                trees[item.name] = dict(handler.metadata(item))
    except Exception as error:
        check_allowed(error, folder)
        raise Damaged(why_of(error)) from error
    finally:
        handler.close()
    return trees


def saved_at(folder: Path) -> float:
    """When a step was complete on disk, in seconds since 1970; its folder's time if not known."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads((folder / '_CHECKPOINT_METADATA').read_text(encoding='utf-8'))
        return int(known['commit_timestamp_nsecs']) / 1e9
    return folder.stat().st_mtime


@contextlib.contextmanager
def _disk(folder: Path, step: int | None) -> Iterator[None]:
    """Raises UserError where a checkpoint could not be written because the disk is full."""
    try:
        yield
    except Exception as error:
        if not says(error, DISK_FULL):
            raise
        good = steps_in(folder)
        then = f'goes on from step {good[-1]}, the newest good one' if good else 'begins anew'
        free = shutil.disk_usage(folder).free / 1e9
        raise UserError(
            f'The checkpoint of step {step} could not be written: the disk of {folder} is full '
            f'({free:.2f} GB are free). Free some space and start the same command again: it '
            f'{then}, and removes what was left half written.'
        ) from error


def check_vocabulary(expected: str, found: str, workdir: Path) -> None:
    """Raises UserError where a checkpoint was trained with another vocabulary."""
    if expected != found:
        raise UserError(
            f'The vocabulary {found} is not the one that the checkpoints in {workdir} were '
            f'trained with, {expected}: every token would mean something else. '
            'Give the data_dir and config of that run, or another workdir.'
        )
