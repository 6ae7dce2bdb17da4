"""`mural bench` on the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import UNOPTIMISED, mural, once

READS_DATA = ('tensorflow', 'tensorflow_datasets', 'sentencepiece', 'array_record')


@pytest.fixture(scope='module')
def measurements(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Numbers of a bench on random batches, with nothing installed that reads data."""

    def make(folder: Path) -> None:
        code = (
            'import sys\n'
            f'for name in {READS_DATA}:\n'
            # An entry of None makes the import fail.
            '    sys.modules[name] = None\n'
            'from mural_jax.__main__ import main\n'
            'sys.exit(main(["bench", "--config=emoji:tiny", "--steps=4", '
            f'"--json={folder / "bench.json"}"]))'
        )
        done = subprocess.run(
            [sys.executable, '-c', code],
            capture_output=True,
            text=True,
            env=os.environ | {'XLA_FLAGS': UNOPTIMISED},
        )
        assert done.returncode == 0, done.stderr

    return json.loads((once(tmp_path_factory, 'bench-emoji', make) / 'bench.json').read_text())


def test_step_time_lies_between_its_quartiles(measurements: dict[str, Any]) -> None:
    low, high = measurements['step_seconds_quartiles']
    assert 0 < low <= measurements['step_seconds'] <= high


def test_pairs_per_second_follow_from_the_step_time(measurements: dict[str, Any]) -> None:
    expected = 32 / measurements['step_seconds']
    assert measurements['pairs_per_second'] == pytest.approx(expected)


def test_compile_time_and_versions_are_recorded(measurements: dict[str, Any]) -> None:
    assert measurements['compile_seconds'] > 0 and measurements['versions']['jax']


def test_numbers_that_need_data_or_peaks_are_left_out(measurements: dict[str, Any]) -> None:
    assert 'data_wait_share' not in measurements and 'share_of_peak' not in measurements


def test_wait_for_real_data_is_measured(data_dir: Path) -> None:
    done = mural('bench', '--config=emoji:tiny', '--steps=4', f'--data_dir={data_dir}')
    assert done.returncode == 0, done.stderr
    assert 'wait for data' in done.stdout


def test_single_step_is_refused() -> None:
    done = mural('bench', '--config=emoji:tiny', '--steps=1')
    assert done.returncode == 2 and 'at least 2' in done.stderr
