"""mural plan: what a training step needs on devices that nobody has to hold."""

import argparse
import json
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from mural_jax.cli import flags
from mural_jax.types import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from mural_jax.planning.plan import Plan
    from mural_jax.planning.search import SearchOutcome

DOES_NOT_FIT = 1  # Exit code.


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    text = 'Compute what a training step needs on devices that need not be present.'
    parser = flags.add_verb(verbs, 'plan', run, text)
    flags.add_config(parser)
    parser.add_argument(
        '--topology',
        required=True,
        help='Kind and layout of the devices, such as v4:4x4x8, v5e:16x16, v5p:4x4x4, v6e:16x16, '
        'cpu:8, or gpu for the GPUs of this machine.',
    )
    parser.add_argument(
        '--search',
        action='store_true',
        help='Look for settings that fit, if those of the config do not.',
    )
    parser.add_argument(
        '--memory_gib',
        type=float,
        help='Memory of one device in GiB (default: what its kind is known to have).',
    )
    parser.add_argument(
        '--json', type=flags.user_path, metavar='FILE', help='File that takes all numbers.'
    )


def run(arguments: argparse.Namespace) -> int:
    """Prints what a step needs on a topology. Returns 0 if it fits, otherwise 1.

    With --search, compiles other settings until some fit.
    """
    _configure_jax(arguments.topology)
    config = flags.load_config(arguments)
    from rich.console import Console

    from mural_jax.planning.chips import find_chip, find_devices
    from mural_jax.planning.plan import make_plan
    from mural_jax.planning.search import SearchOutcome, propose_settings, search_settings
    from mural_jax.workdir.files import create_folder

    if arguments.json:
        # Find out now that the file cannot be written, not after minutes of compiling.
        create_folder(arguments.json.parent, '--json')
    if arguments.memory_gib is not None and arguments.memory_gib <= 0:
        raise UserError(f'--memory_gib={arguments.memory_gib} must be more than 0.')
    devices = find_devices(arguments.topology)
    chip = find_chip(devices[0])
    capacity = _choose_capacity(arguments.memory_gib, chip.memory, devices[0].device_kind)
    console = Console(highlight=False)
    first = make_plan(config, devices, chip, capacity)
    _print_plan(first, console)
    # No changed settings: the config itself is the first attempt.
    outcome = SearchOutcome([({}, first)])
    if not first.fits and arguments.search:
        outcome = search_settings(
            config, devices, chip, capacity, first, lambda text: _print_line(console, text)
        )
        # The last program is the one that fits, or the last that was tried.
        if len(outcome.tried) > 1:
            _print_plan(outcome.tried[-1][1], console)
    _print_conclusion(outcome, console)
    if not first.fits and not arguments.search:
        _print_proposals(propose_settings(config, devices, chip, first), console)
    if arguments.json:
        _write_json(arguments, chip.source, config, outcome)
    return 0 if outcome.settings is not None else DOES_NOT_FIT


def _configure_jax(topology: str) -> None:
    """Sets the environment in which jax compiles for devices that are not present.

    jax reads these variables when it is imported or first looks for devices, so this comes first.
    """
    kind, _, count = topology.partition(':')
    # GPUs are planned for on the GPUs of this machine; others are compiled for from a CPU.
    if kind != 'gpu':
        os.environ['JAX_PLATFORMS'] = 'cpu'
        os.environ['TPU_SKIP_MDS_QUERY'] = '1'
        os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'
    # CPU devices are simulated, so jax must be told how many there are.
    if kind == 'cpu' and count.isdigit():
        given = os.environ.get('XLA_FLAGS', '')
        os.environ['XLA_FLAGS'] = f'{given} --xla_force_host_platform_device_count={count}'


def _choose_capacity(memory_gib: float | None, known: float | None, device_kind: str) -> float:
    """The memory of one device in bytes. Raises UserError if neither flag nor chip tells it."""
    from mural_jax.planning.chips import GIB

    capacity = memory_gib * GIB if memory_gib else known
    if not capacity:
        raise UserError(
            f'The memory of {device_kind} is not known. Give it with --memory_gib=NUMBER.'
        )
    return capacity


def _print_plan(plan: 'Plan', console: 'Console') -> None:
    from mural_jax.planning import tables

    console.print(tables.build_memory_table(plan))
    if plan.collectives:
        console.print(tables.build_collectives_table(plan))
    if plan.bounds:
        console.print(tables.build_bounds_table(plan))
    for line in tables.describe_plan(plan):
        _print_line(console, line)


def _print_conclusion(outcome: 'SearchOutcome', console: 'Console') -> None:
    from mural_jax.planning.plan import format_flags

    settings, last = outcome.tried[-1]
    if last.fits and settings:
        _print_line(console, f'fits, with {format_flags(settings)}')
    elif last.fits:
        _print_line(console, 'fits')
    elif len(outcome.tried) > 1:
        _print_line(
            console, f'does not fit, and none of the {len(outcome.tried)} compiled programs does'
        )
    else:
        _print_line(console, 'does not fit')


def _print_proposals(proposals: Sequence[dict[str, Any]], console: 'Console') -> None:
    from mural_jax.planning.plan import format_flags

    if proposals:
        _print_line(
            console, 'by estimate these settings fit, the fastest first; --search compiles them:'
        )
    else:
        _print_line(console, 'by estimate no settings fit: take more devices, or fewer pairs')
    for settings in proposals:
        _print_line(console, f'  {format_flags(settings)}')


def _write_json(
    arguments: argparse.Namespace, source: str, config: dict[str, Any], outcome: 'SearchOutcome'
) -> None:
    from mural_jax.planning.plan import plan_to_json
    from mural_jax.workdir.files import write_atomic

    tried = [{'settings': settings, **plan_to_json(plan)} for settings, plan in outcome.tried]
    written = {'topology': arguments.topology, 'source': source, 'config': config, 'tried': tried}
    write_atomic(arguments.json, json.dumps(written, indent=2))


def _print_line(console: 'Console', text: str) -> None:
    # Settings have brackets, which rich would read as markup, and must be copied whole.
    console.print(text, markup=False, soft_wrap=True)
