"""Flags that several verbs share."""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mural_jax.types import UserError

if TYPE_CHECKING:
    from mural_jax.search.searcher import Searcher

Verbs = argparse._SubParsersAction  # What argparse returns for the verbs of a parser.

DATA_DIR = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
# The keys of `search.finder.CANDIDATES`, whose module imports jax.
SEARCH_METHODS = ('exact', 'binary', 'faiss')


def add_verb(
    verbs: Verbs, name: str, run: Callable[[argparse.Namespace], int | None], text: str
) -> argparse.ArgumentParser:
    """Adds a verb and returns its parser. `run` may return an exit code."""
    # argparse would otherwise read --conf.x=1 as an abbreviation of --config.
    parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(run=run)
    return parser


def user_path(word: str) -> Path:
    """The path that the user wrote, with `~` expanded."""
    return Path(word).expanduser()


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config, which the verb requires. `load_config` reads it."""
    parser.add_argument(
        '--config',
        required=True,
        metavar='FILE[:ARG]',
        help='Path of a config file, or the name of one that comes with the package, such as '
        'emoji:mural. --config.FIELD.FIELD=VALUE overrides any of its fields.',
    )


def add_workdir(parser: argparse.ArgumentParser) -> None:
    """Adds --workdir, which the verb requires."""
    parser.add_argument('--workdir', required=True, type=user_path, help='Folder of the run.')


def add_data_dir(parser: argparse.ArgumentParser) -> None:
    """Adds --data_dir."""
    parser.add_argument(
        '--data_dir',
        type=user_path,
        # A text, because argparse applies `type` to it as to the word of a user.
        default=DATA_DIR,
        help='Folder of the prepared data (default: $TFDS_DATA_DIR or ~/tensorflow_datasets).',
    )


def add_step(parser: argparse.ArgumentParser) -> None:
    """Adds --step, the number of one checkpoint."""
    parser.add_argument('--step', type=int, help='Step of the checkpoint (default: the newest).')


def add_searcher(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that say how an index is searched. `open_searcher` reads them."""
    parser.add_argument(
        '--model',
        type=user_path,
        help='Folder of the exported model, if it moved since the index was made.',
    )
    parser.add_argument(
        '--how',
        default='exact',
        choices=SEARCH_METHODS,
        help='Compare the query with every image, or find candidates first, by the signs of the '
        'embeddings (binary) or by faiss (default: exact).',
    )
    parser.add_argument(
        '--rerank',
        type=int,
        help='Number of candidates that are compared exactly (default: 5000 for binary, 200 for '
        'faiss).',
    )


def load_config(arguments: argparse.Namespace) -> dict[str, Any]:
    """The config that --config names, with the --config.FIELD=VALUE overrides applied."""
    from mural_jax.config import load

    return load.load_config(arguments.config, arguments.overrides)


def open_searcher(arguments: argparse.Namespace) -> 'Searcher':
    """The index that --index names, with its model. Raises UserError for a wrong --rerank."""
    if arguments.rerank is not None and arguments.rerank < 1:
        raise UserError(f'--rerank {arguments.rerank} must be at least 1.')
    from mural_jax.search import searcher

    return searcher.open_searcher(arguments.index, arguments.model, arguments.how, arguments.rerank)
