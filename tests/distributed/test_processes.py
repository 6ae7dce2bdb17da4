"""Processes that meet, exchange values, stop together, and notice that one is gone."""

import json
import os
import signal
import socket
import textwrap
import time
from pathlib import Path

import pytest
from commands import start_script

from mural_jax.distributed import processes


class RunningScript:
    """A few lines of Python that run in several processes; a UserError exits with 2, as in `mural`.

    The lines know `processes`, the module under test.
    """

    HEAD = """
        import os, signal, sys, time
        import jax
        from mural_jax.distributed import processes
        from mural_jax.types import RESTART, UserError
        processes.HEARTBEAT = 5
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

    def __init__(self, folder: Path, body: str, indices: list[int], counts: list[int]):
        with socket.socket() as free:
            free.bind(('localhost', 0))
            address = f'localhost:{free.getsockname()[1]}'
        body = textwrap.indent(textwrap.dedent(body).strip(), ' ' * 4)
        code = textwrap.dedent(self.HEAD).replace('{body}', body)
        self._outputs = [folder / str(number) for number in range(len(indices))]
        self._running = [
            start_script(
                code,
                {
                    'JAX_COORDINATOR_ADDRESS': address,
                    'JAX_NUM_PROCESSES': str(count),
                    'JAX_PROCESS_ID': str(index),
                    'XLA_FLAGS': '',
                },
                output,
            )
            for index, count, output in zip(indices, counts, self._outputs, strict=True)
        ]

    def wait(self, seconds: float = 90) -> list[tuple[int | None, str]]:
        """(exit code, output) of each process, which must end within the time."""
        deadline = time.monotonic() + seconds
        try:
            for process in self._running:
                process.join(max(deadline - time.monotonic(), 1))
            codes = [process.exitcode for process in self._running]
        finally:
            for process in self._running:
                process.kill()
        return [(code, path.read_text()) for code, path in zip(codes, self._outputs, strict=True)]


def test_every_process_names_the_missing_ones(tmp_path: Path) -> None:
    for code, said in RunningScript(tmp_path, 'processes.join(6)', [0, 2], [4, 4]).wait(60):
        assert code == 2, said
        assert 'missing after 6 seconds: 1, 3.' in said


def test_missing_first_process_is_named(tmp_path: Path) -> None:
    ((code, said),) = RunningScript(tmp_path, 'processes.join(3)', [1], [2]).wait(60)
    assert code == 2 and 'Process 0 did not answer' in said


@pytest.mark.parametrize(
    ('indices', 'counts', 'message'),
    [
        ([0, 1], [2, 3], 'was told that there are 3 processes'),
        ([0, 1, 1], [3, 3, 3], 'two processes of number 1'),
    ],
)
def test_processes_that_disagree_about_numbers_are_refused(
    tmp_path: Path, indices: list[int], counts: list[int], message: str
) -> None:
    for code, said in RunningScript(tmp_path, 'processes.join(20)', indices, counts).wait(60):
        assert code == 2, said
        assert message in said


def test_exchange_returns_all_values_and_names_silent_processes(tmp_path: Path) -> None:
    body = """
        processes.join(30)
        first = processes.exchange('a', {'i': processes.index()})
        print(first, processes.exchange('a', 'again'), flush=True)
        if processes.index() < 2:
            try:
                processes.exchange('b', 1, timeout_seconds=2)
            except UserError as error:
                print(error, flush=True)
        processes.publish(f'done/{processes.index()}', True)
        while len(processes.read_all('done')) < 3:
            time.sleep(0.1)
    """
    outcomes = RunningScript(tmp_path, body, [0, 1, 2], [3, 3, 3]).wait()
    for code, said in outcomes:
        assert code == 0, said
        assert "[{'i': 0}, {'i': 1}, {'i': 2}] ['again', 'again', 'again']" in said
    for _, said in outcomes[:2]:
        assert 'did not answer within 2 seconds (b): 2.' in said


def test_signal_to_one_process_stops_all_at_one_step(tmp_path: Path) -> None:
    body = """
        processes.join(30)
        with processes.Preemption() as preemption:
            for step in range(1, 200):
                time.sleep(0.05)
                if step == 5 and processes.index() == 1:
                    os.kill(os.getpid(), signal.SIGTERM)
                if preemption.reached(step):
                    break
        print('stopped at', step, flush=True)
        processes.exchange('end', True)
    """
    outcomes = RunningScript(tmp_path, body, [0, 1], [2, 2]).wait()
    assert [code for code, _ in outcomes] == [0, 0], outcomes
    steps = {said.split('stopped at ')[1].split()[0] for _, said in outcomes}
    assert len(steps) == 1 and 5 <= int(steps.pop()) < 199


@pytest.mark.parametrize('victim', [0, 1])
def test_killed_process_is_noticed(tmp_path: Path, victim: int) -> None:
    """The processes send each other nothing but signs of life."""
    body = f"""
        processes.join(30)
        processes.exchange('ready', True)
        if processes.index() == {victim}:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(80)
    """
    outcomes = RunningScript(tmp_path, body, [0, 1], [2, 2]).wait(75)
    assert outcomes[victim][0] == -signal.SIGKILL
    code, said = outcomes[1 - victim]
    assert code == 75, said
    assert 'lost each other' in said and 'same command' in said


def test_user_error_of_one_process_ends_all(tmp_path: Path) -> None:
    body = """
        processes.join(30)
        def work():
            if processes.index() == 1:
                raise UserError('the disk of this host is full')
            time.sleep(60)
        processes.end_together(work)
    """
    (first, said), (second, _) = RunningScript(tmp_path, body, [0, 1], [2, 2]).wait(50)
    assert (first, second) == (2, 2)
    assert 'process 1 on' in said and 'the disk of this host is full' in said


def test_single_process_exchanges_with_itself() -> None:
    assert processes.exchange('x', {'a': (1, 2)}) == [json.loads('{"a": [1, 2]}')]
    assert (processes.index(), processes.count(), processes.is_first()) == (0, 1, True)


def test_single_process_notes_a_signal_and_restores_the_handler() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with processes.Preemption() as preemption:
        assert not preemption.reached(1)
        os.kill(os.getpid(), signal.SIGTERM)
        assert preemption.reached(2)
    assert signal.getsignal(signal.SIGTERM) == before
