"""mural search in the evaluated images of a run."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import mural
from PIL import Image


@pytest.fixture(scope='module')
def found(
    workdir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[subprocess.CompletedProcess, Path]:
    """(a search, its contact sheet)."""
    out = tmp_path_factory.mktemp('search') / 'found.png'
    done = mural('search', f'--workdir={workdir}', '--query=ologbo', '--k=3', f'--out={out}')
    assert done.returncode == 0, done.stderr
    return done, out


def test_search_prints_ranks_and_scores(found: tuple[subprocess.CompletedProcess, Path]) -> None:
    assert len(re.findall(r'^ +\d  +-?\d\.\d{3}', found[0].stdout, re.MULTILINE)) == 3


def test_contact_sheet_shows_all_hits(found: tuple[subprocess.CompletedProcess, Path]) -> None:
    with Image.open(found[1]) as image:
        assert image.width > 3 * 128


def test_search_does_not_load_tensorflow(workdir: Path, tmp_path: Path) -> None:
    code = (
        'import sys; from mural_jax.cli.parser import main; '
        f'code = main(["search", "--workdir={workdir}", "--query=x", "--out={tmp_path}/x.png"]); '
        'sys.exit(code or "tensorflow" in sys.modules)'
    )
    assert subprocess.run([sys.executable, '-c', code], capture_output=True).returncode == 0
