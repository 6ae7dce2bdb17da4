"""mural inspect: what the checkpoints of a run hold, without reading their arrays."""

import argparse
import contextlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mural_jax.cli import flags
from mural_jax.types import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from mural_jax.workdir.retention import BestCheckpoints

GROUP_DEPTH = 3  # Arrays with the same first parts of their path share a row.
OPTIMIZER = 'progress/optimizer'


class Leaf(NamedTuple):
    """One array of a checkpoint. `path` starts with the name of its tree; `num_bytes` in memory."""

    path: str
    shape: tuple[int, ...]
    dtype: str
    num_bytes: int

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def megabytes(self) -> float:
        """Memory in units of 10^6 bytes."""
        return self.num_bytes / 1e6


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    parser = flags.add_verb(verbs, 'inspect', run, 'Show what the checkpoints of a run hold.')
    parser.add_argument(
        'workdir', type=flags.user_path, metavar='WORKDIR', help='Folder of the run.'
    )
    flags.add_step(parser)
    parser.add_argument(
        '--full', action='store_true', help='List every array instead of groups of arrays.'
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints the steps of a run and what one of them holds, the newest by default.

    Writes nothing and takes no accelerator, whatever devices the step was saved on. Raises
    UserError if there is no such step or it cannot be read.
    """
    import jax
    from rich.console import Console

    # Orbax starts a backend even to read metadata, and the run itself may hold the accelerator.
    jax.config.update('jax_platforms', 'cpu')
    console = Console()
    for part in describe_workdir(arguments.workdir, arguments.step, arguments.full):
        console.print(part)


def describe_workdir(workdir: Path, step: int | None, full: bool = False) -> Iterator[Any]:
    """Yields tables and texts for rich. `step` None stands for the newest."""
    from rich.json import JSON

    from mural_jax.workdir.checksums import read_json_item
    from mural_jax.workdir.damage import DamagedCheckpoint
    from mural_jax.workdir.files import read_config
    from mural_jax.workdir.reading import list_steps

    config = read_config(workdir)
    folder = workdir / 'checkpoints'
    steps = list_steps(folder)
    if not steps:
        raise UserError(f'There is no checkpoint in {folder}. Run `mural train` first.')
    # Before anything that may raise: the list helps to choose another step.
    yield _build_steps_table(folder, steps)
    for broken in sorted(folder.glob('*.broken')):
        yield f'{broken.name} could not be read and was moved aside; delete it when you like'
    if step is not None and step not in steps:
        raise UserError(f'There is no checkpoint of step {step}; there are {steps}.')
    step = steps[-1] if step is None else step
    try:
        about = read_json_item(folder / str(step) / 'about')
        leaves = read_leaves(folder / str(step))
    except DamagedCheckpoint as error:
        raise UserError(
            f'The checkpoint of step {step} in {folder} cannot be read: {error}. '
            'Give another --step, or put back a copy of it.'
        ) from error
    yield _build_arrays_table(step, leaves, full)
    yield _build_totals_table(leaves)
    yield _build_positions_table(about)
    yield 'config:'
    yield JSON.from_data(config)


def read_leaves(folder: Path) -> list[Leaf]:
    """The arrays of a step, in the order of their trees. Raises DamagedCheckpoint."""
    import numpy as np

    from mural_jax.workdir.checksums import describe_arrays
    from mural_jax.workdir.reading import read_array_shapes

    return [
        Leaf(
            f'{name}/{path}',
            tuple(leaf['shape']),
            leaf['dtype'],
            math.prod(leaf['shape']) * np.dtype(leaf['dtype']).itemsize,
        )
        for name, tree in describe_arrays(read_array_shapes(folder)).items()
        for path, leaf in tree.items()
    ]


def _build_steps_table(folder: Path, steps: Sequence[int]) -> 'Table':
    import datetime

    from mural_jax.workdir.checksums import read_saved_metrics
    from mural_jax.workdir.reading import read_save_time

    best = _find_best(folder, steps)
    table = _new_table(
        'checkpoints', 'step', 'saved', 'MB on disk', *([best[0].metric] if best else []), ''
    )
    for step in steps:
        path = folder / str(step)
        size = sum(file.stat().st_size for file in path.rglob('*') if file.is_file())
        when = datetime.datetime.fromtimestamp(read_save_time(path)).isoformat(' ', 'seconds')
        notes = ['newest'] if step == steps[-1] else []
        values = []
        if best:
            values = [f'{read_saved_metrics(path).get(best[0].metric, math.nan):.6g}']
            notes += ['best'] if step == best[1] else []
        table.add_row(str(step), when, f'{size / 1e6:,.1f}', *values, ', '.join(notes))
    return table


def _find_best(folder: Path, steps: Sequence[int]) -> 'tuple[BestCheckpoints, int | None] | None':
    """(the rule by which the run keeps its best step, that step), as the newest step has it."""
    from mural_jax.workdir.checksums import read_saved_metrics, read_seal
    from mural_jax.workdir.damage import DamagedCheckpoint
    from mural_jax.workdir.retention import BestCheckpoints

    # A damaged newest step is reported elsewhere; here it only leaves the table without a metric.
    with contextlib.suppress(DamagedCheckpoint):
        rule = read_seal(folder / str(steps[-1])).get('best')
        if rule:
            best = BestCheckpoints(**rule)
            ranked = best.rank({step: read_saved_metrics(folder / str(step)) for step in steps})
            return best, ranked[0] if ranked else None
    return None


def _build_arrays_table(step: int, leaves: Sequence[Leaf], full: bool) -> 'Table':
    table = _new_table(f'arrays of step {step}', 'path', 'arrays', 'shape', 'dtype', 'values', 'MB')
    for column in table.columns[1:]:
        column.justify = 'right'

    def group_of(leaf: Leaf) -> str:
        # One part more than GROUP_DEPTH, because the first part is the name of the tree.
        return leaf.path if full else '/'.join(leaf.path.split('/')[: GROUP_DEPTH + 1])

    # Arrays of one group stand next to each other, since they come in the order of their trees.
    for group, members in itertools.groupby(leaves, group_of):
        own = list(members)
        dtypes = ', '.join(sorted({leaf.dtype for leaf in own}))
        shape = str(list(own[0].shape)) if len(own) == 1 else ''
        path = own[0].path if len(own) == 1 else f'{group}/…'
        table.add_row(path, str(len(own)), shape, dtypes, *_format_sums(own))
    return table


def _build_totals_table(leaves: Sequence[Leaf]) -> 'Table':
    # 'other' is what no prefix covers, such as the step.
    prefixes = {'params': 'params/', 'statistics': 'statistics/', 'optimizer': f'{OPTIMIZER}/'}
    parts = {
        name: [leaf for leaf in leaves if leaf.path.startswith(prefix)]
        for name, prefix in prefixes.items()
    }
    parts['other'] = [leaf for leaf in leaves if not leaf.path.startswith((*prefixes.values(),))]
    parts['all'] = list(leaves)
    table = _new_table('totals', '', 'arrays', 'values', 'MB')
    for name, own in parts.items():
        table.add_row(name, f'{len(own):,}', *_format_sums(own))
    return table


def _format_sums(leaves: Sequence[Leaf]) -> tuple[str, str]:
    """(values, megabytes) of some arrays together."""
    return (
        f'{sum(leaf.size for leaf in leaves):,}',
        f'{sum(leaf.megabytes for leaf in leaves):,.3f}',
    )


def _build_positions_table(about: Mapping[str, Any]) -> 'Table':
    title = 'streams: the next example'
    table = _new_table(title, 'stream', 'position', 'bad records')
    for name, position in about.get('positions', {}).items():
        table.add_row(name, f'{position:,}', f'{about.get("bad", {}).get(name, 0):,}')
    return table


def _new_table(title: str, *columns: str) -> 'Table':
    from rich.table import Table

    return Table(*columns, title=title)
