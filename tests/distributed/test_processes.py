"""Processes that meet, tell each other things, stop together, and notice that one is gone."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time

import pytest

from mural_jax.distributed import processes


class Processes:
    """The same few lines in several processes; a UserError is exit code 2, as of `mural`."""

    HEAD = """
        import os, signal, sys, time
        import jax
        from mural_jax import hosts
        from mural_jax.types import RESTART, UserError
        hosts.HEARTBEAT = 5
        def main():
        {body}
        try:
            main()
        except UserError as error:
            print(error, flush=True)
            os._exit(2)
        jax.distributed.shutdown()  # waits for the others, as the end of a run does
        os._exit(0)
    """

    def __init__(self, body: str, indices: list[int], counts: list[int]):
        with socket.socket() as free:
            free.bind(('localhost', 0))
            address = f'localhost:{free.getsockname()[1]}'
        body = textwrap.indent(textwrap.dedent(body).strip(), ' ' * 4)
        code = textwrap.dedent(self.HEAD).replace('{body}', body)
        self.running = [
            subprocess.Popen(
                [sys.executable, '-c', code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, env=os.environ | {
                    'JAX_COORDINATOR_ADDRESS': address, 'JAX_NUM_PROCESSES': str(count),
                    'JAX_PROCESS_ID': str(index), 'XLA_FLAGS': '',
                },
            )
            for index, count in zip(indices, counts, strict=True)
        ]  # fmt: skip

    def ends(self, seconds: float = 90) -> list[tuple[int, str]]:
        """(exit code, what it said) of each."""
        deadline = time.monotonic() + seconds
        try:
            said = [p.communicate(timeout=max(deadline - time.monotonic(), 1))[0]
                    for p in self.running]  # fmt: skip
            return [(p.returncode, text) for p, text in zip(self.running, said, strict=True)]
        finally:
            for process in self.running:
                process.kill()


def test_the_missing_are_named() -> None:
    """By all that are there, within the time limit."""
    for code, said in Processes('hosts.join(6)', [0, 2], [4, 4]).ends(60):
        assert code == 2, said
        assert 'missing after 6 seconds: 1, 3.' in said
    ((code, said),) = Processes('hosts.join(3)', [1], [2]).ends(60)
    assert code == 2 and 'Process 0 did not answer' in said


@pytest.mark.parametrize(
    ('indices', 'counts', 'message'),
    [
        ([0, 1], [2, 3], 'was told that there are 3 processes'),
        ([0, 1, 1], [3, 3, 3], 'two processes of number 1'),
    ],
)
def test_they_have_to_agree_who_they_are(
    indices: list[int], counts: list[int], message: str
) -> None:
    for code, said in Processes('hosts.join(20)', indices, counts).ends(60):
        assert code == 2, said
        assert message in said


def test_each_hears_all_and_the_silent_are_named() -> None:
    body = """
        hosts.join(30)
        print(hosts.exchange('a', {'i': hosts.index()}), hosts.exchange('a', 'again'), flush=True)
        if hosts.index() < 2:
            try:
                hosts.exchange('b', 1, timeout_seconds=2)
            except UserError as error:
                print(error, flush=True)
        hosts.publish(f'done/{hosts.index()}', True)
        while len(hosts.read_all('done')) < 3:
            time.sleep(0.1)
    """
    ends = Processes(body, [0, 1, 2], [3, 3, 3]).ends()
    for code, said in ends:
        assert code == 0, said
        assert "[{'i': 0}, {'i': 1}, {'i': 2}] ['again', 'again', 'again']" in said
    for _, said in ends[:2]:
        assert 'did not answer within 2 seconds (b): 2.' in said


def test_a_signal_to_one_stops_all_at_one_step() -> None:
    body = """
        hosts.join(30)
        with hosts.Preemption() as preemption:
            for step in range(1, 200):
                time.sleep(0.05)
                if step == 5 and hosts.index() == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                if preemption.reached(step):
                    break
        print('stopped at', step, flush=True)
        hosts.exchange('end', True)
    """
    ends = Processes(body, [0, 1], [2, 2]).ends()
    assert [code for code, _ in ends] == [0, 0], ends
    steps = {said.split('stopped at ')[1].split()[0] for _, said in ends}
    assert len(steps) == 1 and 5 <= int(steps.pop()) < 199


@pytest.mark.parametrize('victim', [0, 1])
def test_a_silent_death_is_noticed(victim: int) -> None:
    """Nothing is sent between the processes but signs of life."""
    body = f"""
        hosts.join(30)
        hosts.exchange('ready', True)
        if hosts.index() == {victim}:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(80)
    """
    ends = Processes(body, [0, 1], [2, 2]).ends(75)
    assert ends[victim][0] == -signal.SIGKILL
    code, said = ends[1 - victim]
    assert code == 75, said
    assert 'lost each other' in said and 'same command' in said


def test_a_mistake_of_one_ends_all() -> None:
    body = """
        hosts.join(30)
        def work():
            if hosts.index() == 1:
                raise UserError('the disk of this host is full')
            time.sleep(60)
        hosts.end_together(work)
    """
    (first, said), (second, _) = Processes(body, [0, 1], [2, 2]).ends(50)
    assert (first, second) == (2, 2)
    assert 'process 1 on' in said and 'the disk of this host is full' in said


def test_one_process_is_the_plain_case() -> None:
    assert processes.exchange('x', {'a': (1, 2)}) == [json.loads('{"a": [1, 2]}')]
    assert (processes.index(), processes.count(), processes.is_first()) == (0, 1, True)
    before = signal.getsignal(signal.SIGTERM)
    with processes.Preemption() as preemption:
        assert not preemption.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached(2)
    assert signal.getsignal(signal.SIGTERM) == before
