"""`mural VERB ...` in a process of its own that has its libraries imported already."""

import functools
import multiprocessing
import os
import subprocess
import sys
import tempfile
import warnings
from multiprocessing import forkserver
from pathlib import Path

# Imports take longer than most of what tests ask for, so processes are forked from one that has
# done them. It has run nothing: threads and devices start after the fork.
_FORKS = multiprocessing.get_context('forkserver')
TIMEOUT = 600  # seconds


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


def run_forked(words: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess:
    """Runs a verb with variables added to the environment, and returns as subprocess.run does."""
    _start_server()
    with tempfile.TemporaryDirectory() as folder:
        outputs = [str(Path(folder) / name) for name in ('stdout', 'stderr')]
        process = _FORKS.Process(target=_call, args=(words, environment, str(Path.cwd()), outputs))
        process.start()
        process.join(TIMEOUT)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(words, TIMEOUT)
        stdout, stderr = (Path(path).read_text() for path in outputs)
    return subprocess.CompletedProcess(words, process.exitcode, stdout, stderr)


def _call(words: list[str], environment: dict[str, str], cwd: str, outputs: list[str]) -> None:
    from mural_jax.__main__ import run

    for descriptor, path in zip((1, 2), outputs):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), descriptor)
    # It is read when a process starts, and would make this one start again.
    os.environ.update(environment, GLIBC_TUNABLES='glibc.malloc.hugetlb=0')
    os.chdir(cwd)
    warnings.simplefilter('ignore')
    del os.environ['PYTHONPATH']
    sys.modules.pop('torch', None)
    sys.argv = ['mural', *words]
    run()
