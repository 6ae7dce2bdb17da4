"""`mural report` of runs, and of scores without a run."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from conftest import mural


def test_missing_scores_name_file_and_command(workdir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    (copy / 'eval/12.json').unlink()
    done = mural('report', f'--workdirs={workdir},{copy}', f'--out={tmp_path}/page.html')
    assert done.returncode == 2
    assert 'There are no scores' in done.stderr and 'mural evaluate' in done.stderr
    assert not (tmp_path / 'page.html').exists()


@pytest.fixture(scope='module')
def page_without_index(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of a run without an index beside scores of embeddings in files."""
    folder = tmp_path_factory.mktemp('report')
    copy = shutil.copytree(workdir, folder / 'copy')
    shutil.rmtree(copy / 'index/12')
    arrays = [folder / f'{side}.npy' for side in ('images', 'texts')]
    for path in arrays:
        np.save(path, np.eye(12, dtype=np.float32))
    files = f'--images={arrays[0]}', f'--texts={arrays[1]}'
    done = mural('evaluate', *files, '--language=sw', f'--out={folder}/others')
    assert done.returncode == 0, done.stderr
    out = folder / 'page.html'
    done = mural('report', '--workdirs', copy, folder / 'others', f'--out={out}')
    assert done.returncode == 0, done.stderr
    return out.read_text(encoding='utf-8')


def test_page_without_index_says_what_is_missing(page_without_index: str) -> None:
    assert 'no run here has a search index' in page_without_index
    assert 'There is no map' in page_without_index


def test_embeddings_of_files_stand_beside_run(page_without_index: str) -> None:
    assert 'embeddings from files' in page_without_index
    assert 'image_text_held_out' in page_without_index


def run_report(*words: object) -> subprocess.CompletedProcess:
    done = mural('report', *words)
    assert done.returncode == 0, done.stderr
    return done


def test_run_and_its_copy_do_not_differ(workdir: Path, tmp_path: Path) -> None:
    """The folder of the copy has a comma in its name, and no metrics of training."""
    copy = shutil.copytree(workdir, tmp_path / 'a,copy')
    (copy / 'metrics.jsonl').unlink()
    out = tmp_path / 'page.html'
    run_report('--workdirs', workdir, copy, f'--out={out}', '--step=12')
    page = out.read_text(encoding='utf-8')
    assert 'Of 32 languages 0 are better and 0 worse' in page
    assert 'image_text_held_out' in page and 'a,copy' in page
