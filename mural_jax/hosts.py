"""Several processes that train together: how they meet, agree, stop, and notice that one is lost.

Everything here goes over jax's coordination service, which process 0 serves: it needs no devices
and works while they are busy. One process is the plain case in which all of it is at hand.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType, TracebackType
from typing import Any, NoReturn

import jax
from jax.experimental import multihost_utils

from mural_jax.types import RESTART, Restart, UserError

# Ours, in seconds. After HEARTBEAT without a sign of life a process counts as lost; POLL is how
# often each looks whether another one gave up; SHUTDOWN is how long the first waits for the last
# at the end.
HEARTBEAT, POLL, SHUTDOWN = 30, 1.0, 60
GREETING = 'mural'
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


@dataclasses.dataclass(frozen=True)
class World:
    """What the environment says: where process 0 listens, how many there are, which one this is.

    local_devices: the numbers of the GPUs that are for this process, None for all.
    """

    address: str
    count: int
    index: int
    local_devices: Sequence[int] | None = None


def _jax_state() -> Any:
    """jax's own record of its processes: `client`, `process_id`, `num_processes`.

    Private, and the one place where this package touches it: jax offers neither its key-value
    store nor the number of this process, before devices are looked for, in any other way.
    """
    from jax._src import distributed

    return distributed.global_state


def described(environment: Mapping[str, str], timeout_seconds: float = 300) -> World | None:
    """The processes that the environment describes, None for one alone.

    JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID; a Slurm step of several
    tasks; the hosts of a TPU slice, which GKE lists in TPU_WORKER_HOSTNAMES and which are asked
    for with MURAL_TPU_HOSTS=1 on TPU VMs. Raises UserError where half of it is missing.
    """
    names = ('JAX_COORDINATOR_ADDRESS', 'JAX_NUM_PROCESSES', 'JAX_PROCESS_ID')
    given = {name: environment[name] for name in names if environment.get(name)}
    if given:
        if len(given) < len(names):
            missing = ', '.join(name for name in names if name not in given)
            raise UserError(
                f'The environment has {", ".join(given)} but not {missing}. Set all three to train '
                'on several processes, or none.'
            )
        address, *numbers = given.values()
        if not all(number.isdecimal() for number in numbers) or ':' not in address:
            raise UserError(f'{given} must be HOST:PORT and two numbers.')
        count, index = map(int, numbers)
        local = environment.get('JAX_LOCAL_DEVICE_IDS')
        devices = [int(number) for number in local.split(',')] if local else None
        return World(address, count, index, devices) if count > 1 else None
    tasks = environment.get('SLURM_STEP_NUM_TASKS', environment.get('SLURM_NTASKS', '1'))
    slurm = 'SLURM_STEP_NODELIST' in environment and int(tasks) > 1
    slices = environment.get('MEGASCALE_NUM_SLICES', '1')
    several = ',' in environment.get('TPU_WORKER_HOSTNAMES', '') or slices not in ('', '1')
    if slurm or several or environment.get('MURAL_TPU_HOSTS'):
        return _detected(timeout_seconds)
    return None


def _detected(timeout_seconds: float) -> World | None:
    """What jax finds out by itself, as `jax.distributed.initialize()` does."""
    from jax._src import clusters

    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    address, count, index, devices = detect(None, None, None, None, None, int(timeout_seconds))
    if address is None or not count:
        raise UserError(
            'The environment says that there are several processes, but jax finds out neither '
            'where they are nor how many. Set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and '
            'JAX_PROCESS_ID.'
        )
    return World(address, count, index or 0, devices) if count > 1 else None


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
    threading.Thread(target=_watch, name='mural-hosts', daemon=True).start()


def meet(world: World, timeout_seconds: float) -> None:
    """Waits until all processes are there, at the address where jax's service then listens.

    jax aborts the process where one is missing, without saying which. Process 0 listens, the
    others say who they are, and all get the same answer. Raises UserError that names the missing.
    """
    deadline = time.monotonic() + timeout_seconds
    problem = _host(world, deadline) if world.index == 0 else _greet(world, deadline)
    if problem:
        raise UserError(problem.replace('SECONDS', f'{timeout_seconds:.0f} seconds'))


def _host(world: World, deadline: float) -> str:
    """What is wrong with the processes that came, '' for nothing; tells them."""
    here = socket.gethostname()
    names, open_, problem = {0: here}, list[socket.socket](), ''
    with _listen(int(world.address.rsplit(':', 1)[1]), world.count, deadline) as listener:
        while len(names) < world.count and not problem:
            listener.settimeout(max(deadline - time.monotonic(), 0.01))
            try:
                guest, _ = listener.accept()
                guest.settimeout(5)
                greeting, index, count, name = guest.recv(1024).decode().split()
            except TimeoutError:
                if time.monotonic() < deadline:
                    continue
                missing = ', '.join(str(i) for i in range(world.count) if i not in names)
                there = ', '.join(f'{i} ({name})' for i, name in sorted(names.items()))
                problem = (
                    f'Of {world.count} processes these are missing after SECONDS: {missing}. '
                    f'Here are {there}. Look at what the missing ones printed, and whether their '
                    f'hosts reach {world.address}; then start all of them again.'
                )
                break
            except (OSError, ValueError):  # Somebody else, such as a process of an earlier run.
                continue
            if greeting == GREETING:
                open_.append(guest)
                problem = _misfit(world, names, int(index), int(count), name)
                names[int(index)] = name
    for guest in open_:
        with contextlib.suppress(OSError), guest:
            guest.sendall((problem or 'go').encode())
            guest.shutdown(socket.SHUT_WR)
            guest.recv(1)  # The other side closes first, which leaves the port free for jax.
    return problem


def _misfit(world: World, names: Mapping[int, str], index: int, count: int, name: str) -> str:
    if count != world.count:
        return (
            f'Process {index} on {name} was told that there are {count} processes, process 0 on '
            f'{names[0]} that there are {world.count}. Start all with the same number.'
        )
    if index in names:
        return (
            f'There are two processes of number {index}, on {names[index]} and on {name}. Start '
            'each with a number of its own, and end what an earlier run left.'
        )
    return ''


def _listen(port: int, backlog: int, deadline: float) -> socket.socket:
    """Raises UserError where the port stays taken, for example by a run that is still ending."""
    while True:
        try:
            family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
            return socket.create_server(
                ('', port), family=family, backlog=backlog, dualstack_ipv6=family != socket.AF_INET
            )
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f'Process 0 cannot listen on port {port} ({error.strerror}). End the run that '
                    'holds it, or give another port.'
                ) from error
            time.sleep(0.5)


def _greet(world: World, deadline: float) -> str:
    """What process 0 answers, '' for all is well."""
    host, port = world.address.rsplit(':', 1)
    words = f'{GREETING} {world.index} {world.count} {socket.gethostname()}\n'
    while time.monotonic() < deadline + 5:  # Process 0 says first who is missing.
        try:
            with socket.create_connection((host.strip('[]'), int(port)), timeout=5) as server:
                server.sendall(words.encode())
                server.settimeout(max(deadline + 5 - time.monotonic(), 1))
                answer = b''.join(iter(lambda: server.recv(4096), b'')).decode(errors='replace')
            if answer == 'go':
                return ''
            if ' process' in answer:
                return answer
        except OSError:
            pass
        time.sleep(0.3)
    return (
        f'Process 0 did not answer at {world.address} for SECONDS. Look whether it was started and '
        'what it printed, and whether this host reaches that address.'
    )


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


def exchange(name: str, value: Any, timeout_seconds: float = 60) -> list[Any]:
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
        os.write(2, f'{LOST}\n'.encode())
        os._exit(RESTART)

    if not _kept:
        _kept.append(ctypes.CFUNCTYPE(None, ctypes.c_int)(handler))
        ctypes.CDLL(None).signal(signal.SIGABRT, _kept[0])
