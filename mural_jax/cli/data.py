"""What each verb of `mural data` does, in order."""

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mural_jax.config.build import plain
from mural_jax.config.load import Config
from mural_jax.data.sources.reader import Reader
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run
from mural_jax.types import UserError
from mural_jax.workdir.files import create_folder, write_atomic


def ingest(
    reader: Reader, name: str, data_dir: Path, max_pixels: int, max_characters: int,
    max_bad: float, beam: list[str] | None,
) -> None:  # fmt: skip
    """Makes a data set of what a reader gives; `beam` are Apache Beam's options."""
    if not re.fullmatch(r'[A-Za-z][A-Za-z0-9_]*', name):
        raise UserError(f'--name {name} must be letters, digits and _, a letter first.')
    if min(max_pixels, max_characters) < 1 or not 0 <= max_bad <= 1:
        raise UserError('--max_pixels and --max_characters are at least 1, --max_bad in [0, 1].')
    create_folder(data_dir, '--data_dir')
    from mural_jax.data.ingest import ingest
    from mural_jax.data.sets.checks import Limits

    limits = Limits(max_pixels, max_characters)
    dataset = ingest.ingest(reader, name, data_dir, limits, max_bad, beam)
    print(f'{dataset} is ready in {data_dir}')


def decontaminate(config: Config, data_dir: Path, against: list[str], out: Path) -> None:
    """Works out what of the training data stands in test sets, and reports it in a folder.

    The sources' own `filters.exclude` is what training leaves out; what only `against` names is
    reported, with the setting that leaves it out too.
    """
    from mural_jax.data.pages import decontamination

    config = _excluding(config, against)
    streams = Run.of(config).build_streams()
    create_folder(out, '--out')
    found: dict[str, Any] = {}
    for name, stream in streams.items():
        for source, about in stream.filter(data_dir).items():
            found[f'{name}.sources.{source}'] = about
    if not any(about['filters']['exclude'] for about in found.values()):
        raise UserError(
            'No test set is named. Give some, --against captions/flickr8k:test, or set '
            'filters.exclude of the sources in the config.'
        )
    write_atomic(out / 'report.json', json.dumps(found, indent=1, ensure_ascii=False))
    page = decontamination.write(found, data_dir, out / 'report.html')
    for place, about in found.items():
        leaks = Counter((leak['test'], leak['what']) for leak in about['leaks'])
        for test in about['filters']['exclude']:
            counted = ' and '.join(f'{leaks[test, what]} {what}s' for what in ('picture', 'text'))
            print(f'{place}: {counted} of {test} are in {about["of"]} and left out')
    print(f'the report is {page}')
    for place, about in found.items() if against else ():
        print(f'to train without them: --config.streams.{place}.filters.exclude='
              f'"{tuple(about["filters"]["exclude"])}"')  # fmt: skip


def inspect(config: Config, data_dir: Path, out: Path) -> None:
    """Writes a page about the streams of a config and prints what they hold."""
    run, tokenizer = _opened(config, data_dir)
    from mural_jax.data.pages import inspect

    create_folder(out.parent, '--out')
    streams = run.build_streams()
    print(f'the page is {inspect.write(streams, data_dir, tokenizer, run.seed, out)}')


def bench(config: Config, data_dir: Path, seconds: float) -> None:
    """Measures the streams of a config and prints where the time goes."""
    run, tokenizer = _opened(config, data_dir)
    from mural_jax.data.pages import bench

    bench.run(run.build_streams(), data_dir, tokenizer, run.seed, seconds)


def _opened(config: Config, data_dir: Path) -> tuple[Run, Tokenizer]:
    run = Run.of(config)
    return run, Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)


def _excluding(config: Config, against: list[str]) -> Config:
    """The config with more test sets to leave out of every source."""

    def extended(source: Mapping[str, Any]) -> dict[str, Any]:
        filters = dict(source.get('filters', {}))
        tests = dict.fromkeys([*filters.get('exclude', ()), *against])
        # A test set of the very data is no leak of it.
        own = f'{source["dataset"]}:{source.get("split", "train")}'
        filters['exclude'] = tuple(test for test in tests if test != own)
        return {**source, 'filters': filters}

    streams = {
        name: {**node, 'sources': {key: extended(s) for key, s in node['sources'].items()}}
        for name, node in config['streams'].items()
    }
    return plain({**config, 'streams': streams})
