"""Processes find each other, and name the missing ones, before jax connects them.

jax itself aborts every process if one is missing, and does not say which.
"""

import contextlib
import dataclasses
import socket
import time
from collections.abc import Mapping, Sequence

from mural_jax.types import UserError

GREETING = 'mural'


@dataclasses.dataclass(frozen=True)
class ProcessWorld:
    """The processes of a run as the environment describes them.

    address: HOST:PORT where process 0 listens.
    count: number of processes.
    index: number of this process.
    local_devices: numbers of the GPUs that this process uses; None for all.
    """

    address: str
    count: int
    index: int
    local_devices: Sequence[int] | None = None


def read_world(environment: Mapping[str, str], timeout_seconds: float = 300) -> ProcessWorld | None:
    """The processes that the environment describes; None for a single process.

    Three descriptions are understood: JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and
    JAX_PROCESS_ID; a Slurm step of several tasks; the hosts of a TPU slice, which GKE lists in
    TPU_WORKER_HOSTNAMES. On TPU VMs, MURAL_TPU_HOSTS=1 asks for the hosts of the slice.

    Raises UserError if a description is incomplete.
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
        return ProcessWorld(address, count, index, devices) if count > 1 else None
    tasks = environment.get('SLURM_STEP_NUM_TASKS', environment.get('SLURM_NTASKS', '1'))
    slurm = 'SLURM_STEP_NODELIST' in environment and int(tasks) > 1
    slices = environment.get('MEGASCALE_NUM_SLICES', '1')
    several = ',' in environment.get('TPU_WORKER_HOSTNAMES', '') or slices not in ('', '1')
    if slurm or several or environment.get('MURAL_TPU_HOSTS'):
        return _detect_world(environment, timeout_seconds)
    return None


def _detect_world(environment: Mapping[str, str], timeout_seconds: float) -> ProcessWorld | None:
    """The processes that jax detects by itself, as in `jax.distributed.initialize()`."""
    # Private to jax: the public `initialize` detects and connects in one call, and the processes
    # have to meet in between.
    from jax._src import clusters

    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    address, count, index, devices = detect(None, None, None, None, None, int(timeout_seconds))
    if 'SLURM_STEP_NODELIST' in environment:
        devices = choose_slurm_devices(environment)
    if address is None or not count:
        raise UserError(
            'The environment says that there are several processes, but jax finds out neither '
            'where they are nor how many. Set JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and '
            'JAX_PROCESS_ID.'
        )
    return ProcessWorld(address, count, index or 0, devices) if count > 1 else None


def choose_slurm_devices(environment: Mapping[str, str]) -> list[int] | None:
    """The numbers of the GPUs that a task of a Slurm step uses; None for all that it sees.

    jax alone would give each task the one GPU of its number on the node, also where a task has the
    node for itself. Here the tasks of a node share the GPUs that all of them see.

    Raises UserError if the tasks cannot have equal shares.
    """
    tasks, index = _count_slurm_tasks(environment), int(environment.get('SLURM_LOCALID', '0'))
    if tasks == 1:
        return None
    granted = int(environment.get('SLURM_GPUS_ON_NODE') or 0)
    if not granted:
        return [index]  # This Slurm does not manage GPUs: one for each task.
    visible = environment.get('CUDA_VISIBLE_DEVICES', '')
    if visible and len(visible.split(',')) < granted:
        return None  # Slurm shows each task only its own.
    if granted % tasks:
        raise UserError(
            f'{tasks} tasks on this node cannot share its {granted} GPUs evenly. Start one task a '
            'node, which uses all its GPUs (--ntasks-per-node=1), or as many as it has GPUs.'
        )
    share = granted // tasks
    return list(range(index * share, (index + 1) * share))


def count_granted(environment: Mapping[str, str]) -> int:
    """The number of GPUs that Slurm grants this task; 0 if it says nothing of any."""
    granted = int(environment.get('SLURM_GPUS_ON_NODE') or 0)
    if 'SLURM_STEP_NODELIST' not in environment or not granted:
        return 0
    devices = choose_slurm_devices(environment)
    if devices is not None:
        return len(devices)
    visible = environment.get('CUDA_VISIBLE_DEVICES', '')
    return len(visible.split(',')) if visible else granted


def _count_slurm_tasks(environment: Mapping[str, str]) -> int:
    """The number of tasks of a Slurm step on this node, of which Slurm writes `4(x2),3`."""
    counts: list[int] = []
    for part in environment.get('SLURM_STEP_TASKS_PER_NODE', '1').split(','):
        number, _, times = part.rstrip(')').partition('(x')
        counts += [int(number)] * int(times or 1)
    return counts[int(environment.get('SLURM_NODEID', '0'))]


def meet_processes(world: ProcessWorld, timeout_seconds: float) -> None:
    """Waits until all processes have come to the address where jax's service listens later.

    Process 0 listens, the others report to it, and all get the same answer. Raises UserError
    with the missing processes, or with what does not fit together.
    """
    deadline = time.monotonic() + timeout_seconds
    problem = (
        _host_meeting(world, deadline) if world.index == 0 else _report_to_first(world, deadline)
    )
    if problem:
        raise UserError(problem.replace('SECONDS', f'{timeout_seconds:.0f} seconds'))


def _host_meeting(world: ProcessWorld, deadline: float) -> str:
    """What is wrong with the processes that came, '' for nothing; answers all of them."""
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
                    f'Some of {world.count} processes are missing after SECONDS: {missing}. '
                    f'Here are {there}. Look at what the missing ones printed, and whether their '
                    f'hosts reach {world.address}; then start all of them again.'
                )
                break
            except (OSError, ValueError):
                continue  # A stranger, for example a process of an earlier run.
            if greeting == GREETING:
                open_.append(guest)
                problem = _describe_misfit(world, names, int(index), int(count), name)
                names[int(index)] = name
    for guest in open_:
        with contextlib.suppress(OSError), guest:
            guest.sendall((problem or 'go').encode())
            guest.shutdown(socket.SHUT_WR)
            # Wait until the other side closes: the side that closes first keeps the port busy for
            # a while, and jax needs it next.
            guest.recv(1)
    return problem


def _describe_misfit(
    world: ProcessWorld, names: Mapping[int, str], index: int, count: int, name: str
) -> str:
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
    """A listening socket. Raises UserError if the port stays taken until the deadline.

    A run that is still ending may hold it for a moment.
    """
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


def _report_to_first(world: ProcessWorld, deadline: float) -> str:
    """The problem that process 0 answers with, '' for none."""
    host, port = world.address.rsplit(':', 1)
    words = f'{GREETING} {world.index} {world.count} {socket.gethostname()}\n'
    # Longer than process 0 waits, so that its answer, which names the missing, comes first.
    while time.monotonic() < deadline + 5:
        try:
            with socket.create_connection((host.strip('[]'), int(port)), timeout=5) as server:
                server.sendall(words.encode())
                server.settimeout(max(deadline + 5 - time.monotonic(), 1))
                answer = b''.join(iter(lambda: server.recv(4096), b'')).decode(errors='replace')
            if answer == 'go':
                return ''
            # Every problem names processes; another text comes from a stranger at this port.
            if ' process' in answer:
                return answer
        except OSError:
            pass  # Process 0 may not have started yet.
        time.sleep(0.3)
    return (
        f'Process 0 did not answer at {world.address} for SECONDS. Look whether it was started and '
        'what it printed, and whether this host reaches that address.'
    )
