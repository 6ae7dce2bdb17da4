"""mural data: ingests, checks and measures data, by verbs of its own."""

import argparse
import json
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mural_jax.cli import flags
from mural_jax.types import UserError

if TYPE_CHECKING:
    from mural_jax.data.tokenizer import Tokenizer
    from mural_jax.runs.run import Run


def add_parser(verbs: flags.Verbs, with_formats: bool = False) -> None:
    """Adds the verb and its own verbs.

    with_formats: add the formats of `ingest`, whose flags are fields of the readers.
    """
    text = 'Ingest, check and measure data.'
    parser = verbs.add_parser('data', help=text, description=text)
    own = parser.add_subparsers(title='verbs', required=True, metavar='VERB')
    text = 'Make a data set from files that others publish.'
    ingest = own.add_parser('ingest', help=text, description=text)
    if with_formats:
        _add_formats(ingest.add_subparsers(title='formats', required=True, metavar='FORMAT'))
    _add_decontaminate(own)
    _add_inspect(own)
    _add_bench(own)


def _add_formats(formats: flags.Verbs) -> None:
    from mural_jax.cli import fields
    from mural_jax.data.sources.formats import FORMATS

    for name, reader in FORMATS.items():
        # The rest of the docstring describes the fields, which are flags.
        first_line = (reader.__doc__ or '').strip().splitlines()[0]
        parser = flags.add_verb(formats, name, run_ingest, first_line)
        parser.set_defaults(reader=reader)
        parser.add_argument(
            '--name',
            required=True,
            help='Name of the data set: a config names it captions/NAME or translations/NAME.',
        )
        flags.add_data_dir(parser)
        fields.add_fields(parser.add_argument_group(f'source of {name}'), reader)
        limits = parser.add_argument_group('limits')
        limits.add_argument(
            '--max_bad',
            type=float,
            default=0.01,
            help='Largest share of records that may be bad (default: 0.01).',
        )
        limits.add_argument(
            '--max_pixels',
            type=int,
            default=50_000_000,
            help='Largest number of pixels of an image. Larger images are bad records and are '
            'never decoded (default: 50000000).',
        )
        limits.add_argument(
            '--max_characters',
            type=int,
            default=10_000,
            help='Length at which texts are cut, in characters (default: 10000).',
        )
        # --beam alone runs Beam with its defaults.
        parser.add_argument(
            '--beam',
            nargs='?',
            const='',
            metavar='OPTIONS',
            help="Run on Apache Beam, with its own options, such as '--runner=FlinkRunner'.",
        )


def _add_decontaminate(verbs: flags.Verbs) -> None:
    text = 'Find test sets in the training data.'
    parser = flags.add_verb(verbs, 'decontaminate', run_decontaminate, text)
    flags.add_config(parser)
    flags.add_data_dir(parser)
    parser.add_argument(
        '--against',
        nargs='+',
        default=[],
        metavar='DATASET:SPLIT',
        help='Test sets to look for, besides those in filters.exclude of the sources.',
    )
    parser.add_argument(
        '--out',
        type=flags.user_path,
        default=Path('decontamination'),
        help='Folder of the report (default: decontamination).',
    )


def _add_inspect(verbs: flags.Verbs) -> None:
    text = 'Write a page about what the streams of a config hold.'
    parser = flags.add_verb(verbs, 'inspect', run_inspect, text)
    flags.add_config(parser)
    flags.add_data_dir(parser)
    parser.add_argument(
        '--out',
        type=flags.user_path,
        default=Path('data.html'),
        help='File of the page (default: data.html).',
    )


def _add_bench(verbs: flags.Verbs) -> None:
    text = 'Measure how fast the streams of a config are, and what limits them.'
    parser = flags.add_verb(verbs, 'bench', run_bench, text)
    flags.add_config(parser)
    flags.add_data_dir(parser)
    parser.add_argument(
        '--seconds',
        type=float,
        default=5.0,
        help='Duration of each measurement in seconds (default: 5).',
    )


def run_ingest(arguments: argparse.Namespace) -> None:
    """Makes a data set from what a reader reads."""
    from mural_jax.cli import fields

    reader = fields.build_from_fields(arguments.reader, arguments)
    # The name becomes the name of a TFDS config and of a folder.
    if not re.fullmatch(r'[A-Za-z][A-Za-z0-9_]*', arguments.name):
        raise UserError(
            f'--name {arguments.name} must consist of letters, digits and _, and start with a '
            'letter.'
        )
    if min(arguments.max_pixels, arguments.max_characters) < 1 or not 0 <= arguments.max_bad <= 1:
        raise UserError(
            '--max_pixels and --max_characters must be at least 1, --max_bad must be in [0, 1].'
        )
    beam = None if arguments.beam is None else shlex.split(arguments.beam)
    from mural_jax.workdir.files import create_folder

    create_folder(arguments.data_dir, '--data_dir')
    # TensorFlow takes seconds to import, so wrong flags are refused before.
    from mural_jax.data.ingest import ingest
    from mural_jax.data.sets.checks import RecordLimits

    limits = RecordLimits(arguments.max_pixels, arguments.max_characters)
    dataset = ingest.ingest(
        reader, arguments.name, arguments.data_dir, limits, arguments.max_bad, beam
    )
    print(f'{dataset} is ready in {arguments.data_dir}')


