"""Processes that train together: they meet, agree, stop together, and notice a lost one.

All messages go through jax's coordination service, which process 0 serves: it needs no devices,
and works while they are busy. A single process uses a dict of its own instead.
"""

import contextlib
import ctypes
import json
import math
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import FrameType, TracebackType
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from mural_jax.distributed.rendezvous import count_granted, meet_processes, read_world
from mural_jax.types import RESTART, Restart, UserError

# Seconds, all three ours.
HEARTBEAT = 30  # without a sign of life, after which a process counts as lost
POLL = 1.0  # between two looks whether another process gave up
SHUTDOWN = 60  # that the first process waits for the last one at the end of a run
LOST = (
    'mural: the processes lost each other: one of them ended or its host cannot be reached (the '
    'lines above say more). Start the same command again, it goes on from the newest checkpoint.'
)
# Words in the errors of jax, gloo, NCCL and gRPC after another process has gone.
SIGNS_OF_LOSS = (
    'gloo',
    'nccl',
    'connection reset',
    'connection closed',
    'connection refused',
    'broken pipe',
    'socket closed',
    'unavailable',
    'heartbeat',
    'coordination',
    'another task',
    'unhealthy',
    'barrier',
)
IN_ORDER = '--xla_cpu_enable_concurrency_optimized_scheduler=false'
_own_store: dict[str, str] = {}  # takes the place of the coordination service
_exchange_calls: dict[str, int] = {}  # number of exchanges so far, by name
_c_callbacks: list[Any] = []  # keeps alive the callbacks that C code points to
# How this process ends if jax aborts it because another process is gone.
_on_abort: dict[str, Any] = {'code': RESTART, 'message': LOST}


def _jax_state() -> Any:
    """jax's own record of its processes: `client`, `process_id`, `num_processes`.

    It is private to jax, and only this function touches it. There is no public way to the
    key-value store, nor to the number of this process before jax looks for devices.
    """
    from jax._src import distributed

    return distributed.global_state


def join(timeout_seconds: float = 300) -> None:
    """Connects to the other processes that the environment describes.

    Must run before anything uses a device. Raises UserError with the missing processes, or if
    Slurm granted more GPUs than jax sees.
    """
    world = read_world(os.environ, timeout_seconds)
    if world is None:
        _check_granted()
    if world is None or _jax_state().client is not None:
        return
    meet_processes(world, timeout_seconds)
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    # Else processes on CPUs start collectives that do not depend on each other in different orders,
    # within a program and in two that run at once, and gloo mixes them up. XLA reads the variable
    # when jax looks for devices.
    jax.config.update('jax_cpu_enable_async_dispatch', False)
    os.environ['XLA_FLAGS'] = f'{os.environ.get("XLA_FLAGS", "")} {IN_ORDER}'
    # jax ends a process that lost another one by an abort, with an exit code and a message that
    # say nothing to a user or to a scheduler.
    _explain_aborts()
    jax.distributed.initialize(
        world.address,
        world.count,
        world.index,
        local_device_ids=world.local_devices,
        cluster_detection_method='deactivate',
        initialization_timeout=int(timeout_seconds),
        heartbeat_timeout_seconds=HEARTBEAT,
        shutdown_timeout_seconds=SHUTDOWN,
    )
    threading.Thread(target=_watch_departures, name='mural-processes', daemon=True).start()
    _check_granted()


def _check_granted() -> None:
    """Raises UserError if this process sees fewer GPUs than Slurm granted it."""
    granted = count_granted(os.environ)
    if granted and jax.local_device_count() < granted:
        raise UserError(
            f'Slurm granted {granted} GPUs to this process on {socket.gethostname()}, and jax sees '
            f'{jax.local_device_count()} devices of kind {jax.default_backend()}. Install '
            'mural-jax[cuda] and look at nvidia-smi there, or ask Slurm for fewer GPUs.'
        )


