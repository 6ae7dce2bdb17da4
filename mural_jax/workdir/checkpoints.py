"""The checkpoints of a workdir: saved in the background, verified when they are read.

WORKDIR/config.json        the config, checked before anything is written
WORKDIR/vocabulary.model   the vocabulary, whose fingerprint is in every checkpoint
WORKDIR/checkpoints/STEP   one folder per step, which appears whole or not at all (orbax):
    params, statistics, progress   arrays
    about                          positions and counts of the streams, vocabulary fingerprint
    seal                           checksums of all of these, and the metrics of the step
WORKDIR/checkpoints/STEP.broken    a checkpoint that could not be read, moved aside
"""

import contextlib
import dataclasses
import json
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers as managers

from mural_jax.types import UserError
from mural_jax.workdir.checksums import (
    compute_checksums,
    compute_json_crc,
    read_saved_metrics,
    read_seal,
    verify_checksums,
)
from mural_jax.workdir.damage import DamagedCheckpoint, mentions, run_on_all_processes
from mural_jax.workdir.reading import list_steps, read_about, read_array_shapes, read_arrays
from mural_jax.workdir.retention import BestCheckpoints, KeepBest, KeepSteps

DISK_FULL = ('No space left on device', 'Disk quota exceeded')
UNFINISHED = ocp.path.atomicity_types.TMP_DIR_SUFFIX
# Orbax cuts an array that several devices hold into one piece for each, which pays for large
# arrays alone: with eight devices, cutting small ones was nine tenths of what a save stops a run.
# The bound is ours.
SMALLEST_PIECE_BYTES = 2**20


