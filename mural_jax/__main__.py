"""The command line: `mural <verb> --config=FILE[:arg] --workdir=DIR`.

Verbs import what they need when they run, so that `--help` costs nothing and `search` does not
wait for TensorFlow. What the user got wrong is one clear message and exit code 2.
"""

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

from mural_jax import __version__
from mural_jax.types import UserError

DATA_DIR = os.environ.get('TFDS_DATA_DIR', '~/tensorflow_datasets')
CONFIG_HELP = (
    'FILE[:arg], a path or the name of a config of the package, such as emoji:mural; '
    'any field is set with --config.field.field=VALUE'
)


def run() -> None:
    """The console script `mural`."""
    if sys.argv[1:2] in (['train'], ['evaluate']):
        _take_huge_pages()
    sys.exit(main(sys.argv[1:]))


def _take_huge_pages() -> None:
    """Starts again with memory in huge pages, which the C library decides when a process starts.

    A step takes and gives back gigabytes; page by page that was a fifth of its time on a CPU, and
    hosts of accelerators copy faster from huge pages.
    """
    if sys.platform == 'linux' and 'GLIBC_TUNABLES' not in os.environ:
        os.environ['GLIBC_TUNABLES'] = 'glibc.malloc.hugetlb=1'
        # The very command again: `-m` would let files of the current folder hide modules.
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def main(argv: list[str]) -> int:
    """Runs one verb; returns 0, or 2 where the user has to change something."""
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    overrides = [word for word in rest if word.startswith('--config.')]
    unknown = [word for word in rest if word not in overrides]
    if unknown or (overrides and not hasattr(arguments, 'config')):
        parser.error(f'unknown arguments: {" ".join(unknown or overrides)}')
    # TensorFlow only reads data here, and has nothing to say about it.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    arguments.overrides = overrides
    try:
        arguments.verb(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f'mural: error: {error}', file=sys.stderr)
        return 2
    except BrokenPipeError:  # Whoever reads has enough: `mural search ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print('mural: interrupted; what is saved is whole', file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mural', description='Train and use multilingual image-text dual encoders.'
    )
    parser.add_argument('--version', action='version', version=f'mural_jax {__version__}')
    verbs = parser.add_subparsers(title='verbs', required=True, metavar='VERB')

    prepare = _verb(verbs, 'prepare', _prepare, 'build the data sets and train the vocabulary')
    _add(prepare, config=True, data_dir=True)
    prepare.add_argument(
        '--source', action='append', default=[], metavar='NAME=PATH',
        help='where a builder finds one of its sources, such as font=FILE (may be repeated)',
    )  # fmt: skip

    params = _verb(verbs, 'params', _params, 'count parameters and operations of a config')
    _add(params, config=True)

    train = _verb(verbs, 'train', _train, 'train, or go on from the newest checkpoint')
    _add(train, config=True, workdir=True, data_dir=True)

    evaluate = _verb(verbs, 'evaluate', _evaluate, 'score a checkpoint and index its pictures')
    _add(evaluate, workdir=True, data_dir=True, step=True)

    search = _verb(verbs, 'search', _search, 'find pictures by words in any language')
    _add(search, workdir=True, step=True)
    search.add_argument('--query', required=True, help='what to look for')
    search.add_argument('--k', type=int, default=5, help='how many pictures (default: 5)')
    search.add_argument(
        '--out', type=Path, help='the picture of what was found (default: WORKDIR/search.png)'
    )

    report = _verb(verbs, 'report', _report, 'write WORKDIR/report.html')
    _add(report, workdir=True, step=True)
    return parser


def _verb(
    verbs: argparse._SubParsersAction, name: str, run: Callable, text: str
) -> argparse.ArgumentParser:
    # Without abbreviations, or --conf.x=1 would be taken for --config.
    parser = verbs.add_parser(name, help=text, description=text, allow_abbrev=False)
    parser.set_defaults(verb=run)
    return parser


def _add(parser: argparse.ArgumentParser, **wanted: bool) -> None:
    if wanted.get('config'):
        parser.add_argument('--config', required=True, help=CONFIG_HELP)
    if wanted.get('workdir'):
        parser.add_argument('--workdir', required=True, type=Path, help='the folder of the run')
    if wanted.get('data_dir'):
        parser.add_argument(
            '--data_dir', type=Path, default=Path(DATA_DIR),
            help='the folder of prepared data (default: $TFDS_DATA_DIR or ~/tensorflow_datasets)',
        )  # fmt: skip
    if wanted.get('step'):
        parser.add_argument('--step', type=int, help='which checkpoint (default: the newest)')


def _prepare(arguments: argparse.Namespace) -> None:
    from mural_jax import commands

    sources = {}
    for pair in arguments.source:
        name, equals, path = pair.partition('=')
        if not (name and equals and path):
            raise UserError(f'--source {pair} must be NAME=PATH, such as --source font=FILE.')
        sources[name] = path
    commands.prepare(_config(arguments), arguments.data_dir.expanduser(), sources)


def _params(arguments: argparse.Namespace) -> None:
    from mural_jax import commands

    commands.params(_config(arguments))


def _train(arguments: argparse.Namespace) -> None:
    from mural_jax import commands

    data_dir = arguments.data_dir.expanduser()
    commands.train(_config(arguments), arguments.workdir.expanduser(), data_dir)


def _evaluate(arguments: argparse.Namespace) -> None:
    from mural_jax import commands

    data_dir = arguments.data_dir.expanduser()
    commands.evaluate(arguments.workdir.expanduser(), data_dir, arguments.step)


def _search(arguments: argparse.Namespace) -> None:
    if not arguments.query.strip():
        raise UserError('The query is empty. Say what to look for: --query "a red fruit".')
    if arguments.k < 1:
        raise UserError(f'--k {arguments.k} finds nothing; give at least 1.')
    from mural_jax import commands

    workdir = arguments.workdir.expanduser()
    out = (arguments.out or workdir / 'search.png').expanduser()
    commands.search(workdir, arguments.query, arguments.k, arguments.step, out)


def _report(arguments: argparse.Namespace) -> None:
    from mural_jax import commands

    commands.report(arguments.workdir.expanduser(), arguments.step)


def _config(arguments: argparse.Namespace) -> dict:
    from mural_jax import config

    return config.load(arguments.config, arguments.overrides)


if __name__ == '__main__':
    run()
