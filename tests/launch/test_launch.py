"""The launchers: what they would run, and processes on this machine that are started again."""

import os
import re
import signal
import string
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import UNOPTIMISED

from mural_jax.distributed.rendezvous import described
from mural_jax.types import UserError
from mural_jax.workdir import metrics

LAUNCH = Path(__file__).parents[2] / 'launch'
WORDS = ['--config=emoji:tiny', '--workdir=run', '--data_dir=data']
LINE = 'mural train --config=emoji:tiny --workdir=run --data_dir=data'


def dry_run(script: str, *words: str, **environment: str) -> str:
    command = ['bash', str(LAUNCH / script), '--dry_run', *words]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, check=True
    )
    return done.stdout


def manifest(**given: str) -> dict:
    values = dict(
        NAME='mural', IMAGE='image', HOSTS='64', CHIPS='4', ACCELERATOR='tpu-v5-lite-podslice',
        TOPOLOGY='16x16', CLAIM='shared', ARGUMENTS=' '.join(WORDS),
    )  # fmt: skip
    text = (LAUNCH / 'gke_jobset.yaml').read_text(encoding='utf-8')
    return yaml.safe_load(string.Template(text).substitute(values | given))


def test_all_end_in_the_same_line() -> None:
    local = dry_run('local.sh', '2', *WORDS)
    assert local.count(LINE) == 2
    assert re.findall(r'JAX_PROCESS_ID=(\d)', local) == ['0', '1']
    assert len(set(re.findall(r'localhost:(\d+)', local))) == 1
    assert dry_run('slurm.sbatch', *WORDS).strip().endswith(LINE)
    tpu = dry_run('tpu_vm.sh', 'mine', *WORDS, ZONE='us-west4-a', ACCELERATOR='v5litepod-16')
    assert LINE in tpu and tpu.count('--worker=all') == 2
    assert 'queued-resources create mine --node-id=mine --zone=us-west4-a' in tpu
    assert '--spot' not in tpu
    spot = dry_run('tpu_vm.sh', 'mine', *WORDS, ZONE='z', ACCELERATOR='a', SPOT='1')
    assert '--spot' in spot
    (container,) = pod(manifest())['containers']
    assert container['command'][-1] == f'exec {LINE}'


def pod(jobset: dict) -> dict:
    (job,) = jobset['spec']['replicatedJobs']
    return job['template']['spec']['template']['spec']


def test_the_manifest_says_what_a_lost_pod_means() -> None:
    jobset = manifest()
    assert (jobset['apiVersion'], jobset['kind']) == ('jobset.x-k8s.io/v1alpha2', 'JobSet')
    job = jobset['spec']['replicatedJobs'][0]['template']['spec']
    assert (job['parallelism'], job['completions'], job['backoffLimit']) == (64, 64, 0)
    (rule,) = job['podFailurePolicy']['rules']
    assert (rule['action'], rule['onExitCodes']['values']) == ('FailJob', [2])
    assert rule['onExitCodes']['containerName'] == pod(jobset)['containers'][0]['name']
    (policy,) = jobset['spec']['failurePolicy']['rules']
    assert policy['onJobFailureReasons'] == ['PodFailurePolicy']
    assert pod(jobset)['restartPolicy'] == 'Never'  # what podFailurePolicy asks for
    environment = {item['name']: item.get('value') for item in pod(jobset)['containers'][0]['env']}
    world = described(environment | {'JAX_PROCESS_ID': '3'})
    assert (world.address, world.count, world.index) == ('mural-hosts-0-0.mural:8476', 64, 3)


@pytest.mark.parametrize(
    ('environment', 'message'),
    [
        ({'JAX_NUM_PROCESSES': '2'}, 'JAX_COORDINATOR_ADDRESS'),
        ({'JAX_NUM_PROCESSES': 'two', 'JAX_COORDINATOR_ADDRESS': 'a:1', 'JAX_PROCESS_ID': '0'},
         'two numbers'),
    ],
)  # fmt: skip
def test_half_a_description_is_refused(environment: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        described(environment)


def test_nothing_described_is_one_process() -> None:
    assert described({}) is None
    assert described({'SLURM_NTASKS': '2'}) is None  # in the batch script, outside of a step


def test_wrong_words_are_told() -> None:
    for script, words in (('local.sh', ['x']), ('tpu_vm.sh', ['mine'])):
        done = subprocess.run(
            ['bash', str(LAUNCH / script), *words], capture_output=True, text=True
        )
        assert done.returncode == 2
        assert 'launch/' in done.stderr


def test_a_lost_process_starts_all_again(data_dir: Path, tmp_path: Path) -> None:
    """launch/local.sh with two processes, one of which is killed: to the end by itself."""
    workdir = tmp_path / 'run'
    flags = f'--xla_force_host_platform_device_count=1 {UNOPTIMISED}'
    environment = os.environ | {
        'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'XLA_FLAGS': flags,
        'PYTHONWARNINGS': 'ignore', 'TMPDIR': str(tmp_path),
    }  # fmt: skip
    command = [
        'bash', str(LAUNCH / 'local.sh'), '2', '--config=emoji:tiny', f'--workdir={workdir}',
        f'--data_dir={data_dir}', '--config.schedule.num_steps=40',
    ]  # fmt: skip
    started = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 200
    while not any(line['step'] >= 8 for line in metrics.read(workdir)):
        assert time.monotonic() < deadline and started.poll() is None
        time.sleep(0.05)
    victims = subprocess.run(
        ['pgrep', '-f', f'train.*workdir={workdir}'], capture_output=True, text=True, check=True
    ).stdout.split()
    os.kill(int(victims[-1]), signal.SIGKILL)
    said = started.communicate(timeout=240)[1]
    assert started.returncode == 0, said
    assert 'starting again from the newest checkpoint' in said
    assert metrics.read(workdir)[-1]['step'] == 40
