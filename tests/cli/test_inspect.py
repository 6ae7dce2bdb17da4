"""mural inspect, on one CPU, of checkpoints that eight devices saved."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mural_jax.cli.inspect import describe_workdir, read_leaves
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Checkpoints
from mural_jax.workdir.retention import BestCheckpoints


@pytest.fixture(scope='module')
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Steps 4, 8, 12 of a model split over 8 devices; step 4 is best and 8 is broken."""
    folder = tmp_path_factory.mktemp('run')
    (folder / 'config.json').write_text(json.dumps({'model': {'kind': 'dual'}, 'seed': 3}))
    mesh = jax.make_mesh((8,), ('fsdp',), axis_types=(AxisType.Auto,))
    split = NamedSharding(mesh, PartitionSpec('fsdp'))

    def array(*shape: int, dtype: Any = np.float32) -> jax.Array:
        return jax.device_put(jnp.ones(shape, dtype), split)

    blocks = {'attention': {'kernel': array(24, 10), 'bias': array(24)}, 'norm': array(24)}
    params = {
        'towers': {'image': {'blocks': blocks, 'half': array(8, 2, dtype=jnp.bfloat16)}},
        'log_temperature': jnp.float32(0),
    }
    optimizer = ({'mu': params['towers']}, {'count': jnp.int32(1)})
    trees = {
        'params': params,
        'statistics': {'norm': {'mean': array(8)}},
        'progress': {'step': jnp.int32(0), 'optimizer': optimizer},
    }
    checkpoints = Checkpoints(folder, keep=2, best=BestCheckpoints('recall', 'max'))
    for step, recall in [(4, 0.75), (8, 0.25), (12, 0.5)]:
        about = {'positions': {'pairs': 1000 * step}, 'bad': {'pairs': 7}}
        checkpoints.save(step, trees, about, {'recall': recall})
    checkpoints.close()
    (folder / 'checkpoints' / '8' / 'params' / 'manifest.ocdbt').write_bytes(b'')
    return folder


def print_inspection(*words: object) -> str:
    """What a process with one device prints."""
    code = 'import sys\nfrom mural_jax.cli.parser import main\nsys.exit(main(sys.argv[1:]))'
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-c', code, 'inspect', *map(str, words)],
        capture_output=True,
        text=True,
        env=os.environ | {'XLA_FLAGS': '', 'COLUMNS': '160'},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope='module')
def newest(workdir: Path) -> str:
    """The inspection of the newest step, which writes nothing."""
    before = sorted(workdir.rglob('*'))
    text = print_inspection(workdir)
    assert sorted(workdir.rglob('*')) == before
    return text


@pytest.fixture(scope='module')
def oldest(workdir: Path) -> str:
    """All arrays of the oldest step."""
    return print_inspection(workdir, '--step=4', '--full')


def find_row(text: str, first: str) -> list[str]:
    """The cells of the table row whose first cell is `first`."""
    rows = [
        [cell.strip() for cell in line.strip()[1:-1].split('│')]
        for line in text.splitlines()
        if '│' in line
    ]
    return next(cells for cells in rows if cells[0] == first)


def test_steps_have_their_metric_and_notes(newest: str) -> None:
    assert find_row(newest, '4')[3:] == ['0.75', 'best']
    assert find_row(newest, '8')[3:] == ['0.25', '']
    assert find_row(newest, '12')[3:] == ['0.5', 'newest']


def test_arrays_are_grouped(newest: str) -> None:
    group = find_row(newest, 'params/towers/image/blocks/…')
    assert group[1:] == ['3', '', 'float32', '288', '0.001']
    assert find_row(newest, 'progress/optimizer/0/mu/…')[1:3] == ['4', '']


def test_group_of_one_array_shows_its_shape(newest: str) -> None:
    half = find_row(newest, 'params/towers/image/half')
    assert half[1:] == ['1', '[8, 2]', 'bfloat16', '16', '0.000']


@pytest.mark.parametrize(
    ('part', 'arrays', 'values'),
    [
        ('params', '5', '305'),
        ('statistics', '1', '8'),
        ('optimizer', '5', '305'),
        ('other', '1', '1'),
        ('all', '12', '619'),
    ],
)
def test_totals_count_arrays_and_values(part: str, arrays: str, values: str, newest: str) -> None:
    assert find_row(newest, part)[1:3] == [arrays, values]


def test_streams_have_position_and_bad_records(newest: str) -> None:
    assert find_row(newest, 'pairs')[1:] == ['12,000', '7']


def test_config_is_printed(newest: str) -> None:
    assert '"kind": "dual"' in newest


def test_full_list_has_every_array(oldest: str) -> None:
    kernel = find_row(oldest, 'params/towers/image/blocks/attention/kernel')
    assert kernel[1:] == ['1', '[24, 10]', 'float32', '240', '0.001']
    assert '…' not in oldest


def test_older_step_has_its_own_positions(oldest: str) -> None:
    assert find_row(oldest, 'pairs')[1] == '4,000'


def test_leaves_have_shape_and_bytes(workdir: Path) -> None:
    leaves = {leaf.path: leaf for leaf in read_leaves(workdir / 'checkpoints' / '12')}
    kernel = leaves['params/towers/image/blocks/attention/kernel']
    assert (kernel.shape, kernel.dtype, kernel.size) == ((24, 10), 'float32', 240)
    assert kernel.megabytes == pytest.approx(960e-6)
    assert leaves['params/towers/image/half'].megabytes == pytest.approx(32e-6)


def test_broken_checkpoints_are_named(workdir: Path) -> None:
    aside = workdir / 'checkpoints' / '2.broken'
    aside.mkdir()
    parts = [str(part) for part in describe_workdir(workdir, None)]
    aside.rmdir()
    assert any('2.broken could not be read' in part for part in parts)


def test_folder_that_is_no_workdir_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='not a workdir of a run'):
        list(describe_workdir(tmp_path, None))
    assert not list(tmp_path.iterdir())


def test_workdir_without_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(UserError, match='no checkpoint in'):
        list(describe_workdir(tmp_path, None))


def test_missing_step_is_answered_with_those_there_are(workdir: Path) -> None:
    with pytest.raises(UserError, match=r'step 5; there are \[4, 8, 12\]'):
        list(describe_workdir(workdir, 5))


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_unreadable_step_is_named(workdir: Path) -> None:
    with pytest.raises(UserError, match='step 8 .* cannot be read'):
        list(describe_workdir(workdir, 8))
