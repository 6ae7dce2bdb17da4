"""mural doctor, for a run that is ready and for one that is not."""

import re
import subprocess
from pathlib import Path

import pytest
from conftest import mural


@pytest.fixture(scope='module')
def unready(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess:
    """The doctor's answer where the data is missing and the workdir belongs to another config."""
    empty = tmp_path_factory.mktemp('empty')
    return mural('doctor', '--config=emoji:mural', f'--data_dir={empty}', f'--workdir={workdir}')


def test_ready_run_passes_and_leaves_no_workdir(data_dir: Path, tmp_path: Path) -> None:
    new = tmp_path / 'new'
    done = mural('doctor', '--config=emoji:tiny', f'--data_dir={data_dir}', f'--workdir={new}')
    assert done.returncode == 0, done.stderr
    for check in ('versions', 'config', 'devices', 'data', 'workdir'):
        assert check in done.stdout
    assert not new.exists()


def test_failed_checks_are_named(unready: subprocess.CompletedProcess) -> None:
    assert unready.returncode == 2
    assert 'Not ready: data, workdir' in unready.stderr


def test_table_says_what_to_do(unready: subprocess.CompletedProcess) -> None:
    table = ' '.join(re.sub('[│┃]', ' ', unready.stdout).split())
    assert 'mural prepare' in table and 'belongs to a run of another config' in table
