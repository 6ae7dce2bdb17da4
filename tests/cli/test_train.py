"""mural train, each call a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from conftest import UNOPTIMISED, mural

from mural_jax.workdir import metrics

ONE_DEVICE = f'--xla_force_host_platform_device_count=1 {UNOPTIMISED}'


def test_metrics_have_losses_speed_and_drawn_examples(workdir: Path) -> None:
    line = metrics.read(workdir)[-1]
    for name in (
        'image_text/loss',
        'image_text/accuracy',
        'text_text/temperature',
        'loss',
        'bad/captions',
        'pairs_per_second',
        'data_wait_share',
        'examples/translations/emoji/yo',
    ):
        assert name in line
    assert sum(v for k, v in line.items() if k.startswith('examples/captions/')) == 12 * 16


def test_tensorboard_files_are_written(workdir: Path) -> None:
    assert list((workdir / 'tensorboard').glob('events*'))


def test_finished_run_does_not_train_again(workdir: Path, data_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    before = (copy / 'metrics.jsonl').read_bytes()
    done = mural('train', '--config=emoji:tiny', f'--workdir={copy}', f'--data_dir={data_dir}')
    assert done.returncode == 0, done.stderr
    assert (copy / 'metrics.jsonl').read_bytes() == before


def test_unwritable_workdir_is_refused(data_dir: Path) -> None:
    done = mural(
        'train', '--config=emoji:tiny', '--workdir=/proc/nowhere', f'--data_dir={data_dir}'
    )
    assert done.returncode == 2
    assert 'Cannot write in /proc/nowhere' in done.stderr and '--workdir' in done.stderr


def test_killed_run_ends_with_the_same_bits(workdir: Path, data_dir: Path, tmp_path: Path) -> None:
    """SIGKILL at two random moments, then to the end: the same bits as never killed."""
    killed = tmp_path / 'killed'
    command = [
        *(sys.executable, '-m', 'mural_jax', 'train', '--config=emoji:tiny'),
        *(f'--workdir={killed}', f'--data_dir={data_dir}'),
    ]
    environment = os.environ | {'XLA_FLAGS': ONE_DEVICE}
    rng = np.random.default_rng()
    for _ in range(2):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        wait_until_training(killed, process)
        time.sleep(rng.uniform(0, 2.5))
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    assert read_arrays(killed) == read_arrays(workdir)
    assert read_metrics(killed) == read_metrics(workdir)


def wait_until_training(workdir: Path, process: subprocess.Popen) -> None:
    """Waits for a new line of metrics or the end: a kill during the start would test little."""
    path = workdir / 'metrics.jsonl'
    size = path.stat().st_size if path.exists() else 0
    while process.poll() is None and (not path.exists() or path.stat().st_size <= size):
        time.sleep(0.05)


def read_arrays(workdir: Path) -> dict[str, str]:
    """The bytes of all arrays of the last checkpoint, in hexadecimal, by path.

    Another process reads them: orbax must see the one device that they were saved from.
    """
    code = (
        'import sys, numpy as np, jax, orbax.checkpoint as ocp\n'
        'with ocp.CheckpointManager(sys.argv[1]) as m:\n'
        '    tree = m.restore(12, args=ocp.args.Composite(params=ocp.args.StandardRestore(),\n'
        '        progress=ocp.args.StandardRestore()))\n'
        'for path, leaf in jax.tree_util.tree_leaves_with_path(dict(tree)):\n'
        '    print(jax.tree_util.keystr(path), np.asarray(leaf).tobytes().hex())'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str((workdir / 'checkpoints').resolve())],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {'XLA_FLAGS': ONE_DEVICE},
    )
    leaves = dict(line.split() for line in done.stdout.splitlines())
    assert len(leaves) > 20
    return leaves


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The metrics of all steps, without those that measure time."""
    return [
        {name: value for name, value in line.items() if name not in metrics.TIMINGS}
        for line in metrics.read(workdir)
    ]
