"""launch/tpu_vm.sh with a stand-in for gcloud, whose two machines are shells with own folders.

The strings that the script sends to its machines run in real shells, with a real lock.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / 'launch' / 'tpu_vm.sh'

# Knows the state of one slice, which a file holds, and answers as gcloud does.
GCLOUD = """#!/bin/bash
echo "${@:3}" >>$CLOUD/calls
case "$3 $4" in
    'queued-resources create') echo ACTIVE >$CLOUD/state ;;
    'queued-resources delete') rm $CLOUD/state ;;
    'queued-resources describe') cat $CLOUD/state ;;
    'tpu-vm ssh')
        command=${@: -1:1}
        pids=
        for machine in 0 1; do
            HOME=$CLOUD/$machine bash -c "${command#--command=}" &
            pids="$pids $!"
        done
        worst=0
        for pid in $pids; do wait $pid || worst=$?; done
        exit $worst
        ;;
esac
"""
# `python3 -m pip install uv` and what uv then installs.
PYTHON = """#!/bin/bash
mkdir -p ~/.local/bin
cp $CLOUD/uv ~/.local/bin/uv
"""
UV = """#!/bin/bash
[ -e $CLOUD/offline ] && { echo 'no such package' >&2; exit 1; }
mkdir -p ~/mural/bin
cp $CLOUD/mural ~/mural/bin/mural
"""
# Each start takes the next word of `plan`: an exit code, or `hang` until SIGTERM, or `taken`.
MURAL = """#!/bin/bash
trap 'echo ended >>~/log; exit 75' TERM
for word in "$@"; do echo "word $word"; done >~/words
echo started $MURAL_TPU_HOSTS >>~/log
turn=$(grep -c started ~/log)
case $(cut -d' ' -f$turn $CLOUD/${HOME##*/}/plan) in
    hang) while :; do sleep 0.1; done ;;
    taken) echo SUSPENDED >$CLOUD/state; exit 75 ;;
    *) exit $(cut -d' ' -f$turn $CLOUD/${HOME##*/}/plan) ;;
esac
"""


@pytest.fixture
def cloud(tmp_path: Path) -> Path:
    """A folder with the stand-ins, which `call` puts before the real programs."""
    for name, text in {'gcloud': GCLOUD, 'python3': PYTHON, 'uv': UV, 'mural': MURAL}.items():
        script = tmp_path / ('bin' if name in ('gcloud', 'python3') else '') / name
        script.parent.mkdir(exist_ok=True)
        script.write_text(text)
        script.chmod(0o755)
    return tmp_path


def plan(cloud: Path, *machines: str) -> None:
    """What each machine's starts do, words separated by spaces."""
    for index, words in enumerate(machines):
        (cloud / str(index)).mkdir()
        (cloud / str(index) / 'plan').write_text(words)


def call(cloud: Path, *words: str) -> subprocess.Popen[str]:
    environment = {
        'PATH': f'{cloud}/bin:{os.environ["PATH"]}',
        'CLOUD': str(cloud),
        'ZONE': 'here',
        'ACCELERATOR': 'v5litepod-16',
    }
    command = ['bash', str(SCRIPT), 'mine', '--config=mural:base', *words]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, env=environment, stderr=pipe, text=True)


def end(launcher: subprocess.Popen[str]) -> tuple[int, str]:
    said = launcher.communicate(timeout=120)[1]
    return launcher.returncode, said


def read_log(cloud: Path, machine: int) -> list[str]:
    log = cloud / str(machine) / 'log'
    return log.read_text().splitlines() if log.exists() else []


def count_calls(cloud: Path, verb: str) -> int:
    return (cloud / 'calls').read_text().count(verb)


def test_machines_train_together_and_get_every_word(cloud: Path) -> None:
    plan(cloud, '0', '0')
    assert end(call(cloud, '--config.languages=("a b", \'c\')')) == (0, '')
    for machine in (0, 1):
        assert read_log(cloud, machine) == ['started 1']
        words = (cloud / str(machine) / 'words').read_text().splitlines()
        assert words == [
            'word train',
            'word --config=mural:base',
            'word --config.languages=("a b", \'c\')',
        ]


def test_second_call_ends_the_training_of_the_first(cloud: Path) -> None:
    """The first call's terminal is gone, and what it started still holds the devices."""
    plan(cloud, 'hang 0', 'hang 0')
    first = call(cloud)
    deadline = time.monotonic() + 60
    while not all(read_log(cloud, machine) for machine in (0, 1)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    first.stderr.close()
    assert end(call(cloud))[0] == 0
    for machine in (0, 1):
        assert read_log(cloud, machine) == ['started 1', 'ended', 'started 1']
    assert count_calls(cloud, 'create') == 1


def test_lost_worker_starts_all_again(cloud: Path) -> None:
    plan(cloud, '75 0', '1 0')
    code, said = end(call(cloud))
    assert code == 0 and 'starting again from the newest checkpoint' in said
    assert read_log(cloud, 0) == read_log(cloud, 1) == ['started 1'] * 2


def test_taken_slice_is_requested_again(cloud: Path) -> None:
    plan(cloud, 'taken 0', '75 0')
    code, said = end(call(cloud))
    assert code == 0 and 'requesting another' in said
    assert count_calls(cloud, 'create') == 2 and count_calls(cloud, 'delete') == 1
    assert count_calls(cloud, 'uv pip install') == 2  # New machines have nothing installed.


def test_user_error_ends_the_script(cloud: Path) -> None:
    plan(cloud, '2', '2')
    assert end(call(cloud))[0] == 2
    assert read_log(cloud, 0) == ['started 1']


def test_failed_installation_ends_the_script(cloud: Path) -> None:
    plan(cloud, '0', '0')
    (cloud / 'offline').touch()
    code, said = end(call(cloud))
    assert code == 1 and 'no such package' in said and 'installation failed' in said
    assert read_log(cloud, 0) == []