class Checkpoints:
    """The checkpoints of a workdir, saved in the background, whole or not at all."""

    def __init__(
        self,
        workdir: Path,
        keep: int = 2,
        best: BestCheckpoints | None = None,
        pinned: Collection[int] = (),
    ):
        """Args:
        workdir: the run's folder.
        keep: number of newest checkpoints that stay.
        best: which checkpoints stay because of a metric.
        pinned: steps whose checkpoints always stay.
        """
        self._path = (workdir / 'checkpoints').resolve()
        self._keep, self._best, self._pinned = keep, best, frozenset(pinned)
        self._saving: int | None = None
        self._manager = self._open_manager()

    def _open_manager(self) -> ocp.CheckpointManager:
        self._metrics = {
            step: read_saved_metrics(self._path / str(step)) for step in list_steps(self._path)
        }
        # A checkpoint stays if any of these policies wants it.
        policies: list[managers.PreservationPolicy] = [managers.LatestN(self._keep)]
        if self._best:
            policies.append(KeepBest(self._best, self._metrics))
        if self._pinned:
            policies.append(KeepSteps(self._pinned))
        options = ocp.CheckpointManagerOptions(
            create=True, preservation_policy=managers.AnyPreservationPolicy(policies)
        )
        return ocp.CheckpointManager(
            self._path, options=options, handler_registry=_choose_handlers()
        )

    @property
    def steps(self) -> list[int]:
        """The steps that have a checkpoint, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def best_step(self) -> int | None:
        """The step with the best metric; None if no step has a finite one."""
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
        """Starts to save named trees of arrays, and `about` as JSON.

        Waits for the save before it. Raises UserError if the disk is full, for this save or the
        one before it.
        """
        # Orbax refuses to save a tree without arrays, such as the statistics of a ViT.
        trees = {name: tree for name, tree in trees.items() if jax.tree.leaves(tree)}
        items = {name: ocp.args.PyTreeSave(tree) for name, tree in trees.items()}
        # A copy, because training changes the lists in it while they are being written.
        about = json.loads(json.dumps(about))
        self._wait()
        self._metrics[step] = {name: float(value) for name, value in (metrics or {}).items()}
        seal = {
            'about': compute_json_crc(about),
            'arrays': compute_checksums(trees),
            'metrics': self._metrics[step],
            'best': dataclasses.asdict(self._best) if self._best else None,
        }
        jsons = {'about': ocp.args.JsonSave(about), 'seal': ocp.args.JsonSave(seal)}
        with _explain_full_disk(self._path, step):
            self._manager.save(step, args=ocp.args.Composite(**jsons, **items))
            self._saving = step

    def about(self, step: int) -> dict[str, Any]:
        """The JSON that was saved beside the arrays. Raises UserError if it cannot be read."""
        try:
            return read_about(self._path / str(step))[0]
        except DamagedCheckpoint as error:
            raise self._describe_damage(step, error) from error

    def restore(self, step: int, **like: Any) -> Any:
        """The named trees, each in the structure, shapes and shardings of its argument.

        like: trees of arrays or of `jax.ShapeDtypeStruct`, by name. Raises UserError if a
        checkpoint is damaged or of another model.
        """
        try:
            trees = read_arrays(self._path / str(step), like)
            verify_checksums(trees, read_seal(self._path / str(step)))
        except DamagedCheckpoint as error:
            raise self._describe_damage(step, error) from error
        # Trees without arrays are not on disk.
        return dict(like) | trees

    def resume(
        self, check: Callable[[dict[str, Any]], None], say: Callable[[str], None], **like: Any
    ) -> tuple[int, dict[str, Any], dict[str, Any]] | None:
        """(step, about, trees as `restore` returns them) of the newest undamaged checkpoint.

        None if there is no checkpoint. Damaged checkpoints are moved aside, and `say` gets a line
        about each, but only after an older one was read. All processes take the same checkpoint,
        and every process must call this. `check` gets `about` before arrays are read.

        Raises UserError if `check` does, if the arrays are those of another model, and if there
        are checkpoints but all are damaged; then nothing is moved.
        """
        self._wait()
        damage: dict[int, str] = {}
        for step in reversed(self.steps):
            folder = self._path / str(step)
            try:
                about, seal = run_on_all_processes(read_about, folder)
                check(about)
                trees = run_on_all_processes(read_arrays, folder, like)
                run_on_all_processes(verify_checksums, trees, seal)
            except DamagedCheckpoint as error:
                damage[step] = str(error)
                continue
            # Only now: without any good checkpoint nothing must change on disk.
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

    def _move_aside(
        self, damage: Mapping[int, str], good_step: int, say: Callable[[str], None]
    ) -> None:
        """Renames damaged checkpoints to STEP.broken, and removes unfinished ones.

        Only the process that trains here may remove unfinished ones: another reader might meet a
        checkpoint that is being written. So `__init__` must not do it.
        """
        self._manager.close()
        writes = jax.process_index() == 0
        for step, why in damage.items():
            folder = self._path / str(step)
            aside = folder.with_name(f'{step}.broken')
            say(
                f'the checkpoint of step {step} cannot be read ({why}); going back to step '
                f'{good_step}, the broken one is kept as {aside}'
            )
            if writes:
                if aside.exists():
                    shutil.rmtree(aside)
                folder.rename(aside)
        for unfinished in self._path.glob(f'*{UNFINISHED}*') if writes else ():
            shutil.rmtree(unfinished)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices('checkpoints moved aside')
        # The manager lists the folder once, when it opens.
        self._manager = self._open_manager()

    def read(self, step: int, *names: str) -> dict[str, Any]:
        """Those of the named trees that exist, as they were saved, on the first device."""
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

        def place(array: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=device)

        try:
            shapes = read_array_shapes(self._path / str(step), names)
        except DamagedCheckpoint as error:
            raise self._describe_damage(step, error) from error
        return self.restore(step, **jax.tree.map(place, shapes))

    def _describe_damage(self, step: int, error: DamagedCheckpoint) -> UserError:
        others = [other for other in self.steps if other != step]
        advice = f'Give one of the other steps, {others}.' if others else 'Put back a copy of it.'
        return UserError(
            f'The checkpoint of step {step} in {self._path} cannot be read: {error}. {advice}'
        )

    def choose(self, step: int | None) -> int:
        """`step`, or the newest step for None. Raises UserError if it has no checkpoint."""
        steps = self.steps
        if not steps:
            raise UserError(f'There is no checkpoint in {self._path}. Run `mural train` first.')
        if step is not None and step not in steps:
            raise UserError(f'There is no checkpoint of step {step}; there are {steps}.')
        return steps[-1] if step is None else step

    def _wait(self) -> None:
        with _explain_full_disk(self._path, self._saving):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until everything is on disk. Raises UserError if the disk is full."""
        self._wait()
        self._manager.close()


def count_bytes(tree: Any) -> int:
    """Bytes of the arrays of a tree, or of their shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@contextlib.contextmanager
def _explain_full_disk(folder: Path, step: int | None) -> Iterator[None]:
    """Turns the error of a full disk into a UserError that says how to go on."""
    try:
        yield
    except Exception as error:
        if not mentions(error, DISK_FULL):
            raise
        good = list_steps(folder)
        then = f'goes on from step {good[-1]}, the newest good one' if good else 'begins anew'
        free = shutil.disk_usage(folder).free / 1e9
        raise UserError(
            f'The checkpoint of step {step} could not be written: the disk of {folder} is full '
            f'({free:.2f} GB are free). Free some space and start the same command again: it '
            f'{then}, and removes what was left half written.'
        ) from error


def _choose_handlers() -> ocp.handlers.CheckpointHandlerRegistry:
    """What writes arrays, and what writes JSON."""
    arrays = ocp.type_handlers.ArrayHandler(
        min_slice_bytes_for_replica_parallel=SMALLEST_PIECE_BYTES
    )
    types = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
    handlers = ocp.handlers.DefaultCheckpointHandlerRegistry()
    handlers.add(
        None, ocp.args.PyTreeSave, ocp.PyTreeCheckpointHandler(type_handler_registry=types)
    )
    handlers.add(None, ocp.args.JsonSave, ocp.JsonCheckpointHandler())
    return handlers
