"""`mural train` in several processes of this machine, with CPU devices that a mesh can mix."""

import os
import time
from collections.abc import Sequence
from multiprocessing import connection
from pathlib import Path

import jax
import numpy as np
from commands import find_worlds, start_forked
from conftest import UNOPTIMISED
from training.batches import read_metrics

from mural_jax.workdir import metrics
from mural_jax.workdir.checkpoints import Checkpoints


class TrainingProcesses:
    """Processes that train together; their output goes to a folder beside the workdir."""

    def __init__(
        self,
        count: int,
        folder: Path,
        data_dir: Path,
        *words: str,
        devices: int = 1,
        order: Sequence[int] = (),
        other: str = '',
    ):
        """Starts the processes.

        words: after `mural train`.
        devices: CPU devices of each process.
        order: ids of all devices as a mesh lists them, and not process by process.
        other: one more argument of the last process alone.
        """
        flags = f'--xla_force_host_platform_device_count={devices} {UNOPTIMISED}'
        command = ['train', *words, f'--workdir={folder}', f'--data_dir={data_dir}']
        self.folder, self.logs = folder, folder.parent / f'{folder.name}-logs'
        self.logs.mkdir(exist_ok=True)
        self.running = []
        for index, world in enumerate(find_worlds(count)):
            environment = {'XLA_FLAGS': flags, **world}
            last = [other] if other and index == count - 1 else []
            log = self.logs / str(index)
            log.write_bytes(b'')  # Processes that trained here before wrote there, too.
            self.running.append(start_forked(command + last, environment, log, log, order))

    def wait_for_step(self, step: int) -> 'TrainingProcesses':
        """Waits until the processes train and have written metrics of this step."""
        deadline = time.monotonic() + 240
        while 'global batch' not in self.read_log(0) or all(
            line['step'] < step for line in metrics.read(self.folder)
        ):
            assert time.monotonic() < deadline and self.running[0].is_alive(), self.read_log(0)
            time.sleep(0.05)
        return self

    def wait_until_connected(self) -> 'TrainingProcesses':
        """Waits until all processes have met, of which gloo prints a line in each."""
        deadline = time.monotonic() + 240
        while not all(self.read_log(index) for index in range(len(self.running))):
            assert time.monotonic() < deadline, self.read_log(0)
            time.sleep(0.05)
        return self

    def ended_within(self, seconds: float) -> bool:
        """Waits until one of the processes has ended, at most for this time."""
        return bool(connection.wait([process.sentinel for process in self.running], seconds))

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
    """The parameters and the progress that a checkpoint holds."""
    checkpoints = Checkpoints(folder)
    found = checkpoints.read(step, 'params', 'progress')
    checkpoints.close()
    return jax.tree.leaves(found)


def assert_same_end(ours: Path, theirs: Path, step: int) -> None:
    """Two runs end bit-identical, and say the same of each step."""
    for a, b in zip(read_arrays(ours, step), read_arrays(theirs, step), strict=True):
        np.testing.assert_array_equal(a, b)
    assert read_metrics(ours) == read_metrics(theirs)
