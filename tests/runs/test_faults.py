"""Faults of long runs, each in real processes that train together."""

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
from commands import start_forked
from conftest import UNOPTIMISED, mural, once

from mural_jax.workdir import metrics
from mural_jax.workdir.checkpoints import Checkpoints

# Long enough that a signal comes before its end.
LAST = 36
LONG = (f'--config.schedule.num_steps={LAST}', '--config.schedule.checkpoint_every=10')


class TrainingProcesses:
    """`mural train` in several processes on this machine, with one CPU device each."""

    def __init__(self, count: int, folder: Path, data_dir: Path, *words: str, other: str = ''):
        """Starts the processes; `other` is one more argument of the last process alone."""
        with socket.socket() as free:
            free.bind(('localhost', 0))
            port = free.getsockname()[1]
        flags = f'--xla_force_host_platform_device_count=1 {UNOPTIMISED}'
        where = [f'--workdir={folder}', f'--data_dir={data_dir}']
        command = ['train', '--config=emoji:tiny', *words, *where]
        self.folder, self.logs = folder, folder.parent / f'{folder.name}-logs'
        self.logs.mkdir(exist_ok=True)
        self.running = []
        for index in range(count):
            environment = {
                'XLA_FLAGS': flags,
                'JAX_NUM_PROCESSES': str(count),
                'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
                'JAX_PROCESS_ID': str(index),
            }
            last = [other] if other and index == count - 1 else []
            log = self.logs / str(index)
            log.write_bytes(b'')  # Processes that trained here before wrote there, too.
            self.running.append(start_forked(command + last, environment, log, log))

    def wait_for_step(self, step: int) -> 'TrainingProcesses':
        """Waits until the processes train and have written metrics of this step."""
        deadline = time.monotonic() + 240
        while 'global batch' not in self.read_log(0) or all(
            line['step'] < step for line in metrics.read(self.folder)
        ):
            assert time.monotonic() < deadline and self.running[0].is_alive(), self.read_log(0)
            time.sleep(0.05)
        return self

    def signal(self, number: int, *which: int) -> 'TrainingProcesses':
        """Sends a signal to some of the processes, to all by default."""
        for index in which or range(len(self.running)):
            os.kill(self.running[index].pid, number)
        return self

    def wait(self, seconds: float = 240) -> list[int | None]:
        """The exit codes of all processes, None for one that has not ended within the time."""
        deadline = time.monotonic() + seconds
        try:
            for process in self.running:
                process.join(max(deadline - time.monotonic(), 0.1))
            return [process.exitcode for process in self.running]
        finally:
            for process in self.running:
                process.kill()

    def read_log(self, index: int) -> str:
        return (self.logs / str(index)).read_text(encoding='utf-8', errors='replace')


def read_arrays(folder: Path, step: int) -> list[np.ndarray]:
    import jax

    checkpoints = Checkpoints(folder)
    found = checkpoints.read(step, 'params', 'progress')
    checkpoints.close()
    return jax.tree.leaves(found)


def read_metrics(folder: Path) -> list[dict]:
    """The lines of metrics without those that depend on the machine."""
    return [
        {k: v for k, v in line.items() if k not in metrics.TIMINGS} for line in metrics.read(folder)
    ]


@pytest.fixture(scope='session')
def undisturbed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run in two processes that nothing disturbed."""

    def make(folder: Path) -> None:
        assert TrainingProcesses(2, folder / 'run', data_dir, *LONG).wait() == [0, 0]

    return once(tmp_path_factory, 'undisturbed', make) / 'run'


def test_killed_process_restarts_to_a_bit_identical_end(
    undisturbed: Path, data_dir: Path, tmp_path: Path
) -> None:
    """The other process ends with a message and the exit code for a restart."""
    folder = tmp_path / 'run'
    started = TrainingProcesses(2, folder, data_dir, *LONG).wait_for_step(12)
    started.signal(signal.SIGKILL, 1)
    codes = started.wait(seconds=90)
    assert codes == [75, -signal.SIGKILL], started.read_log(0)
    assert 'lost' in started.read_log(0) and 'same command' in started.read_log(0)
    again = TrainingProcesses(2, folder, data_dir, *LONG)
    assert again.wait() == [0, 0], again.read_log(0)
    for ours, theirs in zip(read_arrays(folder, LAST), read_arrays(undisturbed, LAST), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert read_metrics(folder) == read_metrics(undisturbed)


def test_number_of_processes_may_change_between_restarts(
    undisturbed: Path, data_dir: Path, tmp_path: Path
) -> None:
    """4, 1 and 2 processes, the first two stopped by SIGTERM. The batches are those of a run that
    was never stopped, and the losses too up to the order of sums."""
    folder = tmp_path / 'run'
    for count, step in ((4, 4), (1, 14)):
        started = (
            TrainingProcesses(count, folder, data_dir, *LONG)
            .wait_for_step(step)
            .signal(signal.SIGTERM)
        )
        assert started.wait() == [75] * count, started.read_log(0)
        assert 'same command' in started.read_log(0)
    last = TrainingProcesses(2, folder, data_dir, *LONG)
    assert last.wait() == [0] * 2, last.read_log(0)
    for ours, theirs in zip(read_metrics(folder), read_metrics(undisturbed), strict=True):
        counts = {name for name in theirs if name.startswith(('examples/', 'bad/', 'step'))}
        assert {name: ours[name] for name in counts} == {name: theirs[name] for name in counts}
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3, err_msg=name)
    for folder_ in (folder, undisturbed):
        checkpoints = Checkpoints(folder_)
        positions = checkpoints.about(LAST)['positions']
        checkpoints.close()
        assert positions == {'captions': 16 * LAST, 'translations': 16 * LAST}


def test_process_with_another_config_is_refused(data_dir: Path, tmp_path: Path) -> None:
    started = TrainingProcesses(2, tmp_path / 'run', data_dir, other='--config.seed=1')
    assert started.wait() == [2, 2], started.read_log(0)
    assert 'seed' in started.read_log(0) and 'process 1' in started.read_log(0)
    assert not (tmp_path / 'run' / 'config.json').exists()


def test_damaged_newest_checkpoint_is_passed_over(
    workdir: Path, data_dir: Path, tmp_path: Path
) -> None:
    """The run goes back to the checkpoint before, and ends as if nothing had happened."""
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    arrays = max(
        (path for path in (copy / 'checkpoints' / '12' / 'params').rglob('*') if path.is_file()),
        key=lambda path: path.stat().st_size,
    )
    arrays.write_bytes(arrays.read_bytes()[: arrays.stat().st_size // 2])
    done = mural('train', '--config=emoji:tiny', f'--workdir={copy}', f'--data_dir={data_dir}')
    assert done.returncode == 0, done.stderr
    assert 'going back to step 8' in done.stderr
    for ours, theirs in zip(read_arrays(copy, 12), read_arrays(workdir, 12), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert read_metrics(copy) == read_metrics(workdir)


def test_second_training_in_a_workdir_is_refused(
    workdir: Path, data_dir: Path, tmp_path: Path
) -> None:
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


def test_two_processes_score_as_one(data_dir: Path, tmp_path: Path) -> None:
    """Scores during training in two processes are those of one process afterwards."""
    name = 'image_text_held_out'
    few = ("--config.languages.image_text=('en',)", "--config.languages.translation_only=('uz',)")
    every = f'--config.evaluators.{name}.every=12'
    folder = tmp_path / 'run'
    together = TrainingProcesses(2, folder, data_dir, every, *few)
    assert together.wait() == [0, 0], together.read_log(0) + together.read_log(1)
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
