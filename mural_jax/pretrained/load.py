"""A run that starts from the weights of files, or of another run."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mural_jax.pretrained.files import read
from mural_jax.pretrained.place import Flat, Report, place
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Checkpoints, check_vocabulary


def load(
    init_from: Mapping[str, str], params: Any, statistics: Any, paired: Collection[str],
    vocabulary: str,
) -> tuple[Any, Any, list[str]]:  # fmt: skip
    """(parameters, batch statistics, what happened) with the arrays of files in their places.

    init_from: 'model' or a tower -> a file, a folder, or the workdir of a run; '' for none. The
    model comes first, so that a tower can be replaced. paired: the tasks that compare pictures
    with texts. vocabulary: the hash of the run's vocabulary, which a workdir has to share.
    Raises UserError where something does not fit; nothing is changed then.
    """
    trees = {'params': params, 'statistics': statistics}
    ours: Flat = {}
    for tree in trees.values():
        ours |= {_name(path): value for path, value in jax.tree.leaves_with_path(tree)}
    lines = []
    for role in sorted(init_from, key=lambda role: role != 'model'):
        if not init_from[role]:
            continue
        path = Path(init_from[role]).expanduser()
        if (path / 'checkpoints').is_dir():
            filled, report = _of_workdir(path, ours, role, vocabulary)
        else:
            filled, report = place(read(path), ours, role, str(path), paired)
        ours |= filled
        lines += [f'init_from.{role}: {line}' for line in report.lines()]
    placed = {name: jax.tree.map_with_path(lambda p, _: ours[_name(p)], tree)
              for name, tree in trees.items()}  # fmt: skip
    return placed['params'], placed['statistics'], lines


def _of_workdir(workdir: Path, ours: Flat, role: str, vocabulary: str) -> tuple[Flat, Report]:
    """Arrays of a run's newest checkpoint, whose paths are our own."""
    checkpoints = Checkpoints(workdir)
    step = checkpoints.choose(None)
    if role != 'image':
        check_vocabulary(checkpoints.about(step)['vocabulary'], vocabulary, workdir)
    theirs = {_name(path): np.asarray(value)
              for tree in checkpoints.read(step, 'params', 'statistics').values()
              for path, value in jax.tree.leaves_with_path(tree)}  # fmt: skip
    checkpoints.close()
    # A teacher is the run's transformer as it is now.
    taught = {path.replace('towers/fusion', 'towers/teacher', 1): value
              for path, value in theirs.items() if path.startswith('towers/fusion/')}  # fmt: skip
    theirs |= {path: value for path, value in taught.items() if path in ours}
    root = '' if role == 'model' else f'towers/{role}/'
    wanted = [path for path in ours if path.startswith(root)]
    for path in wanted:
        # A task that is new here has heads that start as they do.
        if path.startswith('towers/') and path not in theirs:
            raise UserError(f'{workdir} has no {path}: its towers are of another kind.')
        if path in theirs and theirs[path].shape != ours[path].shape:
            raise UserError(
                f'{workdir}: {path} is {theirs[path].shape}, here it is {ours[path].shape}. '
                'Give the sizes of that run.'
            )
    report = Report(f'step {step} of {workdir}')
    filled = {path: theirs[path] for path in wanted if path in theirs}
    report.placed, report.unplaced = len(filled), sorted(theirs.keys() - filled.keys())
    return filled, report


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator='/')
