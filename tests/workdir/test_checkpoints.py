"""Checkpoints: what is kept, what damage does, a full disk, other devices."""

import gc
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mural_jax.types import UserError
from mural_jax.workdir import checksums
from mural_jax.workdir.checkpoints import Best, Checkpoints

# When one array cannot be read, orbax leaves the reading of the others unfinished.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(autouse=True)
def _collect() -> Iterator[None]:
    """What orbax leaves is collected here, not in another test."""
    yield
    gc.collect()


def mesh(devices: int) -> Mesh:
    return jax.make_mesh(
        (devices,), ('fsdp',), axis_types=(AxisType.Auto,), devices=jax.devices()[:devices]
    )


def trees(step: int, devices: int = 8) -> dict[str, Any]:
    """Split and whole arrays of several dtypes, other numbers at every step."""
    rng = np.random.default_rng(step)
    split = NamedSharding(mesh(devices), PartitionSpec('fsdp'))
    whole = NamedSharding(mesh(devices), PartitionSpec())
    params = {
        'kernel': jax.device_put(rng.normal(size=(64, 96)).astype(np.float32), split),
        'half': jax.device_put(rng.normal(size=(8, 4)).astype(jnp.bfloat16), split),
        'zeros': jax.device_put(np.zeros((8, 64), np.float32), split),
    }
    optimizer = ({'mu': jax.device_put(rng.normal(size=(64, 96)).astype(np.float32), split)}, ())
    progress = {'step': jax.device_put(np.int32(step), whole), 'optimizer': optimizer}
    return {'params': params, 'statistics': {}, 'progress': progress}


def equal(one: Any, other: Any) -> bool:
    same = jax.tree.map(lambda x, y: np.array_equal(np.asarray(x), np.asarray(y)), one, other)
    return all(jax.tree.leaves(same))


def save(workdir: Path, *steps: int, **options: Any) -> None:
    checkpoints = Checkpoints(workdir, **options)
    for step in steps:
        checkpoints.save(step, trees(step), {'vocabulary': 'v', 'positions': {'pairs': step}})
    checkpoints.close()


def resume(workdir: Path, **like: Any) -> tuple[Any, list[str]]:
    said: list[str] = []
    checkpoints = Checkpoints(workdir)
    found = checkpoints.resume(lambda about: None, said.append, **(like or trees(0)))
    checkpoints.close()
    return found, said


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 4 and 8; tests change only copies of it."""
    workdir = tmp_path_factory.mktemp('saved')
    save(workdir, 4, 8)
    return workdir


@pytest.fixture
def workdir(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / 'copy')
    return tmp_path / 'copy'


def test_newest_and_best_are_kept(tmp_path: Path) -> None:
    best = Best('recall', 'max', keep=2)
    checkpoints = Checkpoints(tmp_path, keep=1, best=best)
    assert checkpoints.best_step is None
    scores = [0.3, 0.9, float('nan'), 0.5, float('inf'), None, 0.1]
    for step, score in enumerate(scores):
        metrics = None if score is None else {'recall': score, 'loss': 1.0}
        checkpoints.save(step, {'params': {'a': jnp.ones(3)}}, {}, metrics)
    assert checkpoints.best_step == 1
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=1, best=best)
    assert (again.steps, again.best_step) == ([1, 3, 6], 1)
    again.close()
    lowest = Checkpoints(tmp_path, keep=1, best=Best('recall', 'min'))
    assert lowest.best_step == 6
    lowest.save(7, {'params': {'a': jnp.ones(3)}}, {})
    lowest.close()
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['6', '7']


def test_what_is_saved_is_what_was_there_when_it_was_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training goes on with the same lists while they are being written."""
    dumps = json.dumps

    def late(*given: Any, **options: Any) -> str:
        if threading.current_thread() is not threading.main_thread():
            time.sleep(0.5)
        return dumps(*given, **options)

    monkeypatch.setattr(json, 'dumps', late)
    checkpoints, window = Checkpoints(tmp_path), [0.5]
    checkpoints.save(1, trees(1), {'window': window})
    window.append(jnp.float32(1))  # Nothing that JSON has.
    checkpoints.close()
    reopened = Checkpoints(tmp_path)
    assert reopened.about(1)['window'] == [0.5]
    reopened.close()


