"""What happens to long runs, each made to happen to real processes that train together."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import UNOPTIMISED, mural, once

from mural_jax.workdir import metrics
from mural_jax.workdir.checkpoints import Checkpoints

# Long enough that a signal meets it on its way.
LONG = ('--config.schedule.num_steps=60', '--config.schedule.checkpoint_every=10')


class Together:
    """`mural train` in several processes on this machine, one CPU device each."""

    def __init__(self, count: int, folder: Path, data_dir: Path, *words: str, other: str = ''):
        """`other` is one more word for the last process alone."""
        with socket.socket() as free:
            free.bind(('localhost', 0))
            port = free.getsockname()[1]
        flags = f'--xla_force_host_platform_device_count=1 {UNOPTIMISED}'
        command = [sys.executable, '-m', 'mural_jax', 'train', '--config=emoji:tiny', *words,
                   f'--workdir={folder}', f'--data_dir={data_dir}']  # fmt: skip
        self.folder, self.logs = folder, folder.parent / f'{folder.name}-logs'
        self.logs.mkdir(exist_ok=True)
        self.running = []
        for index in range(count):
            environment = os.environ | {
                'XLA_FLAGS': flags, 'PYTHONWARNINGS': 'ignore', 'JAX_NUM_PROCESSES': str(count),
                'JAX_COORDINATOR_ADDRESS': f'localhost:{port}', 'JAX_PROCESS_ID': str(index),
            }  # fmt: skip
            last = [other] if other and index == count - 1 else []
            with (self.logs / str(index)).open('w') as log:
                self.running.append(
                    subprocess.Popen(command + last, env=environment, stdout=log, stderr=log)
                )

    def until(self, step: int) -> 'Together':
        """Waits until these processes train, and for metrics of this step or a later one."""
        deadline = time.monotonic() + 240
        while 'global batch' not in self.said(0) or all(
            line['step'] < step for line in metrics.read(self.folder)
        ):
            assert time.monotonic() < deadline and self.running[0].poll() is None, self.said(0)
            time.sleep(0.05)
        return self

    def signal(self, number: int, *which: int) -> 'Together':
        for index in which or range(len(self.running)):
            self.running[index].send_signal(number)
        return self

    def codes(self, seconds: float = 240) -> list[int]:
        """The exit codes of all, which have to come within the time."""
        deadline = time.monotonic() + seconds
        try:
            return [p.wait(max(deadline - time.monotonic(), 0.1)) for p in self.running]
        finally:
            for process in self.running:
                process.kill()

    def said(self, index: int) -> str:
        return (self.logs / str(index)).read_text(encoding='utf-8', errors='replace')


def parameters(folder: Path, step: int) -> list[np.ndarray]:
    import jax

    checkpoints = Checkpoints(folder)
    found = checkpoints.read(step, 'params', 'progress')
    checkpoints.close()
    return jax.tree.leaves(found)


def lines(folder: Path) -> list[dict]:
    return [
        {k: v for k, v in line.items() if k not in metrics.TIMINGS} for line in metrics.read(folder)
    ]


@pytest.fixture(scope='session')
def undisturbed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two processes to the end."""

    def make(folder: Path) -> None:
        assert Together(2, folder / 'run', data_dir, *LONG).codes() == [0, 0]

    return once(tmp_path_factory, 'undisturbed', make) / 'run'


