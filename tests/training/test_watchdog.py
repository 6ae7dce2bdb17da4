"""A stall is noticed, described and survived."""

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mural_jax.training.watchdog import Exchange, Watchdog, describe_stall
from mural_jax.types import UserError


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, 'waited too long'
        time.sleep(0.01)


def test_stall_is_reported_once_with_all_stacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    release = threading.Event()
    reader = threading.Thread(target=release.wait, name='reader of images')
    reader.start()
    with Watchdog(tmp_path, 0.3, say=said.append) as watchdog:
        watchdog.beat(38, 'data')
        wait_until(lambda: bool(said))
        time.sleep(0.5)
        assert len(said) == 1
        watchdog.beat(38, 'step')
        wait_until(lambda: len(said) == 2)
        release.set()
        reader.join()
    stacks = tmp_path / 'stall-0-38.txt'
    first = re.escape(f'process 0 ({socket.gethostname()})')
    assert re.match(rf'no progress for \d+ s: {first} waits for data at step 38; stacks', said[0])
    assert said[0].endswith(f'stacks are in {stacks}')
    assert re.fullmatch(r'going on after \d+ s, with step 38', said[1])
    text = stacks.read_text()
    assert text.count('Thread 0x') + text.count('thread 0x') >= 3
    assert 'in wait_until' in text
    assert text.strip() in capsys.readouterr().err


def test_progress_is_not_reported(tmp_path: Path) -> None:
    said: list[str] = []
    with Watchdog(tmp_path, 1.0, say=said.append) as watchdog:
        for step in range(30):
            watchdog.beat(step, 'step')
            time.sleep(0.05)
    assert not said and not list(tmp_path.iterdir())


def test_zero_seconds_start_no_threads(tmp_path: Path) -> None:
    threads = threading.active_count()
    with Watchdog(tmp_path, 0) as watchdog:
        watchdog.beat(1, 'step')
        assert threading.active_count() == threads


def test_negative_seconds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='0 for never'):
        Watchdog(tmp_path, -1)


def test_beat_costs_microseconds(tmp_path: Path) -> None:
    with Watchdog(tmp_path, 60) as watchdog:
        started = time.perf_counter()
        for step in range(10_000):
            watchdog.beat(step, 'step')
        assert (time.perf_counter() - started) / 10_000 < 50e-6


def test_stall_is_reported_if_stacks_cannot_be_written(tmp_path: Path) -> None:
    said: list[str] = []
    with Watchdog(tmp_path / 'nowhere', 0.2, say=said.append):
        wait_until(lambda: bool(said))
    assert 'could not be written' in said[0]


def make_beat(process: int, phase: str, step: int, silent: float = 0.0) -> dict:
    host = f'node{process}'
    return {'process': process, 'host': host, 'phase': phase, 'step': step, 'silent': silent}


@pytest.mark.parametrize(
    ('beats', 'words'),
    [
        (
            [
                make_beat(0, 'step', 38),
                make_beat(1, 'data', 38),
                make_beat(2, 'step', 38),
                make_beat(3, 'step', 38),
            ],
            'process 1 (node1) waits for data at step 38; '
            'processes 0, 2, 3 wait in step 38 for the others',
        ),
        (
            [make_beat(0, 'step', 38), make_beat(1, 'data', 38), make_beat(2, 'save', 37)],
            'process 1 (node1) waits for data at step 38; process 2 (node2) saves after step 37; '
            'process 0 (node0) waits in step 38 for the others',
        ),
        ([make_beat(0, 'step', 5), make_beat(1, 'step', 5)], 'processes 0, 1 wait in step 5'),
        ([make_beat(0, 'save', 5), make_beat(1, 'save', 5)], 'processes 0, 1 save after step 5'),
        ([make_beat(0, 'start', 0), make_beat(1, 'start', 0)], 'processes 0, 1 start'),
        (
            [make_beat(0, 'step', 5), make_beat(1, 'step', 5, silent=40.0)],
            'process 1 (node1) is silent for 40 s, it is gone or frozen; it waits in step 5; '
            'process 0 (node0) waits in step 5 for the others',
        ),
    ],
)
def test_processes_that_hold_up_the_others_come_first(beats: list[dict], words: str) -> None:
    assert describe_stall(beats) == words


def test_process_that_stopped_publishing_is_silent(tmp_path: Path) -> None:
    texts = {1: '{"process": 1, "host": "other", "step": 7, "phase": "step", "count": 3}'}
    said: list[str] = []
    exchange = Exchange(lambda number, text: texts.__setitem__(number, text), lambda: dict(texts))
    with Watchdog(tmp_path, 1.5, exchange, said.append) as watchdog:
        watchdog.beat(7, 'step')
        wait_until(lambda: bool(said))
    assert re.search(r'process 1 \(other\) is silent for \d s, it is gone', said[0])
    assert f'process 0 ({socket.gethostname()}) waits in step 7 for the others' in said[0]


def test_failing_exchange_does_not_stop_the_watchdog(tmp_path: Path) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError('the coordinator is gone')

    said: list[str] = []
    with Watchdog(tmp_path, 0.3, Exchange(fail, fail), said.append):
        wait_until(lambda: bool(said))
    assert 'other processes cannot be asked' in said[0] and 'the coordinator is gone' in said[0]


TWO_PROCESSES = """
import sys, time
from pathlib import Path
import jax
number, address, folder = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.distributed.initialize(address, 2, number)
from mural_jax.training.watchdog import Watchdog
said = []
with Watchdog(folder, 3.0, say=said.append) as watchdog:
    watchdog.beat(38, 'data' if number else 'step')
    time.sleep(5)
    watchdog.beat(39, 'data')
    time.sleep(1)
print('\\n'.join(said))
jax.distributed.shutdown()
"""


def test_two_processes_name_the_one_that_holds_up(tmp_path: Path) -> None:
    with socket.socket() as listening:
        listening.bind(('localhost', 0))
        port = listening.getsockname()[1]
    started = [
        subprocess.Popen(
            [sys.executable, '-c', TWO_PROCESSES, str(number), f'localhost:{port}', str(tmp_path)],
            env=os.environ | {'XLA_FLAGS': ''},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    name = socket.gethostname()
    for process in started:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert (
            f's: process 1 ({name}) waits for data at step 38; process 0 ({name}) '
            'waits in step 38 for the others; stacks are in '
        ) in out
        assert re.search(r'going on after \d+ s, with step 39', out)
    assert {p.name for p in tmp_path.iterdir()} == {'stall-0-38.txt', 'stall-1-38.txt'}