def test_other_metric_names_nobody_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2, best=Best('recall', 'min'))
    checkpoints.save(1, {'params': {'a': jnp.ones(3)}}, {}, {'loss': 1.0})
    assert checkpoints.best_step is None
    checkpoints.close()
    with pytest.raises(UserError, match="'min' or the 'max'"):
        Best('loss', 'lowest')  # type: ignore[arg-type]


def test_resume_takes_the_newest(workdir: Path) -> None:
    found, said = resume(workdir)
    assert found[:2] == (8, {'vocabulary': 'v', 'positions': {'pairs': 8}})
    assert equal(found[2], trees(8))
    assert not said


def test_resume_while_a_step_is_being_saved(tmp_path: Path) -> None:
    """As a run does that goes back."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, trees(step), {'step': step})
        found = checkpoints.resume(lambda about: None, print, **trees(0))
        assert found is not None and found[0] == step and equal(found[2], trees(step))
    checkpoints.close()


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert resume(tmp_path) == (None, [])


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    'half': cut,
    'empty': lambda data: b'',
    'zeros': lambda data: bytes(len(data)),
    'gone': lambda data: None,
    'bit': flip,
}


def damage(path: Path, how: str) -> None:
    data = DAMAGES[how](path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)


@pytest.mark.parametrize('how', DAMAGES)
def test_damage_never_passes_silently(saved: Path, tmp_path: Path, how: str) -> None:
    """Each file of a checkpoint in turn: what comes back is what was saved, of step 8 or 4."""
    files = sorted(path for path in (saved / 'checkpoints' / '8').rglob('*') if path.is_file())
    went_back = []
    for number, path in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(saved, workdir)
        damage(workdir / path.relative_to(saved), how)
        (step, about, found), said = resume(workdir)
        assert equal(found, trees(step))
        assert about['positions'] == {'pairs': step}
        assert bool(said) == (step == 4)
        if step == 4:
            went_back.append(path)
            assert 'step 8' in said[0] and 'back to step 4' in said[0]
            assert (workdir / 'checkpoints' / '8.broken').is_dir()
        shutil.rmtree(workdir)
    items = {path.relative_to(saved / 'checkpoints' / '8').parts[0] for path in went_back}
    assert items >= {'about', 'params', 'progress', 'seal'}


@pytest.mark.parametrize('item', ['about', 'params', 'progress'])
def test_half_deleted(workdir: Path, item: str) -> None:
    shutil.rmtree(workdir / 'checkpoints' / '8' / item)
    (step, _, found), said = resume(workdir)
    assert step == 4 and equal(found, trees(4))
    assert len(said) == 1 and item in said[0]


def test_a_flipped_bit_of_an_array_is_noticed_and_the_step_written_again(workdir: Path) -> None:
    data = (workdir / 'checkpoints/8/params').glob('ocdbt.process_*/d/*')
    damage(max(data, key=lambda path: path.stat().st_size), 'bit')
    _, said = resume(workdir)
    assert 'checksum' in said[0]
    save(workdir, 8)
    found, said = resume(workdir)
    assert found[0] == 8 and not said


def test_broken_twice(workdir: Path) -> None:
    (workdir / 'checkpoints' / '8.broken').mkdir()
    (workdir / 'checkpoints' / '8' / 'about' / 'metadata').write_text('{')
    assert resume(workdir)[0][0] == 4
    assert (workdir / 'checkpoints' / '8.broken' / 'params').is_dir()


def test_none_can_be_read_and_nothing_is_moved(workdir: Path) -> None:
    for step in (4, 8):
        (workdir / 'checkpoints' / str(step) / 'about' / 'metadata').write_text('')
    with pytest.raises(UserError, match='None of the checkpoints') as error:
        resume(workdir)
    assert 'step 4: about' in str(error.value) and 'step 8: about' in str(error.value)
    assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['4', '8']


def test_check_passes_through(workdir: Path) -> None:
    def refuse(about: dict) -> None:
        raise UserError(f'another vocabulary than {about["vocabulary"]}')

    checkpoints = Checkpoints(workdir)
    with pytest.raises(UserError, match='another vocabulary than v'):
        checkpoints.resume(refuse, print, **trees(0))
    assert checkpoints.steps == [4, 8]
    checkpoints.close()


@pytest.mark.parametrize('sealed', [True, False])
def test_another_model_is_not_damage(workdir: Path, sealed: bool) -> None:
    if not sealed:
        shutil.rmtree(workdir / 'checkpoints' / '8' / 'seal')
    others = [trees(0), trees(0), trees(0)]
    others[0]['params']['kernel'] = jnp.zeros((64, 95))
    others[1]['params']['more'] = jnp.zeros(3)
    del others[2]['params']['zeros']
    for other in others:
        with pytest.raises(UserError, match='of another model: 1 arrays differ'):
            resume(workdir, **other)
    assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['4', '8']


def test_checkpoints_of_before_there_were_seals(workdir: Path) -> None:
    shutil.rmtree(workdir / 'checkpoints' / '8' / 'seal')
    found, said = resume(workdir)
    assert found[0] == 8 and equal(found[2], trees(8)) and not said


def test_reading_a_damaged_step_says_what_else_there_is(workdir: Path) -> None:
    (workdir / 'checkpoints' / '8' / 'params' / 'manifest.ocdbt').write_bytes(b'')
    (workdir / 'checkpoints' / '8' / 'about' / 'metadata').write_bytes(b'')
    checkpoints = Checkpoints(workdir)
    for read in (
        lambda: checkpoints.restore(8, params=trees(0)['params']),
        lambda: checkpoints.read(8, 'params', 'statistics'),
        lambda: checkpoints.about(8),
    ):
        with pytest.raises(UserError, match=r'step 8 .* cannot be read.*other steps, \[4\]'):
            read()
    assert set(checkpoints.read(4, 'params', 'statistics')) == {'params'}
    checkpoints.close()


def test_what_was_left_half_written_is_removed(workdir: Path) -> None:
    left = workdir / 'checkpoints' / '12.orbax-checkpoint-tmp'
    shutil.copytree(workdir / 'checkpoints' / '8', left)
    looking = Checkpoints(workdir)
    assert looking.steps == [4, 8]
    looking.close()
    assert left.exists()  # it may be another process's that is being written
    assert resume(workdir)[0][0] == 8
    assert not left.exists()


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_other_devices_and_back(workdir: Path, devices: int) -> None:
    def check(like: dict[str, Any]) -> dict[str, Any]:
        (_, _, found), said = resume(workdir, **like)
        assert not said and equal(found, trees(8))
        want = jax.tree.map(lambda array: array.sharding, like)
        assert jax.tree.map(lambda array: array.sharding, found) == want
        return found

    there = check(trees(0, devices))
    checkpoints = Checkpoints(workdir)
    checkpoints.save(9, there, {'positions': {'pairs': 9}})
    checkpoints.close()
    check(trees(0, 8))


def test_checksum_depends_on_every_word_and_its_place() -> None:
    rng = np.random.default_rng(0)
    for dtype in (np.float32, jnp.bfloat16, np.int32, np.int8, bool):
        array = rng.integers(0, 2, size=(8, 6)).astype(dtype)
        first, *_ = jax.tree.leaves(checksums.checksums({'a': {'b': jnp.asarray(array)}}))
        other = array.copy()
        other[3, 4] = not other[3, 4]
        swapped = array[::-1]
        sums = [checksums.checksums({'a': {'b': jnp.asarray(x)}})['a']['b']['sum']
                for x in (array, other, swapped)]  # fmt: skip
        assert len(set(sums)) == 3


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MB."""
    folder = tmp_path / 'small'
    folder.mkdir()
    command = ['mount', '-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f'a small file system cannot be mounted: {error}')
    yield folder
    subprocess.run(['umount', str(folder)], check=True)


def test_full_disk(small_disk: Path) -> None:
    def state(step: int) -> dict[str, Any]:
        noise = np.random.default_rng(step).normal(size=(600, 1000)).astype(np.float32)
        return {'params': {'noise': jnp.asarray(noise)}}

    checkpoints = Checkpoints(small_disk, keep=5)
    with pytest.raises(UserError, match='disk .* is full') as error:
        for step in range(1, 9):
            checkpoints.save(step, state(step), {'step': step})
        checkpoints.close()
    good = max(int(p.name) for p in (small_disk / 'checkpoints').iterdir() if p.name.isdigit())
    assert 2 <= good <= 4
    assert f'checkpoint of step {good + 1} could not be written' in str(error.value)
    assert f'goes on from step {good}' in str(error.value)
    shutil.rmtree(small_disk / 'checkpoints' / '1')
    found, said = resume(small_disk, **state(0))
    assert found[0] == good and equal(found[2], state(good)) and not said
    assert not list((small_disk / 'checkpoints').glob('*tmp*'))


TWO = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
number, address, workdir = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
jax.distributed.initialize(address, 2, number)
from mural_jax import seals
from mural_jax.checkpoints import Checkpoints
mesh = jax.make_mesh((2,), ('fsdp',), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec('fsdp'))

def state(step):
    data = np.arange(64, dtype=np.float32).reshape(8, 8) + step
    return {'params': {'a': jax.make_array_from_callback((8, 8), split, lambda i: data[i])}}

checkpoints = Checkpoints(workdir)
for step in (4, 8):
    checkpoints.save(step, state(step), {'step': step})
checkpoints.close()

class OnlyHere(Checkpoints):
    def _load(self, step, like):
        if step == 8 and number == 1:
            raise seals.Damaged('its disk failed')
        return super()._load(step, like)

checkpoints = OnlyHere(workdir)
step, about, trees = checkpoints.resume(lambda about: None, lambda text: print('said', text),
                                        **state(0))
shard = trees['params']['a'].addressable_data(0)
print('found', step, about['step'], np.array_equal(shard, np.arange(64).reshape(8, 8)[
    4 * number:4 * number + 4] + 4), checkpoints.steps)
checkpoints.close()
"""


def test_processes_decide_alike(tmp_path: Path, free_port: int) -> None:
    """One of two cannot read its part: both go back."""
    environment = os.environ | {'XLA_FLAGS': '', 'PYTHONWARNINGS': 'ignore'}
    started = [
        subprocess.Popen(
            [sys.executable, '-c', TWO, str(number), f'localhost:{free_port}', str(tmp_path)],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(2)
    ]  # fmt: skip
    for process in started:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert 'found 4 4 True [4]' in out
        assert 'said the checkpoint of step 8 cannot be read (process 1: its disk failed)' in out
    assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['4', '8.broken']


@pytest.fixture
def free_port() -> int:
    import socket

    with socket.socket() as listening:
        listening.bind(('localhost', 0))
        return listening.getsockname()[1]


def test_seal_is_json_beside_the_arrays(saved: Path) -> None:
    seal = json.loads((saved / 'checkpoints' / '8' / 'seal' / 'metadata').read_text())
    assert (
        seal['arrays']['params']['kernel'].items()
        >= {'shape': [64, 96], 'dtype': 'float32'}.items()
    )
    assert set(seal['arrays']['progress']) == {'step', 'optimizer/0/mu'}
