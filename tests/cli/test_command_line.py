"""The command line as a user meets it, each call a process of its own."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import UNOPTIMISED, mural
from PIL import Image

from mural_jax.workdir import metrics

ONE_DEVICE = f'--xla_force_host_platform_device_count=1 {UNOPTIMISED}'
VERBS = (
    'params', 'plan', 'bench', 'prepare', 'doctor', 'train', 'inspect', 'evaluate', 'search',
    'report',
)  # fmt: skip


@pytest.mark.parametrize('words', [[], *[[verb] for verb in VERBS]])
def test_help_is_there(words: list[str]) -> None:
    done = mural(*words, '--help')
    assert done.returncode == 0
    assert 'mural' in done.stdout


def test_help_loads_neither_jax_nor_tensorflow() -> None:
    done = subprocess.run(
        [sys.executable, '-X', 'importtime', '-m', 'mural_jax', '--help'],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    loaded = {line.split('|')[-1].strip().split('.')[0] for line in done.stderr.splitlines()}
    assert not loaded & {'jax', 'jaxlib', 'tensorflow', 'flax', 'orbax', 'numpy'}


def test_scores_are_what_the_readme_says(workdir: Path) -> None:
    scores = json.loads((workdir / 'eval' / '12.json').read_text(encoding='utf-8'))
    results = scores['results']
    assert set(results) == {'image_text_held_out', 'image_text_seen', 'text_text_held_out'}
    held_out = results['image_text_held_out']
    assert set(held_out['be']) == {
        *(f'{way}_r{k}' for way in ('image_to_text', 'text_to_image') for k in (1, 5, 10)),
        *(f'{way}_{kind}_rank' for way in ('image_to_text', 'text_to_image')
          for kind in ('mean', 'median')),
        'mean_recall', 'rsum',
    }  # fmt: skip
    assert len(held_out) == 12 + 20 + 2  # languages and the two means
    means = [held_out[x]['mean_recall'] for x in ('be', 'ga', 'uz', 'tg', 'mt', 'yo', 'zu', 'xh',
             'ha', 'ig', 'so', 'qu', 'sw', 'cy', 'am', 'si', 'ne', 'km', 'hy', 'ka')]  # fmt: skip
    assert held_out['mean_translation_only']['mean_recall'] == pytest.approx(np.mean(means))
    assert 'en' not in results['text_text_held_out']
    assert scores['protocol']['image_text_held_out']['captions_per_image'] == 1


def test_metrics_hold_what_was_promised(workdir: Path) -> None:
    line = metrics.read(workdir)[-1]
    for name in ('image_text/loss', 'image_text/accuracy', 'text_text/temperature', 'loss',
                 'bad/captions', 'pairs_per_second', 'data_wait_share',
                 'examples/translations/emoji/yo'):  # fmt: skip
        assert name in line
    assert sum(v for k, v in line.items() if k.startswith('examples/captions/')) == 12 * 16
    assert list((workdir / 'tensorboard').glob('events*'))


def test_search_finds_and_draws(workdir: Path, tmp_path: Path) -> None:
    out = tmp_path / 'found.png'
    done = mural('search', f'--workdir={workdir}', '--query=ologbo', '--k=3', f'--out={out}')
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r'^ +\d  +-?\d\.\d{3}', done.stdout, re.MULTILINE)) == 3
    with Image.open(out) as picture:
        assert picture.width > 3 * 128


def test_search_does_not_load_tensorflow(workdir: Path, tmp_path: Path) -> None:
    code = (
        'import sys; from mural_jax.__main__ import main; '
        f'code = main(["search", "--workdir={workdir}", "--query=x", "--out={tmp_path}/x.png"]); '
        'sys.exit(code or "tensorflow" in sys.modules)'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 0


def test_the_report_is_one_file(workdir: Path) -> None:
    done = mural('report', f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    page = (workdir / 'report.html').read_text(encoding='utf-8')
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert page.count('class="row"') == 12 + 12 + 2 * 4  # queries, failures
    assert page.count('<figure>') == 2 * 3 + 1 + 1  # curves of two tasks, speed, the map
    assert 'translation only (mean of 20)' in page


def test_a_second_training_has_nothing_to_do(workdir: Path, data_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    before = (copy / 'metrics.jsonl').read_bytes()
    done = mural('train', '--config=emoji:tiny', f'--workdir={copy}', f'--data_dir={data_dir}')
    assert done.returncode == 0, done.stderr
    assert (copy / 'metrics.jsonl').read_bytes() == before


def test_killed_at_any_moment_it_ends_the_same(
    workdir: Path, data_dir: Path, tmp_path: Path
) -> None:
    """SIGKILL at two random moments, then to the end: the same bits as never killed."""
    killed = tmp_path / 'killed'
    command = [sys.executable, '-m', 'mural_jax', 'train', '--config=emoji:tiny',
               f'--workdir={killed}', f'--data_dir={data_dir}']  # fmt: skip
    environment = os.environ | {'XLA_FLAGS': ONE_DEVICE}
    rng = np.random.default_rng()
    for _ in range(2):
        started = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        _until_training(killed, started)
        time.sleep(rng.uniform(0, 2.5))
        started.send_signal(signal.SIGKILL)
        started.communicate()
    assert subprocess.run(command, env=environment, capture_output=True).returncode == 0
    assert _parameters(killed) == _parameters(workdir)
    assert _lines(killed) == _lines(workdir)


def _until_training(folder: Path, started: subprocess.Popen) -> None:
    """Waits for a new line of metrics or the end; a kill during start-up would test little."""
    path = folder / 'metrics.jsonl'
    size = path.stat().st_size if path.exists() else 0
    while started.poll() is None and (not path.exists() or path.stat().st_size <= size):
        time.sleep(0.05)


def _parameters(folder: Path) -> dict[str, bytes]:
    code = (
        'import sys, numpy as np, jax, orbax.checkpoint as ocp\n'
        'with ocp.CheckpointManager(sys.argv[1]) as m:\n'
        '    tree = m.restore(12, args=ocp.args.Composite(params=ocp.args.StandardRestore(),\n'
        '        progress=ocp.args.StandardRestore()))\n'
        'for path, leaf in jax.tree_util.tree_leaves_with_path(dict(tree)):\n'
        '    print(jax.tree_util.keystr(path), np.asarray(leaf).tobytes().hex())'
    )
    done = subprocess.run(
        [sys.executable, '-c', code, str((folder / 'checkpoints').resolve())],
        capture_output=True, text=True, check=True,
        env=os.environ | {'XLA_FLAGS': ONE_DEVICE},
    )  # fmt: skip
    leaves = dict(line.split() for line in done.stdout.splitlines())
    assert len(leaves) > 20
    return leaves


def _lines(folder: Path) -> list[dict]:
    return [
        {k: v for k, v in line.items() if k not in metrics.TIMINGS} for line in metrics.read(folder)
    ]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(folder.rglob('*')) if p.is_file()}


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('train --config=emoji:tiny --config.optimiser.kind=lamb', 'optimizer'),
        ('train --config=nowhere.py', 'no config file'),
        ('train --config=emoji:mural', 'belongs to a run of another config'),
        ('train --config=emoji:tiny --data_dir=EMPTY', 'mural prepare'),
        ('evaluate --force --data_dir=EMPTY', 'mural prepare'),
        ('evaluate --step=5', 'no checkpoint of step 5'),
        ('search --query=', 'query is empty'),
        ('search --query=x --step=7', 'no checkpoint of step 7'),
        ('search --query=x --k=0', 'at least 1'),
        ('search --query=x --out=/proc/nowhere/x.png', 'Cannot write'),
        ('report --step=4', 'no checkpoint of step 4'),
    ],
)
def test_bad_input_is_told_and_nothing_changes(
    words: str, message: str, workdir: Path, data_dir: Path, tmp_path: Path
) -> None:
    before = tree(workdir)
    parts = words.replace('EMPTY', str(tmp_path)).split()
    if parts[0] in ('train', 'evaluate') and 'data_dir' not in words:
        parts.append(f'--data_dir={data_dir}')
    done = mural(*parts, f'--workdir={workdir}')
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
    assert tree(workdir) == before


def test_a_workdir_that_cannot_be_written(data_dir: Path) -> None:
    done = mural(
        'train', '--config=emoji:tiny', '--workdir=/proc/nowhere', f'--data_dir={data_dir}'
    )
    assert done.returncode == 2
    assert 'Cannot write in /proc/nowhere' in done.stderr and '--workdir' in done.stderr


def test_a_data_folder_that_cannot_be_written() -> None:
    done = mural('prepare', '--config=emoji:tiny', '--data_dir=/proc/nowhere')
    assert done.returncode == 2
    assert 'Cannot write in /proc/nowhere' in done.stderr and '--data_dir' in done.stderr


def test_no_workdir(tmp_path: Path) -> None:
    done = mural('search', f'--workdir={tmp_path / "none"}', '--query=x')
    assert done.returncode == 2
    assert 'not a workdir' in done.stderr
    assert not (tmp_path / 'none').exists()


def test_the_vocabulary_of_another_run(workdir: Path, data_dir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    texts = [f'word{i} other{i % 7}' for i in range(500)]
    from mural_jax.data.tokenizer import Vocabulary, train

    train(texts, Vocabulary(vocab_size=300)).save(copy / 'vocabulary.model')
    data = f'--data_dir={data_dir}'
    for words in (
        ['train', '--config=emoji:tiny', data], ['evaluate', data], ['search', '--query=x'],
        ['report'],
    ):  # fmt: skip
        before = tree(copy)
        done = mural(*words, f'--workdir={copy}')
        assert done.returncode == 2
        assert 'vocabulary' in done.stderr
        assert tree(copy) == before


def test_a_missing_source_is_named(tmp_path: Path) -> None:
    done = mural('prepare', '--config=emoji:tiny', f'--data_dir={tmp_path}', '--source',
                 f'font={tmp_path}/none.ttf')  # fmt: skip
    assert done.returncode == 2
    assert 'fonts-noto-color-emoji' in done.stderr
    done = mural('prepare', '--config=emoji:tiny', f'--data_dir={tmp_path}', '--source', 'fnt=x')
    assert done.returncode == 2
    assert 'font' in done.stderr


def test_files_of_the_current_folder_hide_no_module(tmp_path: Path) -> None:
    """`mural train` starts itself again, as it was started."""
    script = Path(sys.executable).parent / 'mural'
    if not script.exists():
        pytest.skip('the package is not installed')
    (tmp_path / 'random.py').write_text('raise SystemExit("hidden")')
    environment = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
    command = [script, 'train', '--config=nowhere', '--workdir=run']
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert 'no config file' in done.stderr


def test_a_reader_that_has_enough_is_no_error(workdir: Path, tmp_path: Path) -> None:
    """The reader is gone before the first line: no traceback."""
    words = f'search --workdir={workdir} --query=cat --out={tmp_path / "found.png"}'
    command = f'{sys.executable} -m mural_jax {words} | true'
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    assert 'BrokenPipe' not in done.stderr
