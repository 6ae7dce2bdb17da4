"""A real Slurm on this machine runs launch/slurm.sbatch, which is signalled and resumes."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import UNOPTIMISED
from runs.test_faults import LAST, LONG, read_arrays, read_metrics, undisturbed  # noqa: F401, a fixture

from mural_jax.workdir import metrics

SCRIPT = Path(__file__).parents[2] / 'launch' / 'slurm.sbatch'
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
ReturnToService=2
JobRequeue=1
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


# Seconds in which Slurm must start, a command must answer, and a server must end.
START, ANSWER, END = 60, 20, 20


@pytest.fixture(scope='module')
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which sbatch and the other commands talk to a Slurm of this test."""
    for program in ('slurmctld', 'slurmd', 'sbatch', 'munged'):
        if not shutil.which(program):
            pytest.skip(f'{program} is missing; Debian has it in slurm-wlm and munge')
    if os.geteuid() != 0:
        pytest.skip('only root may start a Slurm for this test')
    folder = tmp_path_factory.mktemp('slurm')
    for name in ('state', 'spool'):
        (folder / name).mkdir()
    conf, host = folder / 'slurm.conf', socket.gethostname().split('.')[0]
    conf.write_text(
        CONF.format(host=host, ports=find_free_ports(2), folder=folder, cpus=os.cpu_count())
    )
    environment = os.environ | {'SLURM_CONF': str(conf)}
    servers = [start_munge(folder)]
    try:
        for command in (['slurmctld', '-c'], ['slurmd', '-N', host]):
            servers.append(start_server([*command, '-D', '-f', str(conf)], environment))
        deadline = time.monotonic() + START
        while (said := ask_slurm(environment, 'sinfo', '-h', '-o', '%T').strip()) != 'idle':
            if time.monotonic() > deadline:
                logs = {path.name: path.read_text()[-2000:] for path in folder.glob('*.log')}
                pytest.skip(f'no Slurm starts on this machine: {said}; {logs}')
            time.sleep(0.5)
        yield environment
    finally:
        ask_slurm(environment, 'scancel', '--user=root')
        for server in reversed(servers):
            server.terminate()
            try:
                server.wait(END)
            except subprocess.TimeoutExpired:
                server.kill()


def find_free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(('localhost', 0)) for _ in range(count)]
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


def start_munge(folder: Path) -> subprocess.Popen[bytes]:
    """The daemon that authenticates users to Slurm, with a key and a socket of this test."""
    key = folder / 'munge.key'
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    files = {
        'socket': 'socket',
        'key-file': 'key',
        'pid-file': 'pid',
        'log-file': 'log',
        'seed-file': 'seed',
    }
    places = [f'--{option}={folder}/munge.{name}' for option, name in files.items()]
    # --force, because munged refuses folders that only their owner can read, as those of pytest.
    return start_server(['munged', '--foreground', '--force', *places], dict(os.environ))


def start_server(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def ask_slurm(environment: dict[str, str], *words: str) -> str:
    try:
        done = subprocess.run(
            words,
            env=environment,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=ANSWER,
        )
    except subprocess.TimeoutExpired:
        return f'{words[0]} gives no answer'
    return done.stdout + done.stderr


def submit_job(
    environment: dict[str, str], folder: Path, workdir: Path, data_dir: Path
) -> tuple[str, Path]:
    """(number of the job, file of its output)."""
    output = folder / f'{workdir.name}.log'
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    flags = f'--xla_force_host_platform_device_count=1 {UNOPTIMISED}'
    said = ask_slurm(
        environment | {'PATH': path, 'XLA_FLAGS': flags, 'PYTHONWARNINGS': 'ignore'},
        'sbatch',
        '--parsable',
        '--ntasks=2',
        '--ntasks-per-node=2',
        f'--output={output}',
        f'--chdir={folder}',
        str(SCRIPT),
        '--config=emoji:tiny',
        f'--workdir={workdir}',
        f'--data_dir={data_dir}',
        *LONG,
    )
    return said.strip(), output


def wait_for_end(environment: dict[str, str], job: str, output: Path) -> None:
    deadline = time.monotonic() + 300
    # No other state ends the wait: a job that is requeued counts as failed for a moment.
    while (state := read_state(environment, job)) != 'COMPLETED':
        assert time.monotonic() < deadline, (state, output.read_text())
        if state == 'PENDING':
            # Slurm would start the requeued job after two minutes; start it now. But not in the
            # second in which it ended, or Slurm takes the new start for the one that ended.
            time.sleep(3)
            ask_slurm(environment, 'scontrol', 'update', f'jobid={job}', 'starttime=now')
        time.sleep(0.5)


def read_state(environment: dict[str, str], job: str) -> str:
    said = ask_slurm(environment, 'scontrol', 'show', 'job', job)
    return said.split('JobState=')[1].split()[0] if 'JobState=' in said else said


def test_signalled_job_is_requeued_and_ends_with_the_same_bits(
    slurm: dict[str, str],
    undisturbed: Path,  # noqa: F811
    data_dir: Path,
    tmp_path: Path,
) -> None:
    """Two processes get SIGTERM in the middle, save, resume, and end like an undisturbed run."""
    stopped = tmp_path / 'stopped'
    job, output = submit_job(slurm, tmp_path, stopped, data_dir)
    deadline = time.monotonic() + 240
    while not any(line['step'] >= 6 for line in metrics.read(stopped)):
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)
    ask_slurm(slurm, 'scancel', '--signal=TERM', job)
    wait_for_end(slurm, job, output)
    said = output.read_text()
    assert 'stopped by a signal after step' in said
    assert 'back into the queue' in said
    assert 'resuming from the checkpoint of step' in said
    assert '2 processes x 1 cpu; data=2; each process reads 1/2 of a batch' in said
    for ours, theirs in zip(
        read_arrays(stopped, LAST), read_arrays(undisturbed, LAST), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    assert read_metrics(stopped) == read_metrics(undisturbed)
