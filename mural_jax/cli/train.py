"""mural train: trains a model, or continues from its newest checkpoint."""

import argparse

from mural_jax.cli import flags


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    text = 'Train a model, or continue from its newest checkpoint.'
    parser = flags.add_verb(verbs, 'train', run, text)
    flags.add_config(parser)
    flags.add_workdir(parser)
    flags.add_data_dir(parser)


def run(arguments: argparse.Namespace) -> None:
    """Trains to the last step of the config."""
    from mural_jax.runs import start

    start.train(flags.load_config(arguments), arguments.workdir, arguments.data_dir)
