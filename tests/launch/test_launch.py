"""The launchers: the commands they would run, and local processes that are started again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import UNOPTIMISED

from mural_jax.distributed.rendezvous import read_world
from mural_jax.types import UserError
from mural_jax.workdir import metrics

LAUNCH = Path(__file__).parents[2] / 'launch'
WORDS = ['--config=emoji:tiny', '--workdir=run', '--data_dir=data']
LINE = 'mural train --config=emoji:tiny --workdir=run --data_dir=data'


def print_dry_run(script: str, *words: str, **environment: str) -> str:
    command = ['bash', str(LAUNCH / script), '--dry_run', *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, check=True
    )
    return done.stdout


def test_local_processes_share_one_coordinator() -> None:
    local = print_dry_run('local.sh', '2', *WORDS)
    assert local.count(LINE) == 2
    assert re.findall(r'JAX_PROCESS_ID=(\d)', local) == ['0', '1']
    assert len(set(re.findall(r'localhost:(\d+)', local))) == 1


def test_slurm_script_ends_in_the_training_command() -> None:
    assert print_dry_run('slurm.sbatch', *WORDS).strip().endswith(LINE)


def test_tpu_script_requests_a_slice_and_trains_on_all_machines() -> None:
    place = {'ZONE': 'us-west4-a', 'ACCELERATOR': 'v5litepod-16'}
    tpu = print_dry_run('tpu_vm.sh', 'mine', *WORDS, **place)
    assert 'queued-resources create mine --node-id=mine --zone=us-west4-a' in tpu
    assert LINE in tpu and tpu.count('--worker=all') == 2


@pytest.mark.parametrize('spot', ['', '1'])
def test_tpu_slice_is_preemptible_on_request(spot: str) -> None:
    place = {'ZONE': 'z', 'ACCELERATOR': 'a', 'SPOT': spot}
    tpu = print_dry_run('tpu_vm.sh', 'mine', *WORDS, **place)
    assert ('--spot' in tpu) == bool(spot)


@pytest.mark.parametrize(
    ('environment', 'message'),
    [
        ({'JAX_NUM_PROCESSES': '2'}, 'JAX_COORDINATOR_ADDRESS'),
        (
            {'JAX_NUM_PROCESSES': 'two', 'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_PROCESS_ID': '0'},
            'two numbers',
        ),
    ],
)
def test_incomplete_environment_is_refused(environment: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_world(environment)


def test_empty_environment_is_one_process() -> None:
    assert read_world({}) is None


def test_slurm_batch_script_is_one_process() -> None:
    # Slurm sets the variable there too, but only the processes of a step can meet.
    assert read_world({'SLURM_NTASKS': '2'}) is None


@pytest.mark.parametrize(('script', 'word'), [('local.sh', 'x'), ('tpu_vm.sh', 'mine')])
def test_wrong_arguments_print_the_usage(script: str, word: str) -> None:
    done = subprocess.run(['bash', str(LAUNCH / script), word], capture_output=True, text=True)
    assert done.returncode == 2
    assert f'launch/{script}' in done.stderr


def test_lost_process_restarts_all(data_dir: Path, tmp_path: Path) -> None:
    """launch/local.sh with two processes, one of which is killed, trains to the end by itself."""
    workdir = tmp_path / 'run'
    flags = f'--xla_force_host_platform_device_count=1 {UNOPTIMISED}'
    environment = os.environ | {
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}',
        'XLA_FLAGS': flags,
        'PYTHONWARNINGS': 'ignore',
        'TMPDIR': str(tmp_path),
    }
    command = [
        *('bash', str(LAUNCH / 'local.sh'), '2', '--config=emoji:align,tiny'),
        *(f'--workdir={workdir}', f'--data_dir={data_dir}', '--config.schedule.num_steps=24'),
    ]
    launcher = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not any(line['step'] >= 2 for line in metrics.read(workdir)):
        assert time.monotonic() < deadline and launcher.poll() is None
        time.sleep(0.05)
    victims = subprocess.run(
        ['pgrep', '-f', f'train.*workdir={workdir}'], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(victims[-1]), signal.SIGKILL)
    said = launcher.communicate(timeout=240)[1]
    assert launcher.returncode == 0, said
    assert 'starting again from the newest checkpoint' in said
    assert metrics.read(workdir)[-1]['step'] == 24
