"""mural prepare: builds the data sets of a config and trains its vocabulary."""

import argparse
from collections.abc import Sequence

from mural_jax.cli import flags
from mural_jax.types import UserError


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    text = 'Build the data sets of a config and train its vocabulary.'
    parser = flags.add_verb(verbs, 'prepare', run, text)
    flags.add_config(parser)
    flags.add_data_dir(parser)
    parser.add_argument(
        '--source',
        action='append',
        default=[],
        metavar='NAME=PATH',
        help='Where a data set finds one of its sources, such as font=FILE. May be repeated.',
    )


def run(arguments: argparse.Namespace) -> None:
    """Prepares everything that `mural train` and `mural evaluate` read."""
    sources = parse_sources(arguments.source)
    from mural_jax.runs import prepare

    prepare.prepare(flags.load_config(arguments), arguments.data_dir, sources)


def parse_sources(words: Sequence[str]) -> dict[str, str]:
    """Paths by name, from words NAME=PATH. Raises UserError for another form."""
    sources = {}
    for word in words:
        name, equals, path = word.partition('=')
        if not (name and equals and path):
            raise UserError(f'--source {word} must be NAME=PATH, such as --source font=FILE.')
        sources[name] = path
    return sources
