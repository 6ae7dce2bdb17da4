"""Several processes that train together: how they meet, agree, stop, and notice that one is lost.

Everything here goes over jax's coordination service, which process 0 serves: it needs no devices
and works while they are busy. One process is the plain case in which all of it is at hand.
"""

import contextlib
import ctypes
import json
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

from mural_jax.distributed.rendezvous import described, meet
from mural_jax.types import RESTART, Restart, UserError

# Ours, in seconds. After HEARTBEAT without a sign of life a process counts as lost; POLL is how
# often each looks whether another one gave up; SHUTDOWN is how long the first waits for the last
# at the end.
HEARTBEAT, POLL, SHUTDOWN = 30, 1.0, 60
LOST = (
    'mural: the processes lost each other: one of them ended or its host cannot be reached (the '
    'lines above say more). Start the same command again, it goes on from the newest checkpoint.'
)
# What jax, gloo, NCCL and gRPC say where another process is gone; more than one may be true.
SIGNS_OF_LOSS = (
    'gloo', 'nccl', 'connection reset', 'connection closed', 'connection refused', 'broken pipe',
    'socket closed', 'unavailable', 'heartbeat', 'coordination', 'another task', 'unhealthy',
    'barrier',
)  # fmt: skip
_alone: dict[str, str] = {}  # the store of a single process
_calls: dict[str, int] = {}
_kept: list[Any] = []  # what C code points to must stay
# How this process ends where jax aborts it, which it does where another one is gone.
_abort: dict[str, Any] = {'code': RESTART, 'message': LOST}


def _jax_state() -> Any:
    """jax's own record of its processes: `client`, `process_id`, `num_processes`.

    Private, and the one place where this package touches it: jax offers neither its key-value
    store nor the number of this process, before devices are looked for, in any other way.
    """
    from jax._src import distributed

    return distributed.global_state


def join(timeout_seconds: float = 300) -> None:
    """Meets the other processes that the environment describes; before any device is used.

    Raises UserError that names the missing ones.
    """
    world = described(os.environ, timeout_seconds)
    if world is None or _jax_state().client is not None:
        return
    meet(world, timeout_seconds)
    jax.config.update('jax_cpu_collectives_implementation', 'gloo')
    # Else it would abort, with words for programmers and another exit code.
    _on_abort()
    jax.distributed.initialize(
        world.address, world.count, world.index, local_device_ids=world.local_devices,
        cluster_detection_method='deactivate', initialization_timeout=int(timeout_seconds),
        heartbeat_timeout_seconds=HEARTBEAT, shutdown_timeout_seconds=SHUTDOWN,
    )  # fmt: skip
    if jax.default_backend() == 'cpu':
        # A program that one process compiled and the other read has its collectives in another
        # order: gloo then mixes them up.
        jax.config.update('jax_enable_compilation_cache', False)
    threading.Thread(target=_watch, name='mural-hosts', daemon=True).start()


def index() -> int:
    """The number of this process; looks for no device."""
    return _jax_state().process_id


def count() -> int:
    """How many processes train together; looks for no device."""
    return _jax_state().num_processes


def is_first() -> bool:
    """Whether this process writes files and talks to the user."""
    return index() == 0


def say(line: str) -> None:
    """Prints a line, on process 0 alone."""
    if is_first():
        print(line, flush=True)


def publish(key: str, value: Any) -> None:
    """Puts a JSON value where all processes can read it, in place of what was there."""
    client = _jax_state().client
    if client is None:
        _alone[key] = json.dumps(value)
    else:
        client.key_value_set(key, json.dumps(value), allow_overwrite=True)


def read_all(prefix: str) -> dict[str, Any]:
    """What was published under `prefix/`, by the rest of its key; does not wait.

    Raises jax.errors.JaxRuntimeError where process 0 is gone.
    """
    client, start = _jax_state().client, prefix.rstrip('/') + '/'
    pairs = _alone.items() if client is None else client.key_value_dir_get(start)
    return {key[len(start) :]: json.loads(text) for key, text in pairs if key.startswith(start)}


