"""What is in the checkpoints of a workdir, told without reading an array."""

import contextlib
import dataclasses
import datetime
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.json import JSON
from rich.table import Table

from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import arrays, saved_at, steps_in
from mural_jax.workdir.checksums import Best, Damaged, metrics_of, read_json, read_seal, shapes
from mural_jax.workdir.files import read_config

DEPTH = 3  # words of a path that rows are grouped by
OPTIMIZER = 'progress/optimizer'


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array: its path from the name of the tree on, and what it takes in memory."""

    path: str
    shape: tuple[int, ...]
    dtype: str

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def megabytes(self) -> float:
        return self.size * np.dtype(self.dtype).itemsize / 1e6


def inspect(workdir: Path, step: int | None, full: bool) -> None:
    """Prints the steps there are and what one of them holds, the newest for None.

    `full` lists every array. Nothing is written, no accelerator is taken, whatever devices the
    step was saved on. Raises UserError where there is no such step or it cannot be read.
    """
    # Orbax starts a backend to read metadata: an accelerator may be held by the run itself.
    jax.config.update('jax_platforms', 'cpu')
    console = Console()
    for part in describe(workdir, step, full):
        console.print(part)


def describe(workdir: Path, step: int | None, full: bool = False) -> Iterator[Any]:
    """What `inspect` prints, piece by piece, for rich."""
    config = read_config(workdir)
    folder = workdir / 'checkpoints'
    steps = steps_in(folder)
    if not steps:
        raise UserError(f'There is no checkpoint in {folder}. Run `mural train` first.')
    yield _steps_table(folder, steps)
    for broken in sorted(folder.glob('*.broken')):
        yield f'{broken.name} could not be read and was moved aside; delete it when you like'
    if step is not None and step not in steps:
        raise UserError(f'There is no checkpoint of step {step}; there are {steps}.')
    step = steps[-1] if step is None else step
    try:
        about, found = read_json(folder / str(step) / 'about'), leaves(folder / str(step))
    except Damaged as error:
        raise UserError(
            f'The checkpoint of step {step} in {folder} cannot be read: {error}. '
            'Give another --step, or put back a copy of it.'
        ) from error
    yield _arrays_table(step, found, full)
    yield _totals_table(found)
    yield _positions_table(about)
    yield 'config:'
    yield JSON.from_data(config)


def leaves(folder: Path) -> list[Leaf]:
    """The arrays of a step, in the order of their trees. Raises Damaged."""
    return [
        Leaf(f'{name}/{path}', tuple(kept['shape']), kept['dtype'])
        for name, tree in shapes(arrays(folder)).items()
        for path, kept in tree.items()
    ]


def _steps_table(folder: Path, steps: list[int]) -> Table:
    best = _best(folder, steps)
    columns = ['step', 'saved', 'MB on disk', *([best[0].metric] if best else []), '']
    table = Table(*columns, title='checkpoints')
    for step in steps:
        path = folder / str(step)
        size = sum(file.stat().st_size for file in path.rglob('*') if file.is_file())
        when = datetime.datetime.fromtimestamp(saved_at(path)).isoformat(' ', 'seconds')
        notes = ['newest'] if step == steps[-1] else []
        values = []
        if best:
            values = [f'{metrics_of(path).get(best[0].metric, math.nan):.6g}']
            notes += ['best'] if step == best[1] else []
        table.add_row(str(step), when, f'{size / 1e6:,.1f}', *values, ', '.join(notes))
    return table


def _best(folder: Path, steps: list[int]) -> tuple[Best, int | None] | None:
    """What the run kept the best of, as the newest step tells, and which step that is."""
    with contextlib.suppress(Damaged):
        rule = read_seal(folder / str(steps[-1])).get('best')
        if rule:
            best = Best(**rule)
            ranked = best.rank({step: metrics_of(folder / str(step)) for step in steps})
            return best, ranked[0] if ranked else None
    return None


def _arrays_table(step: int, found: list[Leaf], full: bool) -> Table:
    table = Table(
        'path', 'arrays', 'shape', 'dtype', 'values', 'MB', title=f'arrays of step {step}'
    )
    for column in table.columns[1:]:
        column.justify = 'right'

    def group(leaf: Leaf) -> str:
        # The name of the tree does not count.
        return leaf.path if full else '/'.join(leaf.path.split('/')[: DEPTH + 1])

    for path, members in itertools.groupby(found, group):
        held = list(members)
        dtypes = ', '.join(sorted({leaf.dtype for leaf in held}))
        shape = str(list(held[0].shape)) if len(held) == 1 else ''
        path = held[0].path if len(held) == 1 else f'{path}/…'
        table.add_row(path, str(len(held)), shape, dtypes, *_sums(held))
    return table


def _totals_table(found: list[Leaf]) -> Table:
    parts = {
        'params': [leaf for leaf in found if leaf.path.startswith('params/')],
        'statistics': [leaf for leaf in found if leaf.path.startswith('statistics/')],
        'optimizer': [leaf for leaf in found if leaf.path.startswith(f'{OPTIMIZER}/')],
    }
    named = [leaf for held in parts.values() for leaf in held]
    parts |= {'other': [leaf for leaf in found if leaf not in named], 'all': found}
    table = Table('', 'arrays', 'values', 'MB', title='totals')
    for name, held in parts.items():
        table.add_row(name, f'{len(held):,}', *_sums(held))
    return table


def _sums(held: list[Leaf]) -> tuple[str, str]:
    return (
        f'{sum(leaf.size for leaf in held):,}',
        f'{sum(leaf.megabytes for leaf in held):,.3f}',
    )


def _positions_table(about: Mapping[str, Any]) -> Table:
    table = Table('stream', 'position', 'bad records', title='streams: the next example')
    for name, position in about.get('positions', {}).items():
        table.add_row(name, f'{position:,}', f'{about.get("bad", {}).get(name, 0):,}')
    return table
