"""Wrong input to verbs of a run: exit code 2, a message without traceback, nothing changes."""

import shutil
from pathlib import Path

import pytest
from conftest import mural


def read_tree(folder: Path) -> dict[str, bytes]:
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
def test_wrong_input_is_named_and_changes_nothing(
    words: str, message: str, workdir: Path, data_dir: Path, tmp_path: Path
) -> None:
    before = read_tree(workdir)
    parts = words.replace('EMPTY', str(tmp_path)).split()
    if parts[0] in ('train', 'evaluate') and 'data_dir' not in words:
        parts.append(f'--data_dir={data_dir}')
    done = mural(*parts, f'--workdir={workdir}')
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert 'Traceback' not in done.stderr
    assert read_tree(workdir) == before


def test_missing_workdir_is_not_created(tmp_path: Path) -> None:
    done = mural('search', f'--workdir={tmp_path / "none"}', '--query=x')
    assert done.returncode == 2
    assert 'not a workdir' in done.stderr
    assert not (tmp_path / 'none').exists()


@pytest.fixture(scope='module')
def foreign(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the run whose vocabulary is that of another run."""
    from mural_jax.data.tokenizer import Vocabulary, train_vocabulary

    copy = shutil.copytree(workdir, tmp_path_factory.mktemp('foreign') / 'copy')
    texts = [f'word{i} other{i % 7}' for i in range(500)]
    train_vocabulary(texts, Vocabulary(vocab_size=300)).save(copy / 'vocabulary.model')
    return copy


@pytest.mark.parametrize('verb', ['train', 'evaluate', 'search', 'report'])
def test_vocabulary_of_another_run_is_refused(verb: str, foreign: Path, data_dir: Path) -> None:
    flags = {
        'train': ['--config=emoji:tiny', f'--data_dir={data_dir}'],
        'evaluate': [f'--data_dir={data_dir}'],
        'search': ['--query=x'],
        'report': [],
    }
    before = read_tree(foreign)
    done = mural(verb, *flags[verb], f'--workdir={foreign}')
    assert done.returncode == 2
    assert 'vocabulary' in done.stderr
    assert read_tree(foreign) == before
