"""What the verbs `plan` and `bench` do, in order."""

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from mural_jax.config.load import Config
from mural_jax.planning import bench as benching
from mural_jax.planning import plan as planning
from mural_jax.planning import tables
from mural_jax.planning.chips import GIB, chip_of, devices_of
from mural_jax.planning.plan import Plan
from mural_jax.planning.search import Found, proposals, search
from mural_jax.types import UserError
from mural_jax.workdir.files import create_folder, write_atomic


def plan(
    config: Config, topology: str, search_on: bool, out: Path | None, memory_gib: float | None
) -> int:
    """Prints what a step needs on a topology; 0 where it fits, 1 where it does not.

    search_on: then compiles other settings until one fits. memory_gib: of one device, that of the
    chip for None. out: all numbers as JSON.
    """
    if out:
        create_folder(out.parent, '--json')  # Now, not after minutes of compiling.
    if memory_gib is not None and memory_gib <= 0:
        raise UserError(f'--memory_gib={memory_gib} must be more than 0.')
    devices = devices_of(topology)
    chip = chip_of(devices[0])
    capacity = memory_gib * GIB if memory_gib else chip.memory
    if not capacity:
        raise UserError(
            f'How much memory {devices[0].device_kind} has is not known; say it with --memory_gib.'
        )
    console = Console(highlight=False)
    first = planning.make(config, devices, chip, capacity)
    show(first, console)
    found = Found([({}, first)])
    if not first.fits and search_on:
        found = search(config, devices, chip, capacity, first, lambda text: _say(console, text))
        if len(found.tried) > 1:
            show(found.tried[-1][1], console)
    _conclude(found, console)
    if not first.fits and not search_on:
        _propose(proposals(config, devices, chip, first), console)
    if out:
        tried = [{'settings': settings, **planning.as_json(made)} for settings, made in found.tried]
        written = {'topology': topology, 'source': chip.source, 'config': config, 'tried': tried}
        write_atomic(out, json.dumps(written, indent=2))
    return 0 if found.settings is not None else 1


def show(made: Plan, console: Console) -> None:
    """Prints a plan."""
    console.print(tables.memory(made))
    if made.collectives:
        console.print(tables.communication(made))
    if made.bounds:
        console.print(tables.speed(made))
    for line in tables.sentences(made):
        _say(console, line)


def _conclude(found: Found, console: Console) -> None:
    settings, last = found.tried[-1]
    if last.fits and settings:
        _say(console, f'fits, with {planning.flags(settings)}')
    elif last.fits:
        _say(console, 'fits')
    else:
        _say(console, 'does not fit' + (
            f', and none of {len(found.tried)} programs that were compiled does'
            if len(found.tried) > 1 else ''
        ))  # fmt: skip


def _propose(settings: list[dict[str, Any]], console: Console) -> None:
    if settings:
        _say(console, 'by estimate these fit, the fastest first; --search compiles them:')
    else:
        _say(console, 'by estimate nothing here fits: take more devices, or fewer pairs')
    for candidate in settings:
        _say(console, f'  {planning.flags(candidate)}')


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, soft_wrap=True)


def bench(
    config: Config, name: str, overrides: list[str], data_dir: Path | None, steps: int,
    out: Path | None,
) -> None:  # fmt: skip
    """Runs steps of training and prints how long they take.

    data_dir: where the streams are read from; made-up batches for None. out: all numbers as JSON.
    """
    if out:
        create_folder(out.parent, '--json')
    numbers = benching.run(config, data_dir, steps)
    console = Console(highlight=False)
    console.print(tables.numbers(f'{name}, {steps} steps', benching.in_words(numbers)))
    if out:
        about = {'config': name, 'overrides': overrides, **numbers}
        write_atomic(out, json.dumps(about, indent=2))
        _say(console, f'all numbers: {out}')
