"""Faults of long runs, each in real processes that train together."""

import collections
import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from conftest import ALL, mural, once
from training.batches import read_metrics
from training_processes import TrainingProcesses, assert_same_end

from mural_jax.distributed import processes
from mural_jax.types import RESTART
from mural_jax.workdir.checkpoints import Checkpoints

TINY = '--config=emoji:tiny'
LAST = 24
# Long enough that signals come before its end, with checkpoints for them to come into.
LONG = (
    '--config=emoji:align,tiny',
    f'--config.schedule.num_steps={LAST}',
    '--config.schedule.checkpoint_every=5',
)
# On four devices, which take turns in the mesh: two processes hold each row and each shard.
MIXED = ('--config.mesh.data=2', '--config.mesh.fsdp=2')
ORDER = (0, 2, 1, 3)
# Seconds from the meeting of the processes to the last step, on a machine that does nothing else.
SPAN = 20
# Signals that the test sends.
SIGNALS = 100 if ALL else 3
COUNTS = (2, 4) if ALL else (2,)


def start_long(count: int, folder: Path, data_dir: Path) -> TrainingProcesses:
    order = ORDER if count > 1 else ()
    words = (*LONG, *MIXED)
    return TrainingProcesses(count, folder, data_dir, *words, devices=4 // count, order=order)


@pytest.fixture(scope='session')
def undisturbed(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """By number of processes the workdir of the long run that nothing disturbed."""

    def find(count: int) -> Path:
        def make(folder: Path) -> None:
            started = start_long(count, folder / 'run', data_dir)
            assert started.wait() == [0] * count, started.read_log(0)

        return once(tmp_path_factory, f'undisturbed-{count}', make) / 'run'

    return find


class Disturber:
    """Sends signals to a run at random moments: to end it, or to stop it for a while."""

    def __init__(self) -> None:
        self._random = random.Random(0)
        self._kinds: list[str] = []
        self._stops = 0
        self.sent: collections.Counter[str] = collections.Counter()
        self.slowest = 0.0  # seconds from a SIGKILL to the end of the last process

    def disturb(self, started: TrainingProcesses) -> list[int | None]:
        """Sends a signal that ends the run, after some that do not; the codes of its end."""
        started.wait_until_connected()
        limit = 10 * SPAN + 2 * processes.HEARTBEAT
        while sum(self.sent.values()) < SIGNALS:
            if started.ended_within(self._random.uniform(0, SPAN)):
                break
            name, which = self._draw_kind(), self._draw_processes(len(started.running))
            self.sent[f'{name} to {"one" if which else "all"} of {len(started.running)}'] += 1
            at = time.monotonic()
            started.signal(getattr(signal, name), *which)
            if name == 'SIGSTOP':
                time.sleep(self._draw_pause())
                started.signal(signal.SIGCONT, *which)
                continue
            codes = started.wait(limit)
            if name == 'SIGKILL':
                self.slowest = max(self.slowest, time.monotonic() - at)
            return codes
        return started.wait(limit)

    def _draw_kind(self) -> str:
        """All kinds come equally often."""
        if not self._kinds:
            self._kinds = ['SIGKILL', 'SIGTERM', 'SIGSTOP']
            self._random.shuffle(self._kinds)
        return self._kinds.pop()

    def _draw_processes(self, count: int) -> list[int]:
        """One process, or none, which stands for all."""
        return self._random.choice([[], *([index] for index in range(count))])

    def _draw_pause(self) -> float:
        """Seconds. Every eighth pause is longer than processes wait for a sign of life."""
        self._stops += 1
        return self._random.uniform(0.1, 3) if self._stops % 8 else processes.HEARTBEAT + 10


@pytest.mark.timeout(60 * 60 * 3)
@pytest.mark.parametrize('count', COUNTS)
def test_signals_at_random_moments_change_nothing(
    undisturbed: Callable[[int], Path], data_dir: Path, tmp_path: Path, count: int
) -> None:
    """Every start ends in time and asks for the next one, until the run ends bit-identical."""
    expected = undisturbed(count)
    disturber = Disturber()
    starts = runs = 0
    while sum(disturber.sent.values()) < SIGNALS:
        folder = tmp_path / str(runs)
        codes: list[int | None] = [RESTART]
        while any(codes):
            started = start_long(count, folder, data_dir)
            codes = disturber.disturb(started)
            starts += 1
            said = f'{codes} after {disturber.sent}: {started.read_log(0)}'
            assert set(codes) <= {0, RESTART, -signal.SIGKILL, -signal.SIGTERM}, said
            if RESTART in codes:
                assert 'same command' in ''.join(map(started.read_log, range(count))), said
        assert_same_end(folder, expected, LAST)
        shutil.rmtree(folder)
        runs += 1
    print(
        f'{dict(disturber.sent)}, {starts} starts, {runs} runs, {disturber.slowest:.0f} s at most'
    )


def test_number_of_processes_may_change_between_restarts(
    undisturbed: Callable[[int], Path], data_dir: Path, tmp_path: Path
) -> None:
    """4 processes, stopped by SIGTERM, and one. The batches are those of a run that was never
    stopped, and the losses too up to the order of sums."""
    folder = tmp_path / 'run'
    started = start_long(4, folder, data_dir).wait_for_step(6).signal(signal.SIGTERM)
    assert started.wait() == [RESTART] * 4, started.read_log(0)
    assert 'same command' in started.read_log(0)
    last = start_long(1, folder, data_dir)
    assert last.wait() == [0], last.read_log(0)
    for ours, theirs in zip(read_metrics(folder), read_metrics(undisturbed(2)), strict=True):
        counts = {name for name in theirs if name.startswith(('examples/', 'bad/', 'step'))}
        assert {name: ours[name] for name in counts} == {name: theirs[name] for name in counts}
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=2e-3, err_msg=name)
    for folder_ in (folder, undisturbed(2)):
        checkpoints = Checkpoints(folder_)
        positions = checkpoints.about(LAST)['positions']
        checkpoints.close()
        assert positions == {'captions': 16 * LAST}


def test_process_with_another_config_is_refused(data_dir: Path, tmp_path: Path) -> None:
    folder = tmp_path / 'run'
    started = TrainingProcesses(2, folder, data_dir, TINY, other='--config.seed=1')
    assert started.wait() == [2, 2], started.read_log(0)
    assert 'seed' in started.read_log(0) and 'process 1' in started.read_log(0)
    assert not (folder / 'config.json').exists()


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
    done = mural('train', TINY, f'--workdir={copy}', f'--data_dir={data_dir}')
    assert done.returncode == 0, done.stderr
    assert 'going back to step 8' in done.stderr
    assert_same_end(copy, workdir, 12)


def test_second_training_in_a_workdir_is_refused(
    workdir: Path, data_dir: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    shutil.rmtree(copy / 'checkpoints')
    words = ('train', TINY, f'--workdir={copy}', f'--data_dir={data_dir}')
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
