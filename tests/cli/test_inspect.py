"""What `mural inspect` tells of checkpoints, on one CPU, whatever they were saved on."""

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

from mural_jax.cli.inspect import describe, inspect, leaves
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Best, Checkpoints


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
    with_best = Checkpoints(folder, keep=2, best=Best('recall', 'max'))
    for step, recall in [(4, 0.75), (8, 0.25), (12, 0.5)]:
        about = {'positions': {'pairs': 1000 * step}, 'bad': {'pairs': 7}}
        with_best.save(step, trees, about, {'recall': recall})
    with_best.close()
    (folder / 'checkpoints' / '8' / 'params' / 'manifest.ocdbt').write_bytes(b'')
    return folder


def printed(workdir: Path, step: int | None, full: bool) -> str:
    """As a process with one device prints it."""
    code = (
        'import sys\nfrom pathlib import Path\nfrom mural_jax.cli.inspect import inspect\n'
        'step = int(sys.argv[2]) if sys.argv[2] else None\n'
        'inspect(Path(sys.argv[1]), step, bool(sys.argv[3]))'
    )
    done = subprocess.run(
        [sys.executable, '-W', 'error', '-c', code, str(workdir), str(step or ''), '1' * full],
        capture_output=True,
        text=True,
        env=os.environ | {'XLA_FLAGS': '', 'COLUMNS': '160'},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def row(text: str, first: str) -> list[str]:
    found = [
        [cell.strip() for cell in line.strip()[1:-1].split('│')]
        for line in text.splitlines()
        if '│' in line
    ]
    return next(cells for cells in found if cells[0] == first)


def test_on_one_device(workdir: Path) -> None:
    before = sorted(workdir.rglob('*'))
    text = printed(workdir, None, full=False)
    assert sorted(workdir.rglob('*')) == before
    assert row(text, '4')[3:] == ['0.75', 'best']
    assert row(text, '8')[3:] == ['0.25', '']
    assert row(text, '12')[3:] == ['0.5', 'newest']
    assert row(text, 'params/towers/image/blocks/…')[1:] == ['3', '', 'float32', '288', '0.001']
    half = row(text, 'params/towers/image/half')
    assert half[1:] == ['1', '[8, 2]', 'bfloat16', '16', '0.000']
    assert row(text, 'progress/optimizer/0/mu/…')[1:3] == ['4', '']
    assert row(text, 'params')[1:3] == ['5', '305']
    assert row(text, 'statistics')[1:3] == ['1', '8']
    assert row(text, 'optimizer')[1:3] == ['5', '305']
    assert row(text, 'other')[1:3] == ['1', '1']
    assert row(text, 'all')[1:3] == ['12', '619']
    assert row(text, 'pairs')[1:] == ['12,000', '7']
    assert '"kind": "dual"' in text


def test_full_list_of_an_older_step(workdir: Path) -> None:
    text = printed(workdir, 4, full=True)
    kernel = row(text, 'params/towers/image/blocks/attention/kernel')
    assert kernel[1:] == ['1', '[24, 10]', 'float32', '240', '0.001']
    assert row(text, 'pairs')[1] == '4,000'
    assert '…' not in text


def test_bytes_are_those_of_the_arrays(workdir: Path) -> None:
    found = {leaf.path: leaf for leaf in leaves(workdir / 'checkpoints' / '12')}
    kernel = found['params/towers/image/blocks/attention/kernel']
    assert (kernel.shape, kernel.dtype, kernel.size) == ((24, 10), 'float32', 240)
    assert kernel.megabytes == pytest.approx(960e-6)
    assert found['params/towers/image/half'].megabytes == pytest.approx(32e-6)


def test_broken_ones_are_named(workdir: Path) -> None:
    aside = workdir / 'checkpoints' / '2.broken'
    aside.mkdir()
    assert any('2.broken could not be read' in str(part) for part in describe(workdir, None))
    aside.rmdir()


@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_wrong_input(workdir: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='not a workdir of a run'):
        inspect(tmp_path, None, False)
    assert not list(tmp_path.iterdir())
    (tmp_path / 'config.json').write_text('{}')
    with pytest.raises(UserError, match='no checkpoint in'):
        inspect(tmp_path, None, False)
    with pytest.raises(UserError, match=r'step 5; there are \[4, 8, 12\]'):
        inspect(workdir, 5, False)
    with pytest.raises(UserError, match='step 8 .* cannot be read'):
        inspect(workdir, 8, False)