def index() -> int:
    """The number of this process. Does not make jax look for devices."""
    return _jax_state().process_id


def count() -> int:
    """The number of processes that train together. Does not make jax look for devices."""
    return _jax_state().num_processes


def is_first() -> bool:
    """Whether this is the process that writes files and talks to the user."""
    return index() == 0


def count_cpus() -> int:
    """The CPUs that this process may use, which a scheduler can limit."""
    # Systems other than Linux limit nothing.
    return len(os.sched_getaffinity(0)) if sys.platform == 'linux' else os.cpu_count() or 1


def say(line: str) -> None:
    """Prints a line on process 0, and nothing on the others."""
    if is_first():
        print(line, flush=True)


def publish(key: str, value: Any) -> None:
    """Stores a JSON value where all processes can read it; replaces an older one."""
    client = _jax_state().client
    if client is None:
        _own_store[key] = json.dumps(value)
    else:
        client.key_value_set(key, json.dumps(value), allow_overwrite=True)


def read_all(prefix: str) -> dict[str, Any]:
    """All values published under `prefix/` so far, by the rest of their key.

    Raises jax.errors.JaxRuntimeError if process 0 is gone.
    """
    client, start = _jax_state().client, prefix.rstrip('/') + '/'
    pairs = _own_store.items() if client is None else client.key_value_dir_get(start)
    return {key[len(start) :]: json.loads(text) for key, text in pairs if key.startswith(start)}


def exchange(name: str, value: Any, timeout_seconds: float = 300) -> list[Any]:
    """The JSON values of all processes, in the order of their numbers.

    Every process must call this with the same name. Raises UserError with the processes that did
    not answer in time.
    """
    if count() == 1:
        # Through JSON here too, so that tuples become lists for any number of processes.
        return [json.loads(json.dumps(value))]
    # A folder for each call: a fast process may be in the next exchange of this name already.
    _exchange_calls[name] = _exchange_calls.get(name, 0) + 1
    folder = f'exchange/{name}/{_exchange_calls[name]}'
    publish(f'{folder}/{index()}', value)
    deadline = time.monotonic() + timeout_seconds
    while len(values := read_all(folder)) < count():
        if time.monotonic() > deadline:
            missing = ', '.join(str(i) for i in range(count()) if str(i) not in values)
            raise UserError(
                f'Some of {count()} processes did not answer within {timeout_seconds:.0f} seconds '
                f'({name}): {missing}. Look at what they printed, and start all of them again.'
            )
        time.sleep(0.05)
    return [values[str(i)] for i in range(count())]


class Preemption:
    """Tells all processes to save and stop at the same step, after any of them got SIGTERM."""

    def __init__(self) -> None:
        self._signalled = False
        self._before: Any = None

    def __enter__(self) -> 'Preemption':
        # With several processes jax itself catches the signal, and TPU maintenance notices too.
        if count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._record_signal)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _record_signal(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def reached(self, step: int) -> bool:
        """Whether to save and stop after this step. Every process must call this at every step."""
        if count() == 1:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)


def end_together(work: Callable[[], None]) -> None:
    """Runs `work`; if it fails on any of several processes, all end with one exit code.

    The exit code is 2 for UserError, 75 for Restart and for a lost process, 1 for other errors. A
    single process raises the errors of `work` as they are.
    """
    if count() == 1:
        work()
        return
    try:
        work()
        exchange('end', None, timeout_seconds=math.inf)
    except UserError as error:
        _end_run(2, f'error: {error}')
    except Restart as error:
        _end_run(RESTART, str(error))
    except Exception as error:
        # If another process gave up before, this error is a consequence: report the cause.
        for departure in _read_departures():
            _end_run(departure['code'], departure['message'])
        if is_lost_process(error):
            _end_run(
                RESTART, f'{LOST.removeprefix("mural: ")}\n({str(error).splitlines()[0][:300]})'
            )
        sys.excepthook(type(error), error, error.__traceback__)
        _end_run(1, f'{type(error).__name__}: {error}')
    _leave()


