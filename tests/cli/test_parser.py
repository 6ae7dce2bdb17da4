"""The parser of the command line, its exit codes, and what a call imports."""

import argparse
import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mural_jax.cli import export, fields, flags, parser, prepare
from mural_jax.cli.parser import main
from mural_jax.types import RESTART, Restart, UserError

VERBS = (
    'prepare',
    'params',
    'train',
    'plan',
    'bench',
    'doctor',
    'inspect',
    'evaluate',
    'export',
    'index',
    'search',
    'serve',
    'report',
    'data',
)


@pytest.mark.parametrize('words', [[], *[[verb] for verb in VERBS]])
def test_every_verb_has_help(words: list[str], capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, '--help'])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith(' '.join(['usage: mural', *words]))


def test_help_of_a_format_has_the_fields_of_its_reader(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(['data', 'ingest', 'captions', '--help'])
    assert ended.value.code == 0
    assert '--split_column SPLIT_COLUMN' in capsys.readouterr().out


def test_help_loads_no_heavy_library() -> None:
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', '-m', 'mural_jax', '--help'],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith('usage: mural')
    loaded = {line.split('|')[-1].strip().split('.')[0] for line in done.stderr.splitlines()}
    heavy = {'jax', 'jaxlib', 'tensorflow', 'flax', 'orbax', 'numpy', 'rich', 'PIL', 'pyarrow'}
    assert not loaded & heavy


@pytest.mark.parametrize(
    ('words', 'named'),
    [
        (['params', '--config=emoji:tiny', '--conf.x=1'], '--conf.x=1'),
        (['search', '--index=x', '--query=x', '--config.seed=1'], '--config.seed=1'),
    ],
)
def test_unknown_flag_is_named_in_error(
    words: list[str], named: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert f'unknown arguments: {named}' in capsys.readouterr().err


def test_overrides_are_kept_in_order() -> None:
    words = ['params', '--config.seed=1', '--config=emoji:tiny', '--config.seed=2']
    assert parser.parse(words).overrides == ['--config.seed=1', '--config.seed=2']


def test_home_folder_is_expanded() -> None:
    arguments = parser.parse(['doctor', '--config=emoji:tiny', '--workdir=~/run'])
    assert arguments.workdir == Path.home() / 'run'
    assert '~' not in str(arguments.data_dir)


@pytest.mark.parametrize(
    ('error', 'code', 'said'),
    [
        (UserError('Give a number.'), 2, 'mural: error: Give a number.'),
        (Restart('stopped by a signal'), RESTART, 'mural: stopped by a signal'),
        (KeyboardInterrupt(), 130, 'mural: interrupted'),
    ],
)
def test_errors_become_exit_codes(
    error: BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    def fail(_: argparse.Namespace) -> None:
        raise error

    monkeypatch.setattr(flags, 'load_config', fail)
    assert main(['params', '--config=emoji:tiny']) == code
    assert said in capsys.readouterr().err


def test_reader_that_stops_early_is_no_error() -> None:
    # `true` ends before the table is written.
    command = f'{sys.executable} -m mural_jax params --config=emoji:tiny | true'
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert 'BrokenPipe' not in done.stderr


def test_files_of_the_current_folder_hide_no_module(tmp_path: Path) -> None:
    # `mural train` starts its process again, which must not add the current folder to the path.
    script = Path(sys.executable).parent / 'mural'
    if not script.exists():
        pytest.skip('the package is not installed')
    (tmp_path / 'random.py').write_text('raise SystemExit("hidden")')
    environment = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
    command = [script, 'train', '--config=nowhere', '--workdir=run']
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert 'no config file' in done.stderr


def test_choices_of_flags_are_those_of_the_package() -> None:
    # The parser repeats these names, because their modules take seconds to import.
    from mural_jax.exports.catalog import FORMATS
    from mural_jax.exports.native import DTYPES
    from mural_jax.search.finder import CANDIDATES

    assert set(export.FORMATS) == set(FORMATS)
    assert set(export.DTYPES) == set(DTYPES)
    assert set(flags.SEARCH_METHODS) == set(CANDIDATES)


@pytest.mark.parametrize('word', ['font', 'font=', '=file'])
def test_source_without_name_or_path_is_refused(word: str) -> None:
    with pytest.raises(UserError, match='must be NAME=PATH'):
        prepare.parse_sources([word])


def test_sources_are_read_by_name() -> None:
    assert prepare.parse_sources(['font=a', 'cldr=b=c']) == {'font': 'a', 'cldr': 'b=c'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a reader.

    table: the table,
        or a pattern of several.
    share: 50% or less.
    """

    table: str
    share: float = 0.5
    languages: tuple[str, ...] = ('en', 'be')
    strict: bool = False


@pytest.fixture
def field_parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser()
    fields.add_fields(made.add_argument_group('settings'), Settings)
    return made


def test_fields_are_read_from_flags(field_parser: argparse.ArgumentParser) -> None:
    words = ['--table=t', '--share=0.25', '--languages', 'uz', 'yo', '--strict']
    settings = fields.build_from_fields(Settings, field_parser.parse_args(words))
    assert settings == Settings(table='t', share=0.25, languages=('uz', 'yo'), strict=True)


def test_fields_keep_their_defaults(field_parser: argparse.ArgumentParser) -> None:
    settings = fields.build_from_fields(Settings, field_parser.parse_args(['--table=t']))
    assert settings == Settings(table='t')


def test_field_without_default_is_required(
    field_parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit):
        field_parser.parse_args([])
    assert '--table' in capsys.readouterr().err


def test_help_of_a_field_is_its_docstring_with_the_default(
    field_parser: argparse.ArgumentParser,
) -> None:
    text = ' '.join(field_parser.format_help().split())
    assert 'The table, or a pattern of several.' in text
    assert '50% or less (default: 0.5).' in text
