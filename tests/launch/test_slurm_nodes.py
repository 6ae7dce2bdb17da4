"""A real Slurm with two nodes on this machine: what launch/slurm.sbatch gives to each task."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launch.test_slurm import ask_slurm, find_free_ports, read_state, start_munge, start_server

SCRIPT = Path(__file__).parents[2] / 'launch' / 'slurm.sbatch'
CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
ReturnToService=2
JobRequeue=1
KillWait=5
MpiDefault=none
PartitionName=all Nodes=one,two Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""
# Two nodes on this machine. Their GPUs are files.
NODE = """
NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 Gres=gpu:2 State=UNKNOWN
"""
NODES = ('one', 'two')
GPUS = """
NodeName=one,two Name=gpu File={folder}/gpu[0-1]
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
    for name in ('state', *(f'spool-{node}' for node in NODES)):
        (folder / name).mkdir()
    for name in ('gpu0', 'gpu1'):
        (folder / name).touch()
    conf, host = folder / 'slurm.conf', socket.gethostname().split('.')[0]
    first, *ports = find_free_ports(1 + len(NODES))
    nodes = [
        NODE.format(name=name, host=host, port=port)
        for name, port in zip(NODES, ports, strict=True)
    ]
    conf.write_text(CONF.format(host=host, port=first, folder=folder) + ''.join(nodes))
    (folder / 'gres.conf').write_text(GPUS.format(folder=folder))
    environment = os.environ | {'SLURM_CONF': str(conf)}
    servers = [start_munge(folder)]
    try:
        for command in (['slurmctld', '-c'], *(['slurmd', '-N', node] for node in NODES)):
            servers.append(start_server([*command, '-D', '-f', str(conf)], environment))
        deadline = time.monotonic() + START
        while (said := ask_slurm(environment, 'sinfo', '-h', '-N', '-o', '%T').split()) != [
            'idle'
        ] * 2:
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


# In the place of `mural`: says what a task has, and then trains until SIGTERM.
MURAL = """#!/bin/bash
echo "task $SLURM_PROCID on $SLURMD_NODENAME: $SLURM_CPUS_PER_TASK CPUs, $SLURM_GPUS_ON_NODE GPUs"
trap 'echo saved; exit 75' TERM
while :; do sleep 0.1; done
"""


@pytest.fixture
def submitted(slurm: dict[str, str], tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A job on both nodes, one task a node, as (its number, the file of its output)."""
    mural, output = tmp_path / 'mural', tmp_path / 'output'
    mural.write_text(MURAL)
    mural.chmod(0o755)
    asked = ('--nodes=2', '--gres=gpu:2', f'--output={output}', f'--chdir={tmp_path}')
    path = f'{tmp_path}:{os.environ["PATH"]}'
    job = ask_slurm(slurm | {'PATH': path}, 'sbatch', '--parsable', *asked, str(SCRIPT)).strip()
    wait_until(lambda: output.exists() and output.read_text().count('task ') == 2, output)
    yield job, output
    ask_slurm(slurm, 'scancel', job)


def wait_until(reached: Callable[[], bool], output: Path) -> None:
    deadline = time.monotonic() + 60
    while not reached():
        said = output.read_text() if output.exists() else 'no output'
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def test_each_task_has_the_cpus_and_gpus_of_its_node(submitted: tuple[str, Path]) -> None:
    tasks = sorted(line for line in submitted[1].read_text().splitlines() if 'task' in line)
    assert tasks == [
        f'task {number} on {node}: 2 CPUs, 2 GPUs' for number, node in enumerate(NODES)
    ]


def test_cancelled_job_saves_and_stays_out_of_the_queue(
    slurm: dict[str, str], submitted: tuple[str, Path]
) -> None:
    job, output = submitted
    ask_slurm(slurm, 'scancel', job)
    wait_until(lambda: output.read_text().count('saved') == 2, output)
    time.sleep(3)
    said = ask_slurm(slurm, 'scontrol', 'show', 'job', job)
    assert 'JobState=CANCELLED' in said and 'Restarts=0' in said


def test_signal_before_the_time_limit_requeues_the_job(
    slurm: dict[str, str], submitted: tuple[str, Path]
) -> None:
    job, output = submitted
    ask_slurm(slurm, 'scancel', '--signal=TERM', job)
    wait_until(lambda: 'back into the queue' in output.read_text(), output)
    wait_until(lambda: read_state(slurm, job) == 'PENDING', output)
    assert 'Restarts=1' in ask_slurm(slurm, 'scontrol', 'show', 'job', job)
