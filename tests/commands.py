"""`mural VERB ...` in a process of its own that has its libraries imported already."""

import functools
import multiprocessing
import os
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

# Imports take longer than most of what tests ask for, so processes are forked from one that has
# done them. It has run nothing: threads and devices start after the fork.
_FORKS = multiprocessing.get_context('forkserver')
TIMEOUT = 600  # seconds
LEAST_COMPILED = 0.3  # seconds of compilation that are worth an entry in jax's cache


@functools.cache
def _start_server() -> None:
    """Starts the process to fork from, which finds the module only by this variable."""
    _FORKS.set_forkserver_preload(['preloaded'])
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = str(Path(__file__).parent)
    forkserver.ensure_running()
    del os.environ['PYTHONPATH']
    if before is not None:
        os.environ['PYTHONPATH'] = before


def find_worlds(count: int) -> list[dict[str, str]]:
    """For each of `count` processes the variables by which they find each other on this machine."""
    if count == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    common = {'JAX_NUM_PROCESSES': str(count), 'JAX_COORDINATOR_ADDRESS': address}
    return [common | {'JAX_PROCESS_ID': str(index)} for index in range(count)]


def start_forked(
    words: list[str],
    environment: dict[str, str],
    stdout: Path,
    stderr: Path,
    order: Sequence[int] = (),
) -> BaseProcess:
    """Starts a verb with variables added to the environment. Its output goes to two files.

    order: ids of all devices as meshes list them; by default jax decides.
    """
    return _fork(_call, words, environment, str(Path.cwd()), [stdout, stderr], order)


def start_script(
    lines: str, environment: dict[str, str], output: Path, order: Sequence[int] = ()
) -> BaseProcess:
    """Starts a few lines of Python with variables added to the environment.

    order: as in `start_forked`.
    """
    return _fork(_execute, lines, environment, output, order)


def _fork(work: Callable[..., None], *arguments: Any) -> BaseProcess:
    _start_server()
    process = _FORKS.Process(target=work, args=arguments)
    process.start()
    return process


def run_forked(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Runs a verb with variables added to the environment, and returns as subprocess.run does."""
    with tempfile.TemporaryDirectory() as folder:
        outputs = [Path(folder) / name for name in ('stdout', 'stderr')]
        process = start_forked(words, environment, *outputs)
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, TIMEOUT)
        stdout, stderr = (path.read_text() for path in outputs)
    return subprocess.CompletedProcess(words, process.exitcode, stdout, stderr)


def _write_to(*outputs: Path) -> None:
    """Sends what this process prints, also from libraries in C, to one file or two."""
    for descriptor, path in zip((1, 2), outputs * 2):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), descriptor)


def _execute(lines: str, environment: dict[str, str], output: Path, order: Sequence[int]) -> None:
    _write_to(output)
    os.environ.update(environment)
    if order:
        _mix_devices(order)
    _cache_in_every_process()
    exec(lines, {'__name__': '__main__'})


def _call(
    words: list[str],
    environment: dict[str, str],
    cwd: str,
    outputs: list[Path],
    order: Sequence[int] = (),
) -> None:
    import jax

    from mural_jax.__main__ import run

    _write_to(*outputs)
    # It is read when a process starts, and would make this one start again.
    os.environ.update(environment, GLIBC_TUNABLES='glibc.malloc.hugetlb=0')
    os.chdir(cwd)
    warnings.simplefilter('ignore')
    del os.environ['PYTHONPATH']
    sys.modules.pop('torch', None)
    sys.argv = ['mural', *words]
    if order:
        _mix_devices(order)
    _cache_in_every_process()
    try:
        run()
    finally:
        # JAX does it when Python exits, for which forks have no handlers.
        jax.distributed.shutdown()


def _mix_devices(order: Sequence[int]) -> None:
    """Makes meshes list their devices in this order, as on TPU slices, where processes mix."""
    import jax

    make_mesh = jax.make_mesh

    def make_mixed_mesh(*args: Any, devices: Any = None, **more: Any) -> Any:
        found = sorted(devices or jax.devices(), key=lambda device: device.id)
        return make_mesh(*args, devices=[found[number] for number in order], **more)

    jax.make_mesh = make_mixed_mesh


def _cache_in_every_process() -> None:
    """Lets all processes keep what they compiled, and not the first alone.

    On CPUs the key in jax's cache depends on the process, so the others would never find anything.
    """
    from jax._src import compilation_cache, compiler

    def write(
        key: str, seconds: float, name: str, backend: Any, executable: Any, callbacks: Any
    ) -> None:
        if seconds >= LEAST_COMPILED and not callbacks:
            compilation_cache.put_executable_and_time(key, name, executable, backend, int(seconds))

    compiler._cache_write = write
