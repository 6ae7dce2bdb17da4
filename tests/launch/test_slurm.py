"""A real Slurm with two nodes runs launch/slurm.sbatch: what tasks get, how jobs end."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import UNOPTIMISED

from mural_jax.workdir import metrics
from mural_jax.workdir.checkpoints import Checkpoints

LAST = 24  # steps, so many that a signal comes before the last one
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
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=all Nodes={host},two Default=YES State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes={host},two State=UP PriorityTier=2
"""
# Two nodes on this machine. The first has its name, under which tasks look for the coordinator.
HOST = socket.gethostname().split('.')[0]
NODES = (HOST, 'two')
NODE = """
NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 Gres=gpu:2 State=UNKNOWN
"""
# Slurm wants a device for each GPU, and leaves it alone.
GPUS = """
NodeName={host},two Name=gpu File=/dev/null
NodeName={host},two Name=gpu File=/dev/zero
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
    conf = folder / 'slurm.conf'
    first, *ports = find_free_ports(1 + len(NODES))
    nodes = [
        NODE.format(name=name, host=HOST, port=port)
        for name, port in zip(NODES, ports, strict=True)
    ]
    conf.write_text(CONF.format(host=HOST, port=first, folder=folder) + ''.join(nodes))
    (folder / 'gres.conf').write_text(GPUS.format(host=HOST))
    environment = os.environ | {'SLURM_CONF': str(conf)}
    servers = [start_munge(folder)]
    try:
        for command in (['slurmctld', '-c'], *(['slurmd', '-N', node] for node in NODES)):
            servers.append(start_server([*command, '-D', '-f', str(conf)], environment))
        deadline = time.monotonic() + START
        ask = ('sinfo', '-h', '-p', 'all', '-N', '-o', '%T')
        while (said := ask_slurm(environment, *ask).split()) != ['idle'] * len(NODES):
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
        f'--nodelist={HOST}',
        f'--output={output}',
        f'--chdir={folder}',
        str(SCRIPT),
        '--config=emoji:align,tiny',
        f'--workdir={workdir}',
        f'--data_dir={data_dir}',
        f'--config.schedule.num_steps={LAST}',
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


def test_signalled_job_is_requeued_and_trains_to_its_end(
    slurm: dict[str, str], data_dir: Path, tmp_path: Path
) -> None:
    """Two processes get SIGTERM in the middle, save, and resume where they were."""
    stopped = tmp_path / 'stopped'
    job, output = submit_job(slurm, tmp_path, stopped, data_dir)
    deadline = time.monotonic() + 240
    while not any(line['step'] >= 2 for line in metrics.read(stopped)):
        assert time.monotonic() < deadline, output.read_text()
        time.sleep(0.05)
    ask_slurm(slurm, 'scancel', '--signal=TERM', job)
    wait_for_end(slurm, job, output)
    said = output.read_text()
    assert 'stopped by a signal after step' in said
    assert 'back into the queue' in said
    assert 'resuming from the checkpoint of step' in said
    assert '2 processes x 1 cpu; data=2; each process reads 1/2 of a batch' in said
    assert [line['step'] for line in metrics.read(stopped)] == list(range(2, LAST + 1, 2))
    checkpoints = Checkpoints(stopped)
    positions = checkpoints.about(LAST)['positions']
    checkpoints.close()
    assert positions == {'captions': 16 * LAST}


# In the place of `mural`: says what a task has, and then trains until SIGTERM.
MURAL = """#!/bin/bash
echo "task on $SLURMD_NODENAME: $SLURM_CPUS_PER_TASK CPUs, $SLURM_GPUS_ON_NODE GPUs"
trap 'echo saved; exit 75' TERM
while :; do sleep 0.1; done
"""


Submit = Callable[..., tuple[str, Path]]


@pytest.fixture
def submit(slurm: dict[str, str], tmp_path: Path) -> Iterator[Submit]:
    """Submits a job on both nodes, one task a node: (its number, the file of its output)."""
    mural, output = tmp_path / 'mural', tmp_path / 'output'
    mural.write_text(MURAL)
    mural.chmod(0o755)
    asked = ('--nodes=2', '--gres=gpu:2', f'--output={output}', f'--chdir={tmp_path}')
    path = f'{tmp_path}:{os.environ["PATH"]}'

    def submit_(*more: str) -> tuple[str, Path]:
        words = ('sbatch', '--parsable', *asked, *more, str(SCRIPT))
        job = ask_slurm(slurm | {'PATH': path}, *words).strip()
        wait_until(lambda: output.exists() and output.read_text().count('task ') == 2, output)
        return job, output

    yield submit_
    ask_slurm(slurm, 'scancel', '--user=root')


@pytest.fixture
def submitted(submit: Submit) -> tuple[str, Path]:
    return submit()


def wait_until(reached: Callable[[], bool], output: Path) -> None:
    deadline = time.monotonic() + 120
    while not reached():
        said = output.read_text() if output.exists() else 'no output'
        assert time.monotonic() < deadline, said
        time.sleep(0.2)


def test_each_task_has_the_cpus_and_gpus_of_its_node(submitted: tuple[str, Path]) -> None:
    tasks = sorted(line for line in submitted[1].read_text().splitlines() if 'task' in line)
    assert tasks == sorted(f'task on {node}: 2 CPUs, 2 GPUs' for node in NODES)


def test_cancelled_job_saves_and_stays_out_of_the_queue(
    slurm: dict[str, str], submitted: tuple[str, Path]
) -> None:
    job, output = submitted
    ask_slurm(slurm, 'scancel', job)
    wait_until(lambda: output.read_text().count('saved') == 2, output)
    time.sleep(3)
    said = ask_slurm(slurm, 'scontrol', 'show', 'job', job)
    assert 'JobState=CANCELLED' in said and 'Restarts=0' in said


def assert_requeued(slurm: dict[str, str], job: str, output: Path) -> None:
    """Both tasks have saved, and the job waits to start again."""
    wait_until(lambda: 'back into the queue' in output.read_text(), output)
    assert output.read_text().count('saved') == 2
    wait_until(lambda: read_state(slurm, job) == 'PENDING', output)
    assert 'Restarts=1' in ask_slurm(slurm, 'scontrol', 'show', 'job', job)


def test_signalled_tasks_put_the_job_back_into_the_queue(
    slurm: dict[str, str], submitted: tuple[str, Path]
) -> None:
    ask_slurm(slurm, 'scancel', '--signal=TERM', submitted[0])
    assert_requeued(slurm, *submitted)


def test_preempted_job_goes_back_into_the_queue(
    slurm: dict[str, str], submitted: tuple[str, Path]
) -> None:
    wanted = ('--partition=urgent', '--nodes=2', '--exclusive', '--output=/dev/null')
    ask_slurm(slurm, 'sbatch', *wanted, '--wrap=sleep 60')
    assert_requeued(slurm, *submitted)


def test_job_at_its_time_limit_goes_back_into_the_queue(
    slurm: dict[str, str], submit: Submit
) -> None:
    """Slurm counts limits in minutes, and signals up to a minute too early."""
    assert_requeued(slurm, *submit('--time=1', '--signal=TERM@20'))
