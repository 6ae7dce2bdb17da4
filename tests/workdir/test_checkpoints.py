"""Saving checkpoints in the background and reading single ones."""

import gc
import json
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from workdir.saved_runs import are_equal, make_trees, resume_run, save_steps

from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Checkpoints

# When one array cannot be read, orbax leaves the reading of the others unfinished.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(autouse=True)
def _collect_garbage() -> Iterator[None]:
    """What orbax leaves behind is collected here, not in another test."""
    yield
    gc.collect()


def test_save_writes_what_was_there_when_it_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on with the same lists while they are being written."""
    dumps = json.dumps

    def dump_late(*given: Any, **options: Any) -> str:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.5)
        return dumps(*given, **options)

    monkeypatch.setattr(json, 'dumps', dump_late)
    checkpoints, window = Checkpoints(tmp_path), [0.5]
    checkpoints.save(1, make_trees(1), {'window': window})
    window.append(jnp.float32(1))  # JSON has no such value.
    checkpoints.close()
    reopened = Checkpoints(tmp_path)
    assert reopened.about(1)['window'] == [0.5]
    reopened.close()


def test_reading_a_damaged_step_names_the_other_steps(tmp_path: Path) -> None:
    save_steps(tmp_path, 4, 8)
    (tmp_path / 'checkpoints' / '8' / 'params' / 'manifest.ocdbt').write_bytes(b'')
    (tmp_path / 'checkpoints' / '8' / 'about' / 'metadata').write_bytes(b'')
    checkpoints = Checkpoints(tmp_path)
    for read in (
        lambda: checkpoints.restore(8, params=make_trees(0)['params']),
        lambda: checkpoints.read(8, 'params', 'statistics'),
        lambda: checkpoints.about(8),
    ):
        with pytest.raises(UserError, match=r'step 8 .* cannot be read.*other steps, \[4\]'):
            read()
    assert set(checkpoints.read(4, 'params', 'statistics')) == {'params'}
    checkpoints.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / 'small'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f'a small file system cannot be mounted: {error}')
    yield folder
    subprocess.run(['umount', str(folder)], check=True)


def test_full_disk_names_the_newest_good_step(small_disk: Path) -> None:
    def make_noise(step: int) -> dict[str, Any]:
        noise = np.random.default_rng(step).normal(size=(600, 1000)).astype(np.float32)
        return {'params': {'noise': jnp.asarray(noise)}}

    checkpoints = Checkpoints(small_disk, keep=5)
    with pytest.raises(UserError, match='disk .* is full') as error:
        for step in range(1, 9):
            checkpoints.save(step, make_noise(step), {'step': step})
        checkpoints.close()
    good = max(int(p.name) for p in (small_disk / 'checkpoints').iterdir() if p.name.isdigit())
    assert 2 <= good <= 4
    assert f'checkpoint of step {good + 1} could not be written' in str(error.value)
    assert f'goes on from step {good}' in str(error.value)
    shutil.rmtree(small_disk / 'checkpoints' / '1')
    found, said = resume_run(small_disk, **make_noise(0))
    assert found[0] == good and are_equal(found[2], make_noise(good)) and not said
    assert not list((small_disk / 'checkpoints').glob('*tmp*'))
