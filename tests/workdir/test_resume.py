"""Resuming from the newest undamaged checkpoint."""

import gc
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from workdir.saved_runs import are_equal, make_trees, resume_run, save_steps

from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Checkpoints

# When one array cannot be read, orbax leaves the reading of the others unfinished.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')


@pytest.fixture(autouse=True)
def _collect_garbage() -> Iterator[None]:
    """What orbax leaves behind is collected here, not in another test."""
    yield
    gc.collect()


@pytest.fixture(scope='module')
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workdir with checkpoints of steps 4 and 8; tests change only copies of it."""
    workdir = tmp_path_factory.mktemp('saved')
    save_steps(workdir, 4, 8)
    return workdir


@pytest.fixture
def workdir(saved: Path, tmp_path: Path) -> Path:
    """A copy of `saved`."""
    shutil.copytree(saved, tmp_path / 'copy')
    return tmp_path / 'copy'


def cut_in_half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flip_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 4]) + data[middle + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    'half': cut_in_half,
    'empty': lambda data: b'',
    'zeros': lambda data: bytes(len(data)),
    'gone': lambda data: None,
    'bit': flip_bit,
}


def damage_file(path: Path, how: str) -> None:
    data = DAMAGES[how](path.read_bytes())
    path.unlink()
    if data is not None:
        path.write_bytes(data)


def test_resume_takes_the_newest_checkpoint(workdir: Path) -> None:
    found, said = resume_run(workdir)
    assert found[:2] == (8, {'vocabulary': 'v', 'positions': {'pairs': 8}})
    assert are_equal(found[2], make_trees(8))
    assert not said


def test_resume_waits_for_a_running_save(tmp_path: Path) -> None:
    """A run that goes back resumes right after it started a save."""
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2):
        checkpoints.save(step, make_trees(step), {'step': step})
        found = checkpoints.resume(lambda about: None, print, **make_trees(0))
        assert found is not None and found[0] == step and are_equal(found[2], make_trees(step))
    checkpoints.close()


def test_resume_without_checkpoints_returns_none(tmp_path: Path) -> None:
    assert resume_run(tmp_path) == (None, [])


@pytest.mark.parametrize('how', DAMAGES)
def test_damage_never_passes_silently(saved: Path, tmp_path: Path, how: str) -> None:
    """Each file of a checkpoint in turn: what comes back is what was saved, of step 8 or 4."""
    files = sorted(path for path in (saved / 'checkpoints' / '8').rglob('*') if path.is_file())
    went_back = []
    for number, path in enumerate(files):
        workdir = tmp_path / str(number)
        shutil.copytree(saved, workdir)
        damage_file(workdir / path.relative_to(saved), how)
        (step, about, found), said = resume_run(workdir)
        assert are_equal(found, make_trees(step))
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
def test_half_deleted_checkpoint_is_passed_over(workdir: Path, item: str) -> None:
    shutil.rmtree(workdir / 'checkpoints' / '8' / item)
    (step, _, found), said = resume_run(workdir)
    assert step == 4 and are_equal(found, make_trees(4))
    assert len(said) == 1 and item in said[0]


def test_flipped_bit_is_noticed_and_the_step_can_be_saved_again(workdir: Path) -> None:
    data = (workdir / 'checkpoints/8/params').glob('ocdbt.process_*/d/*')
    damage_file(max(data, key=lambda path: path.stat().st_size), 'bit')
    _, said = resume_run(workdir)
    assert 'checksum' in said[0]
    save_steps(workdir, 8)
    found, said = resume_run(workdir)
    assert found[0] == 8 and not said


def test_step_that_breaks_twice_replaces_its_broken_copy(workdir: Path) -> None:
    (workdir / 'checkpoints' / '8.broken').mkdir()
    (workdir / 'checkpoints' / '8' / 'about' / 'metadata').write_text('{')
    assert resume_run(workdir)[0][0] == 4
    assert (workdir / 'checkpoints' / '8.broken' / 'params').is_dir()


def test_nothing_is_moved_if_every_checkpoint_is_damaged(workdir: Path) -> None:
    for step in (4, 8):
        (workdir / 'checkpoints' / str(step) / 'about' / 'metadata').write_text('')
    with pytest.raises(UserError, match='None of the checkpoints') as error:
        resume_run(workdir)
    assert 'step 4: about' in str(error.value) and 'step 8: about' in str(error.value)
    assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['4', '8']


def test_error_of_the_check_passes_through(workdir: Path) -> None:
    def refuse(about: dict) -> None:
        raise UserError(f'another vocabulary than {about["vocabulary"]}')

    checkpoints = Checkpoints(workdir)
    with pytest.raises(UserError, match='another vocabulary than v'):
        checkpoints.resume(refuse, print, **make_trees(0))
    assert checkpoints.steps == [4, 8]
    checkpoints.close()


@pytest.mark.parametrize('sealed', [True, False])
def test_checkpoint_of_another_model_is_not_damage(workdir: Path, sealed: bool) -> None:
    if not sealed:
        shutil.rmtree(workdir / 'checkpoints' / '8' / 'seal')
    others = [make_trees(0), make_trees(0), make_trees(0)]
    others[0]['params']['kernel'] = jnp.zeros((64, 95))
    others[1]['params']['more'] = jnp.zeros(3)
    del others[2]['params']['zeros']
    for other in others:
        with pytest.raises(UserError, match='of another model: 1 arrays differ'):
            resume_run(workdir, **other)
    assert sorted(p.name for p in (workdir / 'checkpoints').iterdir()) == ['4', '8']


def test_checkpoint_without_a_seal_is_resumed(workdir: Path) -> None:
    shutil.rmtree(workdir / 'checkpoints' / '8' / 'seal')
    found, said = resume_run(workdir)
    assert found[0] == 8 and are_equal(found[2], make_trees(8)) and not said


def test_unfinished_checkpoint_is_removed_on_resume(workdir: Path) -> None:
    left = workdir / 'checkpoints' / '12.orbax-checkpoint-tmp'
    shutil.copytree(workdir / 'checkpoints' / '8', left)
    reader = Checkpoints(workdir)
    assert reader.steps == [4, 8]
    reader.close()
    assert left.exists()  # It may belong to another process that is writing it.
    assert resume_run(workdir)[0][0] == 8
    assert not left.exists()


@pytest.mark.parametrize('devices', [1, 2, 4])
def test_resume_moves_to_other_devices_and_back(workdir: Path, devices: int) -> None:
    def resume_on(like: dict[str, Any]) -> dict[str, Any]:
        (_, _, found), said = resume_run(workdir, **like)
        assert not said and are_equal(found, make_trees(8))
        want = jax.tree.map(lambda array: array.sharding, like)
        assert jax.tree.map(lambda array: array.sharding, found) == want
        return found

    there = resume_on(make_trees(0, devices))
    checkpoints = Checkpoints(workdir)
    checkpoints.save(9, there, {'positions': {'pairs': 9}})
    checkpoints.close()
    resume_on(make_trees(0, 8))


TWO_PROCESSES = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
number, address, workdir = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
jax.distributed.initialize(address, 2, number)
from mural_jax.workdir import checkpoints as module
from mural_jax.workdir.damage import DamagedCheckpoint
mesh = jax.make_mesh((2,), ('fsdp',), axis_types=(AxisType.Auto,))
split = NamedSharding(mesh, PartitionSpec('fsdp'))

def state(step):
    data = np.arange(64, dtype=np.float32).reshape(8, 8) + step
    return {'params': {'a': jax.make_array_from_callback((8, 8), split, lambda i: data[i])}}

checkpoints = module.Checkpoints(workdir)
for step in (4, 8):
    checkpoints.save(step, state(step), {'step': step})
checkpoints.close()

read_arrays = module.read_arrays

def fail_on_one_process(folder, like):
    if folder.name == '8' and number == 1:
        raise DamagedCheckpoint('its disk failed')
    return read_arrays(folder, like)

module.read_arrays = fail_on_one_process
checkpoints = module.Checkpoints(workdir)
step, about, trees = checkpoints.resume(lambda about: None, lambda text: print('said', text),
                                        **state(0))
shard = trees['params']['a'].addressable_data(0)
print('found', step, about['step'], np.array_equal(shard, np.arange(64).reshape(8, 8)[
    4 * number:4 * number + 4] + 4), checkpoints.steps)
checkpoints.close()
"""


def test_all_processes_take_the_same_checkpoint(tmp_path: Path, free_port: int) -> None:
    """One of two cannot read its part, and both go back."""
    environment = os.environ | {'XLA_FLAGS': '', 'PYTHONWARNINGS': 'ignore'}
    address = f'localhost:{free_port}'
    started = [
        subprocess.Popen(
            [sys.executable, '-c', TWO_PROCESSES, str(number), address, str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    for process in started:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        assert 'found 4 4 True [4]' in out
        assert 'said the checkpoint of step 8 cannot be read (process 1: its disk failed)' in out
    assert sorted(p.name for p in (tmp_path / 'checkpoints').iterdir()) == ['4', '8.broken']


@pytest.fixture
def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(('localhost', 0))
        return listening.getsockname()[1]
