"""mural bench: measures the training step of a config on the devices of this machine."""

import argparse
import json

from mural_jax.cli import flags


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    text = 'Measure the speed of a training step on the devices of this machine.'
    parser = flags.add_verb(verbs, 'bench', run, text)
    flags.add_config(parser)
    parser.add_argument(
        '--data_dir',
        type=flags.user_path,
        help='Folder of prepared data that the step reads (default: random batches).',
    )
    parser.add_argument(
        '--steps', type=int, default=20, help='Number of measured steps (default: 20).'
    )
    parser.add_argument(
        '--json', type=flags.user_path, metavar='FILE', help='File that takes all numbers.'
    )


def run(arguments: argparse.Namespace) -> None:
    """Runs some training steps and prints how long they take."""
    from rich.console import Console

    from mural_jax.planning import tables
    from mural_jax.planning.bench import format_measurements, measure_training
    from mural_jax.workdir.files import create_folder, write_atomic

    config = flags.load_config(arguments)
    if arguments.json:
        # Find out now that the file cannot be written, not after the measurement.
        create_folder(arguments.json.parent, '--json')
    numbers = measure_training(config, arguments.data_dir, arguments.steps)
    console = Console(highlight=False)
    title = f'{arguments.config}, {arguments.steps} steps'
    console.print(tables.build_measurement_table(title, format_measurements(numbers)))
    if arguments.json:
        # The name and the overrides suffice to build the same config again.
        about = {'config': arguments.config, 'overrides': arguments.overrides, **numbers}
        write_atomic(arguments.json, json.dumps(about, indent=2))
        console.print(f'all numbers: {arguments.json}', markup=False, soft_wrap=True)
