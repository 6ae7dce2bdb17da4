"""The command line: `mural <verb> --config=FILE[:arg] --workdir=DIR`.

Verbs import what they need when they run, so that `--help` costs nothing and `search` does not
wait for TensorFlow. What the user got wrong is one clear message and exit code 2.
"""

import argparse
import atexit
import os
import shlex
import sys
from pathlib import Path

from mural_jax import __version__
from mural_jax.cli import doctor, flags, params, search
from mural_jax.config.load import load_config
from mural_jax.runs import prepare
from mural_jax.types import RESTART, Restart, UserError


def run() -> None:
    """The console script `mural`."""
    verb = sys.argv[1:2]
    if verb in (['train'], ['evaluate']):
        _take_huge_pages()
    # TensorFlow and tensorboardX import them where they can, which takes seconds, for nothing;
    # tensorflow-text, which exports want, needs keras.
    unused = {'train': ('keras', 'torch'), 'export': ()}
    for name in unused.get(''.join(verb), ('keras',)):
        sys.modules[name] = None  # type: ignore[assignment]
    ended: list[int] = []
    atexit.register(_leave, ended)
    ended.append(main(sys.argv[1:]))
    sys.exit(ended[0])


def _leave(ended: list[int]) -> None:
    """Ends the process where its verb has, without taking Python apart.

    Threads of tf.data run Python functions. One that asks for the interpreter while that is taken
    apart aborts the process, whose work is done. Registered first, so whatever else is to be
    done at the end is.
    """
    if ended:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ended[0])


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
    """Runs one verb; returns 0, or 2 where the user has to change something.

    75 asks for the same command again; `plan` returns 1 where a config does not fit.
    """
    # TensorFlow only reads data here, and has nothing to say about it.
    os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
    os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '0')
    parser = _parser(argv)
    arguments, rest = parser.parse_known_args(argv)
    overrides = [word for word in rest if word.startswith('--config.')]
    unknown = [word for word in rest if word not in overrides]
    if unknown or (overrides and not hasattr(arguments, 'config')):
        parser.error(f'unknown arguments: {" ".join(unknown or overrides)}')
    arguments.overrides = overrides
    try:
        code = arguments.verb(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f'mural: error: {error}', file=sys.stderr)
        return 2
    except Restart as error:
        print(f'mural: {error}', file=sys.stderr)
        return RESTART
    except BrokenPipeError:  # Whoever reads has enough: `mural search ... | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except KeyboardInterrupt:
        print('mural: interrupted; what is saved is whole', file=sys.stderr)
        return 130
    return code or 0


