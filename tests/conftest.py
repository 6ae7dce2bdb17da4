"""Eight CPU devices, strict promotion, and data made once for all tests."""

import os
import shutil
import tempfile

from commands import LEAST_COMPILED

# Compiling is most of the time of these tests, so programs are not optimised. Without the newer
# emitters of fused loops a training step compiles in less than half the time.
UNOPTIMISED = '--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
# Eight devices on two cores that others use too meet late: XLA ends the process after 40 seconds.
UNOPTIMISED += ' --xla_cpu_collective_call_terminate_timeout_seconds=300'
os.environ['XLA_FLAGS'] = f'--xla_force_host_platform_device_count=8 {UNOPTIMISED}'
os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
os.environ['JAX_PLATFORMS'] = 'cpu'
# Eight devices wait for each other in threads of one pool: with a thread a core, a few that wait
# in one collective keep the others from arriving.
os.environ['NPROC'] = '32'
# What one test compiled, another does not compile again, in whatever process.
_CACHE = tempfile.TemporaryDirectory(prefix='mural-compiled-')
os.environ['JAX_COMPILATION_CACHE_DIR'] = _CACHE.name
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = str(LEAST_COMPILED)

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock
import jax
import pytest
from commands import run_forked

jax.config.update('jax_numpy_rank_promotion', 'raise')
# Two programs over eight devices at once can starve each other's collectives on two cores.
jax.config.update('jax_cpu_enable_async_dispatch', False)

# Whether to run what takes long and seldom finds more: MURAL_TESTS=all.
ALL = os.environ.get('MURAL_TESTS') == 'all'

# Real data for tests, which skip what needs it where it is missing.
REAL_DATA = Path(
    os.environ.get('MURAL_TEST_DATA', Path(__file__).resolve().parents[2] / 'shared' / 'data')
)


def mural(*words: object, devices: int = 1, **more: str) -> subprocess.CompletedProcess:
    """The command line in a process of its own."""
    flags = f'--xla_force_host_platform_device_count={devices} {UNOPTIMISED}'
    # These two formats may load keras, which everything else must do without.
    if words[0] != 'export' or not {'--format=savedmodel', '--format=onnx'} & set(words):
        return run_forked(list(map(str, words)), {'XLA_FLAGS': flags, **more})
    environment = os.environ | {'XLA_FLAGS': flags, 'PYTHONWARNINGS': 'ignore', **more}
    command = [sys.executable, '-m', 'mural_jax', *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=600)


@pytest.fixture(scope='module', autouse=True)
def _forget_programs() -> Iterator[None]:
    """Gives back what a module compiled: a process may map only so many pieces of code."""
    yield
    jax.clear_caches()


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder that is made by the first process of a run of the tests that asks for it."""
    base = factory.getbasetemp()
    folder = (base.parent if 'PYTEST_XDIST_WORKER' in os.environ else base) / name
    with filelock.FileLock(f'{folder}.lock'):
        done = folder.with_suffix('.done')
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope='session')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`emoji_cldr` and the vocabulary of `emoji:tiny`, from the real packages."""
    from mural_jax.data.sources.cldr import DEFAULT_SOURCES

    for path in DEFAULT_SOURCES.values():
        if not Path(path).exists():
            pytest.skip(f'{path} is missing; launch/packages.sh installs it')

    def make(folder: Path) -> None:
        done = mural('prepare', '--config=emoji:tiny', f'--data_dir={folder}')
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, 'data', make)


@pytest.fixture(scope='session')
def workdir(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of `emoji:tiny`, trained and evaluated; tests do not change it."""

    def make(folder: Path) -> None:
        for verb in (['train', '--config=emoji:tiny'], ['evaluate']):
            done = mural(*verb, f'--workdir={folder / "tiny"}', f'--data_dir={data_dir}')
            assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, 'runs', make) / 'tiny'


@pytest.fixture(scope='session')
def scenes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Composed scenes, `captions/scenes`, and the vocabulary of `unicoder_vl:tiny`."""
    from mural_jax.data.sources.cldr import DEFAULT_SOURCES

    for path in DEFAULT_SOURCES.values():
        if not Path(path).exists():
            pytest.skip(f'{path} is missing; launch/packages.sh installs it')

    def make(folder: Path) -> None:
        words = [
            'data',
            'ingest',
            'scenes',
            '--name=scenes',
            '--count=200',
            '--test_count=20',
            '--tags',
        ]
        for verb in (words, ['prepare', '--config=unicoder_vl:tiny']):
            done = mural(*verb, f'--data_dir={folder}')
            assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, 'scenes', make)