def test_a_worker_is_killed(undisturbed: Path, data_dir: Path, tmp_path: Path) -> None:
    """The other one ends with words and the code for a restart; the restart ends bit-identical."""
    folder = tmp_path / 'run'
    started = Together(2, folder, data_dir, *LONG).until(12).signal(signal.SIGKILL, 1)
    codes = started.codes(seconds=90)
    assert codes == [75, -signal.SIGKILL], started.said(0)
    assert 'lost' in started.said(0) and 'same command' in started.said(0)
    again = Together(2, folder, data_dir, *LONG)
    assert again.codes() == [0, 0], again.said(0)
    for ours, theirs in zip(parameters(folder, 60), parameters(undisturbed, 60), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert lines(folder) == lines(undisturbed)


def test_other_numbers_of_processes(undisturbed: Path, data_dir: Path, tmp_path: Path) -> None:
    """4, 1 and 2 processes, the first two stopped by SIGTERM: batches of a run that was never
    stopped, one after the other, and its losses up to the order of sums."""
    folder = tmp_path / 'run'
    for count, step in ((4, 4), (1, 20)):
        started = Together(count, folder, data_dir, *LONG).until(step).signal(signal.SIGTERM)
        assert started.codes() == [75] * count, started.said(0)
        assert 'same command' in started.said(0)
    last = Together(2, folder, data_dir, *LONG)
    assert last.codes() == [0] * 2, last.said(0)
    for ours, theirs in zip(lines(folder), lines(undisturbed), strict=True):
        counts = {name for name in theirs if name.startswith(('examples/', 'bad/', 'step'))}
        assert {name: ours[name] for name in counts} == {name: theirs[name] for name in counts}
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3, err_msg=name)
    for folder_ in (folder, undisturbed):
        checkpoints = Checkpoints(folder_)
        positions = checkpoints.about(60)['positions']
        checkpoints.close()
        assert positions == {'captions': 960, 'translations': 960}


def test_one_host_has_another_config(data_dir: Path, tmp_path: Path) -> None:
    started = Together(2, tmp_path / 'run', data_dir, other='--config.seed=1')
    assert started.codes() == [2, 2], started.said(0)
    assert 'seed' in started.said(0) and 'process 1' in started.said(0)
    assert not (tmp_path / 'run' / 'config.json').exists()


def test_the_newest_checkpoint_is_cut_short(workdir: Path, data_dir: Path, tmp_path: Path) -> None:
    """It falls back to the one before, says so, and ends as if nothing had happened."""
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    arrays = max(
        (path for path in (copy / 'checkpoints' / '12' / 'params').rglob('*') if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    arrays.write_bytes(arrays.read_bytes()[: arrays.stat().st_size // 2])
    done = mural('train', '--config=emoji:tiny', f'--workdir={copy}', f'--data_dir={data_dir}')
    assert done.returncode == 0, done.stderr
    assert 'going back to step 8' in done.stderr
    for ours, theirs in zip(parameters(copy, 12), parameters(workdir, 12), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert lines(copy) == lines(workdir)


def test_two_at_once_in_one_workdir(workdir: Path, data_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    shutil.rmtree(copy / 'checkpoints')
    words = ('train', '--config=emoji:tiny', f'--workdir={copy}', f'--data_dir={data_dir}')
    code = (
        'import fcntl, sys, time\n'
        'file = open(sys.argv[1], "w"); fcntl.flock(file, fcntl.LOCK_EX)\n'
        'print("held", flush=True); time.sleep(120)'
    )
    holder = subprocess.Popen(
        [sys.executable, '-c', code, str(copy / 'lock')], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == 'held\n'
    done = mural(*words)
    holder.kill()
    holder.communicate()
    assert done.returncode == 2
    assert 'another' in done.stderr.lower()
    assert json.loads((copy / 'config.json').read_text())['seed'] == 0


def test_processes_share_the_scoring(data_dir: Path, tmp_path: Path) -> None:
    """Two processes find on their way what one finds afterwards."""
    name = 'image_text_held_out'
    few = ("--config.languages.image_text=('en',)", "--config.languages.translation_only=('uz',)")
    every = f'--config.evaluators.{name}.every=12'
    folder = tmp_path / 'run'
    together = Together(2, folder, data_dir, every, *few)
    assert together.codes() == [0, 0], together.said(0) + together.said(1)
    path = folder / 'eval' / '12.json'
    found = json.loads(path.read_text())['results'][name]
    done = mural(
        'evaluate', f'--workdir={folder}', f'--data_dir={data_dir}', '--only', name, '--force'
    )
    assert done.returncode == 0, done.stderr
    alone = json.loads(path.read_text())['results'][name]
    for language in ('en', 'uz'):
        for metric, value in alone[language].items():
            np.testing.assert_allclose(found[language][metric], value, rtol=0.02, atol=0.5)