def _parser(argv: list[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog='mural', description='Train and use multilingual image-text dual encoders.'
    )
    parser.add_argument('--version', action='version', version=f'mural_jax {__version__}')
    verbs = parser.add_subparsers(title='verbs', required=True, metavar='VERB')

    prepare = flags.verb(verbs, 'prepare', _prepare, 'build the data sets and train the vocabulary')
    flags.common(prepare, config=True, data_dir=True)
    prepare.add_argument(
        '--source', action='append', default=[], metavar='NAME=PATH',
        help='where a builder finds one of its sources, such as font=FILE (may be repeated)',
    )  # fmt: skip

    params = flags.verb(verbs, 'params', _params, 'count parameters and operations of a config')
    flags.common(params, config=True)

    train = flags.verb(verbs, 'train', _train, 'train, or go on from the newest checkpoint')
    flags.common(train, config=True, workdir=True, data_dir=True)

    _scale_verbs(verbs)

    evaluate = flags.verb(verbs, 'evaluate', _evaluate, 'score a checkpoint and index its pictures')
    flags.add_scored(evaluate)
    flags.common(evaluate, data_dir=True)

    search.add(verbs)

    report = flags.verb(verbs, 'report', _report, 'write a page about one run, or several compared')
    flags.add_reported(report)
    flags.common(report, step=True)

    data = verbs.add_parser('data', help='ingest, look at and measure data')
    _data_verbs(data.add_subparsers(title='verbs', required=True, metavar='VERB'), argv)
    return parser


def _scale_verbs(verbs: argparse._SubParsersAction) -> None:
    plan = flags.verb(verbs, 'plan', _plan, 'what a step needs on devices that nobody has to hold')
    flags.common(plan, config=True)
    flags.add_planned(plan)

    bench = flags.verb(
        verbs, 'bench', _bench_step, 'how fast a step is on the devices that are here'
    )
    flags.common(bench, config=True)
    bench.add_argument(
        '--data_dir', type=Path, help='read the prepared data there (default: made-up batches)'
    )
    bench.add_argument('--steps', type=int, default=20, help='that are measured (default: 20)')
    bench.add_argument('--json', type=Path, help='all numbers, as a file')

    doctor = flags.verb(verbs, 'doctor', _doctor, 'check all that a run needs before it starts')
    flags.common(doctor, config=True, workdir=True, data_dir=True)

    look = flags.verb(verbs, 'inspect', _inspect_run, 'what is in the checkpoints of a run')
    look.add_argument('workdir', type=Path, metavar='WORKDIR', help='the folder of the run')
    flags.common(look, step=True)
    look.add_argument('--full', action='store_true', help='every array, not groups of them')


def _data_verbs(verbs: argparse._SubParsersAction, argv: list[str]) -> None:
    ingest = verbs.add_parser('ingest', help='make a data set of files that others publish')
    if argv[:2] == ['data', 'ingest']:  # The formats are known by their readers alone.
        _formats(ingest.add_subparsers(title='formats', required=True, metavar='FORMAT'))

    clean = flags.verb(verbs, 'decontaminate', _decontaminate, 'find test sets in training data')
    flags.common(clean, config=True, data_dir=True)
    clean.add_argument(
        '--against', nargs='+', default=[], metavar='DATASET:SPLIT',
        help='test sets, besides those that filters.exclude of the sources name',
    )  # fmt: skip
    clean.add_argument(
        '--out',
        type=Path,
        default=Path('decontamination'),
        help='the folder of the report (default: decontamination)',
    )

    look = flags.verb(verbs, 'inspect', _inspect, 'a page of what the streams of a config hold')
    flags.common(look, config=True, data_dir=True)
    look.add_argument(
        '--out', type=Path, default=Path('data.html'), help='the page (default: data.html)'
    )

    bench = flags.verb(verbs, 'bench', _bench, 'how fast the streams of a config are, and why')
    flags.common(bench, config=True, data_dir=True)
    bench.add_argument(
        '--seconds', type=float, default=5.0, help='of each measurement (default: 5)'
    )


def _formats(formats: argparse._SubParsersAction) -> None:
    from mural_jax.data.sources.formats import FORMATS

    for name, kind in FORMATS.items():
        first = (kind.__doc__ or '').strip().splitlines()[0]
        parser = flags.verb(formats, name, _ingest, first)
        parser.set_defaults(reader=kind)
        parser.add_argument(
            '--name', required=True, help='what comes after the slash: captions/NAME or '
            'translations/NAME in a config'
        )  # fmt: skip
        flags.common(parser, data_dir=True)
        flags.add(parser.add_argument_group(f'what a {name} is made of'), kind)
        limits = parser.add_argument_group('limits')
        limits.add_argument(
            '--max_bad', type=float, default=0.01,
            help='the largest share of records that may be bad (default: 0.01)',
        )  # fmt: skip
        limits.add_argument(
            '--max_pixels', type=int, default=50_000_000,
            help='larger pictures are bad, and never decoded (default: 50000000)',
        )  # fmt: skip
        limits.add_argument(
            '--max_characters', type=int, default=10_000,
            help='longer texts are cut there (default: 10000)',
        )  # fmt: skip
        parser.add_argument(
            '--beam',
            nargs='?',
            const='',
            metavar='OPTIONS',
            help="by Apache Beam, with its own options, such as '--runner=FlinkRunner'",
        )


def _prepare(arguments: argparse.Namespace) -> None:

    sources = {}
    for pair in arguments.source:
        name, equals, path = pair.partition('=')
        if not (name and equals and path):
            raise UserError(f'--source {pair} must be NAME=PATH, such as --source font=FILE.')
        sources[name] = path
    prepare.prepare(_config(arguments), arguments.data_dir.expanduser(), sources)


def _params(arguments: argparse.Namespace) -> None:

    params.params(_config(arguments))


def _train(arguments: argparse.Namespace) -> None:
    from mural_jax.runs import start

    data_dir = arguments.data_dir.expanduser()
    start.train(_config(arguments), arguments.workdir.expanduser(), data_dir)


def _plan(arguments: argparse.Namespace) -> int:
    kind, _, count = arguments.topology.partition(':')
    if kind != 'gpu':
        # Before jax looks for devices: it plans for those that are not there.
        os.environ['JAX_PLATFORMS'] = 'cpu'
        os.environ['TPU_SKIP_MDS_QUERY'] = '1'
        os.environ['ALLOW_MULTIPLE_LIBTPU_LOAD'] = '1'
    if kind == 'cpu' and count.isdigit():
        given = os.environ.get('XLA_FLAGS', '')
        os.environ['XLA_FLAGS'] = f'{given} --xla_force_host_platform_device_count={count}'
    from mural_jax.cli import plan as scale_commands

    out = arguments.json.expanduser() if arguments.json else None
    return scale_commands.plan(
        _config(arguments), arguments.topology, arguments.search, out, arguments.memory_gib
    )


def _bench_step(arguments: argparse.Namespace) -> None:
    from mural_jax.cli import plan as scale_commands

    data_dir, out = (path and path.expanduser() for path in (arguments.data_dir, arguments.json))
    scale_commands.bench(
        _config(arguments), arguments.config, arguments.overrides, data_dir, arguments.steps, out
    )


def _doctor(arguments: argparse.Namespace) -> None:

    data_dir = arguments.data_dir.expanduser()
    doctor.doctor(_config(arguments), arguments.workdir.expanduser(), data_dir)


def _inspect_run(arguments: argparse.Namespace) -> None:
    from mural_jax.cli import inspect

    inspect.inspect(arguments.workdir.expanduser(), arguments.step, arguments.full)


def _evaluate(arguments: argparse.Namespace) -> None:
    what = flags.scored(arguments)
    if arguments.overrides and not arguments.config:
        raise UserError('--config.field=VALUE needs --config: the config of a run stays as it is.')
    if what != 'workdir':
        _evaluate_other(arguments)
        return
    from mural_jax.cli import evaluate as evaluation_commands

    evaluation_commands.evaluate(
        arguments.workdir.expanduser(), arguments.data_dir.expanduser(), arguments.step,
        arguments.only, arguments.force, _config(arguments) if arguments.config else None,
    )  # fmt: skip


def _evaluate_other(arguments: argparse.Namespace) -> None:
    from mural_jax.evaluation.external import scoring

    out, force = arguments.out.expanduser(), arguments.force
    if arguments.model:
        scoring.evaluate_model(
            arguments.model, _config(arguments), arguments.data_dir.expanduser(), out,
            arguments.only, force,
        )  # fmt: skip
        return
    images, texts = arguments.images.expanduser(), arguments.texts.expanduser()
    scoring.evaluate_files(images, texts, arguments.language, out, force)


def _report(arguments: argparse.Namespace) -> None:
    from mural_jax.cli import evaluate as evaluation_commands

    words = arguments.workdirs or [str(arguments.workdir)]
    evaluation_commands.report(words, arguments.step, arguments.out)


def _ingest(arguments: argparse.Namespace) -> None:
    from mural_jax.cli import data as data_commands

    beam = None if arguments.beam is None else shlex.split(arguments.beam)
    data_commands.ingest(
        flags.build(arguments.reader, arguments), arguments.name, arguments.data_dir.expanduser(),
        arguments.max_pixels, arguments.max_characters, arguments.max_bad, beam,
    )  # fmt: skip


def _decontaminate(arguments: argparse.Namespace) -> None:
    from mural_jax.cli import data as data_commands

    data_commands.decontaminate(
        _config(arguments), arguments.data_dir.expanduser(), arguments.against,
        arguments.out.expanduser(),
    )  # fmt: skip


def _inspect(arguments: argparse.Namespace) -> None:
    from mural_jax.cli import data as data_commands

    data_dir = arguments.data_dir.expanduser()
    data_commands.inspect(_config(arguments), data_dir, arguments.out.expanduser())


def _bench(arguments: argparse.Namespace) -> None:
    if not arguments.seconds > 0:
        raise UserError(f'--seconds {arguments.seconds} must be more than 0.')
    from mural_jax.cli import data as data_commands

    data_dir = arguments.data_dir.expanduser()
    data_commands.bench(_config(arguments), data_dir, arguments.seconds)


def _config(arguments: argparse.Namespace) -> dict:

    return load_config(arguments.config, arguments.overrides)


if __name__ == '__main__':
    run()