def run_decontaminate(arguments: argparse.Namespace) -> None:
    """Finds training examples that stand in test sets, and reports them in a folder.

    Training leaves out what `filters.exclude` of its sources names. Test sets that only --against
    names are reported, with the setting that makes training leave them out too.
    """
    from mural_jax.data.pages import decontamination
    from mural_jax.data.reading.selection import ensure_filters
    from mural_jax.runs.run import Run
    from mural_jax.workdir.files import create_folder, write_atomic

    # The filters that training applies also find the leaks, so no second search can disagree.
    config = exclude_test_sets(flags.load_config(arguments), arguments.against)
    streams = Run.of(config).streams
    create_folder(arguments.out, '--out')
    found: dict[str, Any] = {}
    for name, stream in streams.items():
        for source, about in ensure_filters(stream, arguments.data_dir).items():
            found[f'{name}.sources.{source}'] = about
    if not any(about['filters']['exclude'] for about in found.values()):
        raise UserError(
            'No test set is named. Give some, --against captions/flickr8k:test, or set '
            'filters.exclude of the sources in the config.'
        )
    report = json.dumps(found, indent=1, ensure_ascii=False)
    write_atomic(arguments.out / 'report.json', report)
    page = decontamination.write_page(found, arguments.data_dir, arguments.out / 'report.html')
    _print_leaks(found)
    print(f'the report is {page}')
    # Without --against the config already excludes everything that was found.
    for place, about in found.items() if arguments.against else ():
        print(
            f'to train without them: --config.streams.{place}.filters.exclude='
            f'"{tuple(about["filters"]["exclude"])}"'
        )


def exclude_test_sets(config: Mapping[str, Any], test_sets: Sequence[str]) -> dict[str, Any]:
    """The config with more test sets in `filters.exclude` of every source."""
    from mural_jax.config.build import lists_to_tuples

    def extend(source: Mapping[str, Any]) -> dict[str, Any]:
        filters = dict(source.get('filters', {}))
        # A dict keeps the order and drops repetitions.
        excluded = dict.fromkeys([*filters.get('exclude', ()), *test_sets])
        # A source that trains on a test set itself would otherwise lose all its examples.
        own = f'{source["dataset"]}:{source.get("split", "train")}'
        filters['exclude'] = tuple(name for name in excluded if name != own)
        return {**source, 'filters': filters}

    streams = {
        name: {
            **stream,
            'sources': {key: extend(source) for key, source in stream['sources'].items()},
        }
        for name, stream in config['streams'].items()
    }
    return lists_to_tuples({**config, 'streams': streams})


def _print_leaks(found: Mapping[str, Any]) -> None:
    for place, about in found.items():
        leaks = Counter((leak['test'], leak['what']) for leak in about['leaks'])
        for test in about['filters']['exclude']:
            images, texts = leaks[test, 'picture'], leaks[test, 'text']
            print(
                f'{place}: {images} images and {texts} texts of {test} are in {about["of"]} and '
                'left out'
            )


def run_inspect(arguments: argparse.Namespace) -> None:
    """Writes a page about the streams of a config."""
    config_run, tokenizer = _load_run(arguments)
    from mural_jax.data.pages import inspect
    from mural_jax.workdir.files import create_folder

    create_folder(arguments.out.parent, '--out')
    page = inspect.write_page(
        config_run.streams, arguments.data_dir, tokenizer, config_run.seed, arguments.out
    )
    print(f'the page is {page}')


def run_bench(arguments: argparse.Namespace) -> None:
    """Measures the streams of a config and prints where the time goes."""
    if not arguments.seconds > 0:
        raise UserError(f'--seconds {arguments.seconds} must be more than 0.')
    config_run, tokenizer = _load_run(arguments)
    from mural_jax.data.pages import bench

    streams = config_run.streams
    bench.bench_streams(streams, arguments.data_dir, tokenizer, config_run.seed, arguments.seconds)


def _load_run(arguments: argparse.Namespace) -> 'tuple[Run, Tokenizer]':
    """The run of a config and its prepared vocabulary."""
    from mural_jax.data.tokenizer import Tokenizer
    from mural_jax.runs.prepare import vocabulary_path
    from mural_jax.runs.run import Run

    config_run = Run.of(flags.load_config(arguments))
    path = vocabulary_path(arguments.data_dir, config_run)
    return config_run, Tokenizer.load(path, config_run.tokenizer)