def exchange(name: str, value: Any, timeout_seconds: float = 300) -> list[Any]:
    """The JSON value of every process, in their order. All have to ask, under the same name.

    Raises UserError that names the processes that did not answer.
    """
    if count() == 1:
        return [json.loads(json.dumps(value))]
    _calls[name] = _calls.get(name, 0) + 1
    folder = f'exchange/{name}/{_calls[name]}'
    publish(f'{folder}/{index()}', value)
    deadline = time.monotonic() + timeout_seconds
    while len(found := read_all(folder)) < count():
        if time.monotonic() > deadline:
            missing = ', '.join(str(i) for i in range(count()) if str(i) not in found)
            raise UserError(
                f'Of {count()} processes these did not answer within {timeout_seconds:.0f} seconds '
                f'({name}): {missing}. Look at what they printed, and start all of them again.'
            )
        time.sleep(0.05)
    return [found[str(i)] for i in range(count())]


class Preemption:
    """Says when to save and stop: at the same step on all processes, once any got SIGTERM."""

    def __init__(self) -> None:
        self._signalled = False
        self._before: Any = None

    def __enter__(self) -> 'Preemption':
        # Of several processes jax notes the signal, and what a TPU host is told of maintenance.
        if count() == 1 and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signalled = True

    def reached(self, step: int) -> bool:
        """Whether to save and stop after this step. All have to ask, at every step."""
        if count() == 1:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)


def end_together(work: Callable[[], None]) -> None:
    """Does the work of one of several processes; where it fails, all end with one exit code.

    Alone it raises what `work` raises. 2 for UserError, 75 for Restart and for a lost process.
    """
    if count() == 1:
        work()
        return
    try:
        work()
    except UserError as error:
        _leave(2, f'error: {error}')
    except Restart as error:
        _leave(RESTART, str(error))
    except Exception as error:
        for left in _left():  # The first cause counts, not what it broke here.
            _leave(left['code'], left['message'])
        if is_loss(error):
            _leave(RESTART, f'{LOST.removeprefix("mural: ")}\n({str(error).splitlines()[0][:300]})')
        sys.excepthook(type(error), error, error.__traceback__)
        _leave(1, f'{type(error).__name__}: {error}')


def is_loss(error: BaseException | None) -> bool:
    """Whether an error means that another process is gone."""
    while error is not None:
        # jax.errors.JaxRuntimeError is a RuntimeError, as what orbax makes of it.
        if isinstance(error, (RuntimeError, OSError)) and any(
            sign in str(error).lower() for sign in SIGNS_OF_LOSS
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


def _left() -> Iterator[dict[str, Any]]:
    """Those that gave up, and why; none where that cannot be known any more."""
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        yield from read_all('left').values()


def _leave(code: int, message: str) -> NoReturn:
    """Ends all processes. Not in the usual way, in which they would wait for each other."""
    # Process 0 may be gone first: what is known already counts.
    _abort.update(code=code, message=f'mural: {message}')
    left = {'code': code, 'message': message, 'index': index(), 'host': socket.gethostname()}
    with contextlib.suppress(jax.errors.JaxRuntimeError):
        publish(f'left/{index()}', left)
    if is_first():
        _end(left, 3 * POLL)
    # Process 0 says it and ends this one, unless it cannot.
    time.sleep(5 * POLL)
    _end(left | {'index': -1})


def _end(left: Mapping[str, Any], linger_seconds: float = 0.0) -> NoReturn:
    """Process 0 stays a little: it serves what the others have to read."""
    who = '' if left['index'] in (0, -1) else f'process {left["index"]} on {left["host"]}: '
    if is_first() or left['index'] == -1:
        print(f'mural: {who}{left["message"]}', file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    time.sleep(linger_seconds)
    os._exit(left['code'])


def _watch() -> None:
    """Ends this process once another one gave up."""
    while _jax_state().client is not None:
        try:
            found = read_all('left')
        except (jax.errors.JaxRuntimeError, AttributeError):
            return  # The end, or a lost process 0: jax's own watch aborts.
        others = [left for number, left in sorted(found.items()) if int(number) != index()]
        if others and str(index()) not in found:
            _end(others[0], 3 * POLL if is_first() else 0.0)
        if found and not is_first() and '0' in found:
            os._exit(found['0']['code'])
        time.sleep(POLL)


def _on_abort() -> None:
    """jax aborts the process where another one is lost: say so, and ask for a restart.

    Python's own handlers run between two of its instructions, which never comes after an abort;
    this one is called by the C library.
    """

    def handler(number: int) -> None:
        os.write(2, f'{_abort["message"]}\n'.encode())
        os._exit(_abort['code'])

    if not _kept:
        _kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(handler))
        ctypes.CDLL(None).signal(signal.SIGABRT, _kept[0])