def _leave() -> None:
    """Ends the connection to the other processes, whose work is done, too.

    jax aborts a process that finds its service gone. So process 0 goes on to serve a moment after
    all have left, and what is aborted nevertheless has done its work.
    """
    _on_abort.update(code=0, message='mural: all processes have done their work')
    state = _jax_state()
    service, state.service = state.service, None
    jax.distributed.shutdown()
    if service is not None:
        time.sleep(POLL)
        service.shutdown()


def is_lost_process(error: BaseException | None) -> bool:
    """Whether an error, or a cause of it, means that another process is gone."""
    while error is not None:
        said = str(error).lower()
        # jax.errors.JaxRuntimeError is a RuntimeError, and orbax raises one from it. On CPUs jax
        # raises what gloo says as ValueError.
        if isinstance(error, (RuntimeError, OSError)) and any(
            sign in said for sign in SIGNS_OF_LOSS
        ):
            return True
        if isinstance(error, ValueError) and said.startswith('unknown: gloo'):
            return True
        error = error.__cause__ or error.__context__
    return False


def _read_departures() -> Iterator[dict[str, Any]]:
    """The processes that gave up, each with its exit code and message.

    None if the coordination service is gone.
    """
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        yield from read_all('left').values()


def _end_run(code: int, message: str) -> NoReturn:
    """Ends all processes.

    Not by a normal exit, in which each process waits for all others.
    """
    # If process 0 exits first, jax aborts this process: with this code and message then.
    _on_abort.update(code=code, message=f'mural: {message}')
    departure = {'code': code, 'message': message, 'index': index(), 'host': socket.gethostname()}
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        publish(f'left/{index()}', departure)
    if is_first():
        _exit_process(departure, 3 * POLL)
    # Process 0 prints the message and ends this process. Where it cannot, this process does so.
    time.sleep(5 * POLL)
    _exit_process(departure | {'index': -1})


def _exit_process(departure: Mapping[str, Any], linger_seconds: float = 0.0) -> NoReturn:
    """Prints why a process gave up, on one process alone, and exits with its code.

    An `index` of -1 means that this process prints it in place of process 0.
    """
    index_ = departure['index']
    who = '' if index_ in (0, -1) else f'process {index_} on {departure["host"]}: '
    if is_first() or index_ == -1:
        print(f'mural: {who}{departure["message"]}', file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    # Process 0 lingers, because it serves the messages that the others have yet to read.
    time.sleep(linger_seconds)
    os._exit(departure['code'])


def _watch_departures() -> None:
    """Ends this process after another one gave up. Runs in a thread."""
    while _jax_state().client is not None:
        try:
            departures = read_all('left')
        except (jax.errors.JaxRuntimeError, AttributeError):
            # The run has ended, or process 0 is lost, and then jax aborts this process.
            return
        others = [
            departure for number, departure in sorted(departures.items()) if int(number) != index()
        ]
        if others and str(index()) not in departures:
            _exit_process(others[0], 3 * POLL if is_first() else 0.0)
        # Both gave up at once: process 0 prints the message, so this one need not.
        if departures and not is_first() and '0' in departures:
            os._exit(departures['0']['code'])
        time.sleep(POLL)


def _explain_aborts() -> None:
    """Makes an abort by jax print a message for the user and exit with the code for a restart.

    The handler is called by the C library. A Python signal handler would only run at the next
    instruction of the interpreter, and after an abort there is none.
    """

    def handler(number: int) -> None:
        os.write(2, f'{_on_abort["message"]}\n'.encode())
        os._exit(_on_abort['code'])

    if not _c_callbacks:
        _c_callbacks.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(handler))
        ctypes.CDLL(None).signal(signal.SIGABRT, _c_callbacks[0])
