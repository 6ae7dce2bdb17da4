"""Initial weights of a run, from published files or from another run."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mural_jax.pretrained.assemble import FlatArrays
from mural_jax.pretrained.files import read_arrays
from mural_jax.pretrained.place import PlacementReport, place_arrays
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Checkpoints
from mural_jax.workdir.reading import check_vocabulary

COMPANIONS = 'companions/'  # subtrees of further models


def load_initial_weights(
    init_from: Mapping[str, str],
    params: Any,
    statistics: Any,
    paired: Collection[str],
    vocabulary: str,
) -> tuple[Any, Any, list[str]]:
    """Returns (parameters, batch statistics, lines that say what was placed).

    init_from: 'model', the name of a tower, or 'companions/NAME' -> a file, a folder, or the
        workdir of a run; '' for none. The model is read first, so that an entry for a tower
        replaces that tower.
    params, statistics: nested dicts of arrays. Leaves that no file fills stay as they are.
    paired: the spaces that compare images with texts.
    vocabulary: fingerprint of the run's vocabulary. A workdir must have the same one.

    Raises UserError if an array does not fit; the arguments are never changed.
    """
    trees = {'params': params, 'statistics': statistics}
    ours: FlatArrays = {}
    for tree in trees.values():
        ours |= {_join_path(path): value for path, value in jax.tree.leaves_with_path(tree)}
    lines = []
    for role in sorted(init_from, key=lambda role: role != 'model'):
        if not init_from[role]:
            continue
        path = Path(init_from[role]).expanduser()
        # A companion is a whole model of its own, in a subtree of the parameters.
        root = f'{role}/' if role.startswith(COMPANIONS) else ''
        part = _take_subtree(ours, root)
        own_role = 'model' if root else role
        if (path / 'checkpoints').is_dir():  # a workdir
            filled, report = _read_workdir(path, part, own_role, vocabulary)
        else:
            filled, report = place_arrays(read_arrays(path), part, own_role, str(path), paired)
        ours |= {root + name: value for name, value in filled.items()}
        lines += [f'init_from.{role}: {line}' for line in report.lines()]
    placed = {
        name: jax.tree.map_with_path(lambda p, _: ours[_join_path(p)], tree)
        for name, tree in trees.items()
    }
    return placed['params'], placed['statistics'], lines


def _read_workdir(
    workdir: Path, ours: FlatArrays, role: str, vocabulary: str
) -> tuple[FlatArrays, PlacementReport]:
    """Returns the arrays of a run's newest checkpoint by path, and a report.

    Raises UserError if the run has another vocabulary, other towers or other sizes.
    """
    checkpoints = Checkpoints(workdir)
    step = checkpoints.choose(None)
    # An image tower knows no tokens, so it may come from a run with another vocabulary.
    if role != 'image':
        check_vocabulary(checkpoints.about(step)['vocabulary'], vocabulary, workdir)
    theirs = {
        _join_path(path): np.asarray(value)
        for tree in checkpoints.read(step, 'params', 'statistics').values()
        for path, value in jax.tree.leaves_with_path(tree)
    }
    checkpoints.close()
    root = '' if role == 'model' else f'towers/{role}/'
    targets = [path for path in ours if path.startswith(root)]
    for path in targets:
        # Heads may be missing: those of a space that is new here keep their initial values.
        if path.startswith('towers/') and path not in theirs:
            raise UserError(
                f'{workdir} has no {path}: its towers are of another kind than config.model.towers.'
            )
        if path in theirs and theirs[path].shape != ours[path].shape:
            raise UserError(
                f'{workdir}: {path} is {theirs[path].shape}, here it is {ours[path].shape}. '
                'Give this run the sizes of that one.'
            )
    report = PlacementReport(f'step {step} of {workdir}')
    filled = {path: theirs[path] for path in targets if path in theirs}
    report.placed, report.unplaced = len(filled), sorted(theirs.keys() - filled.keys())
    return filled, report


def _take_subtree(ours: FlatArrays, root: str) -> FlatArrays:
    """Returns the arrays below `root` by their path there; for '' the model without companions."""
    if not root:
        return {path: x for path, x in ours.items() if not path.startswith(COMPANIONS)}
    return {path.removeprefix(root): x for path, x in ours.items() if path.startswith(root)}


def _join_path(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')
