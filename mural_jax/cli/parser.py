"""The parser of `mural VERB ...`, and `main`, which runs one verb."""

import argparse
import os
import sys
from collections.abc import Sequence

from mural_jax import __version__
from mural_jax.cli import (
    bench,
    data,
    doctor,
    evaluate,
    export,
    index,
    inspect,
    params,
    plan,
    prepare,
    report,
    search,
    serve,
    train,
)
from mural_jax.types import RESTART, Restart, UserError

# In the order in which `mural --help` lists them.
VERBS = (
    prepare,
    params,
    train,
    plan,
    bench,
    doctor,
    inspect,
    evaluate,
    export,
    index,
    search,
    serve,
    report,
)
USER_ERROR = 2  # argparse exits with 2 for wrong flags, too.
INTERRUPTED = 130  # 128 + SIGINT, as shells report it.
CLOSED_PIPE = 141  # 128 + SIGPIPE, as shells report it.


def main(argv: Sequence[str]) -> int:
    """Runs one verb and returns its exit code.

    0: done. 1: `plan` found that the config does not fit, or `export` removed a wrong export.
    2: the user has to change something. 75: the same command should run again. 130: interrupted.
    141: the reader of the output is gone. Wrong flags end the process with 2 (argparse).
    """
    # TensorFlow only reads data here, so its notes on devices and kernels are noise.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    arguments = parse(argv)
    try:
        code = arguments.run(arguments)
        # Flush here: a reader that is gone would otherwise show up after this `try`.
        sys.stdout.flush()
    except UserError as error:
        print(f'mural: error: {error}', file=sys.stderr)
        return USER_ERROR
    except Restart as error:
        print(f'mural: {error}', file=sys.stderr)
        return RESTART
    except BrokenPipeError:  # For example `mural search ... | head`.
        # Python flushes stdout again at exit, which would raise again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE
    except KeyboardInterrupt:
        print('mural: interrupted; everything saved so far is complete', file=sys.stderr)
        return INTERRUPTED
    return code or 0


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments, with all `--config.FIELD=VALUE` words in `overrides`."""
    parser = build_parser(with_formats=list(argv[:2]) == ['data', 'ingest'])
    arguments, rest = parser.parse_known_args(argv)
    # Which fields exist depends on the config file, so argparse cannot know them.
    overrides = [word for word in rest if word.startswith('--config.')]
    unknown = [word for word in rest if word not in overrides]
    if unknown or (overrides and not hasattr(arguments, 'config')):
        parser.error(f'unknown arguments: {" ".join(unknown or overrides)}')
    arguments.overrides = overrides
    return arguments


def build_parser(with_formats: bool = False) -> argparse.ArgumentParser:
    """The parser of all verbs.

    with_formats: add the formats of `mural data ingest` and their flags. They are fields of the
    readers, whose libraries take a second to import.
    """
    parser = argparse.ArgumentParser(
        prog='mural', description='Train and use multilingual image-text dual encoders.'
    )
    parser.add_argument(
        '--version',
        action='version',
        version=f'mural_jax {__version__}',
        help='Print the version and exit.',
    )
    verbs = parser.add_subparsers(title='verbs', required=True, metavar='VERB')
    for verb in VERBS:
        verb.add_parser(verbs)
    data.add_parser(verbs, with_formats)
    return parser
