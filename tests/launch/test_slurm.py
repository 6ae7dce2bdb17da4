"""A real Slurm on this machine trains by launch/slurm.sbatch, is signalled, and goes on."""

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
from test_faults import LONG, lines, parameters, undisturbed  # noqa: F401, a fixture

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


START, ANSWER, END = 60, 20, 20  # seconds to start, to be answered, to end


@pytest.fixture(scope='module')
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment in which sbatch and the rest talk to a Slurm of this test."""
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
        CONF.format(host=host, ports=_free_ports(2), folder=folder, cpus=os.cpu_count())
    )
    environment = os.environ | {'SLURM_CONF': str(conf)}
    servers = [_munged(folder)]
    try:
        for command in (['slurmctld', '-c'], ['slurmd', '-N', host]):
            servers.append(_start([*command, '-D', '-f', str(conf)], environment))
        deadline = time.monotonic() + START
        while (said := _ask(environment, 'sinfo', '-h', '-o', '%T').strip()) != 'idle':
            if time.monotonic() > deadline:
                logs = {path.name: path.read_text()[-2000:] for path in folder.glob('*.log')}
                pytest.skip(f'no Slurm starts on this machine: {said}; {logs}')
            time.sleep(0.5)
        yield environment
    finally:
        _ask(environment, 'scancel', '--user=root')
        for server in reversed(servers):
            server.terminate()
            try:
                server.wait(END)
            except subprocess.TimeoutExpired:
                server.kill()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(('localhost', 0)) for _ in range(count)]
    ports = [free.getsockname()[1] for free in sockets]
    for free in sockets:
        free.close()
    return ports


def _munged(folder: Path) -> subprocess.Popen[bytes]:
    """The daemon by which Slurm knows who asks, with a key and a socket of this test."""
    key = folder / 'munge.key'
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    files = {'socket': 'socket', 'key-file': 'key', 'pid-file': 'pid', 'log-file': 'log',
             'seed-file': 'seed'}  # fmt: skip
    places = [f'--{option}={folder}/munge.{name}' for option, name in files.items()]
    # By force: the folders of pytest are for their owner alone, as all who ask here are.
    return _start(['munged', '--foreground', '--force', *places], dict(os.environ))


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip


def _ask(environment: dict[str, str], *words: str) -> str:
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True,
                              stdin=subprocess.DEVNULL, timeout=ANSWER)  # fmt: skip
    except subprocess.TimeoutExpired:
        return f'{words[0]} gives no answer'
    return done.stdout + done.stderr


def _submit(
    environment: dict[str, str], folder: Path, workdir: Path, data_dir: Path
) -> tuple[str, Path]:
    """(number of the job, its output)"""
    output = folder / f'{workdir.name}.log'
    path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
    flags = f'--xla_force_host_platform_device_count=1 {UNOPTIMISED}'
    said = _ask(
        environment | {'PATH': path, 'XLA_FLAGS': flags, 'PYTHONWARNINGS': 'ignore'},
        'sbatch', '--parsable', '--ntasks=2', '--ntasks-per-node=2', f'--output={output}',
        f'--chdir={folder}', str(SCRIPT), '--config=emoji:tiny', f'--workdir={workdir}',
        f'--data_dir={data_dir}', *LONG,
    )  # fmt: skip
    return said.strip(), output


def _wait_for_end(environment: dict[str, str], job: str, output: Path) -> None:
    deadline = time.monotonic() + 300
    # A job on its way back into the queue counts as failed for a moment.
    while (state := _state(environment, job)) != 'COMPLETED':
        assert time.monotonic() < deadline, (state, output.read_text())
        if state == 'PENDING':  # Put back: not two minutes later, as Slurm would have it.
            # What starts in the second in which it ended is taken for what had ended.
            time.sleep(3)
            _ask(environment, 'scontrol', 'update', f'jobid={job}', 'starttime=now')
        time.sleep(0.5)


def _state(environment: dict[str, str], job: str) -> str:
    said = _ask(environment, 'scontrol', 'show', 'job', job)
    return said.split('JobState=')[1].split()[0] if 'JobState=' in said else said


def test_a_job_that_is_signalled_is_put_back_and_ends_the_same(
    slurm: dict[str, str],
    undisturbed: Path,  # noqa: F811
    data_dir: Path,
    tmp_path: Path,
) -> None:
    """Two ranks; SIGTERM in the middle; saved, requeued, and the same bits as undisturbed."""
    stopped = tmp_path / 'stopped'
    job, output = _submit(slurm, tmp_path, stopped, data_dir)
    deadline = time.monotonic() + 240
    while not any(line['step'] >= 6 for line in metrics.read(stopped)):
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)
    _ask(slurm, 'scancel', '--signal=TERM', job)
    _wait_for_end(slurm, job, output)
    said = output.read_text()
    assert 'stopped by a signal after step' in said
    assert 'back into the queue' in said
    assert 'resuming from the checkpoint of step' in said
    assert 'of 2 processes' in said
    for ours, theirs in zip(parameters(stopped, 60), parameters(undisturbed, 60), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert lines(stopped) == lines(undisturbed)
