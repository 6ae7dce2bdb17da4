"""mural report: the page of one run, and how --workdirs names several."""

import re
from pathlib import Path

import pytest
from conftest import mural

from mural_jax.cli.report import split_folders
from mural_jax.types import UserError


@pytest.fixture(scope='module')
def page(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of the run of `emoji:tiny`."""
    out = tmp_path_factory.mktemp('report') / 'report.html'
    done = mural('report', f'--workdir={workdir}', f'--out={out}')
    assert done.returncode == 0, done.stderr
    return out.read_text(encoding='utf-8')


def test_page_needs_no_other_file(page: str) -> None:
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)


def test_page_shows_queries_and_failures(page: str) -> None:
    queries, failures = 12 + 12, 2 * 4
    assert page.count('class="row"') == queries + failures


def test_page_shows_curves_and_map(page: str) -> None:
    curves_of_tasks, speed, language_map = 2 * 3, 1, 1
    assert page.count('<figure>') == curves_of_tasks + speed + language_map


def test_page_has_means_of_groups(page: str) -> None:
    assert 'translation only (mean of 20)' in page


def test_page_of_one_run_goes_into_its_workdir(workdir: Path) -> None:
    done = mural('report', f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    assert (workdir / 'report.html').exists()


def test_folders_are_split_at_commas() -> None:
    assert split_folders(['a,b', 'c']) == [Path('a'), Path('b'), Path('c')]


def test_folder_with_comma_in_its_name_is_one(tmp_path: Path) -> None:
    folder = tmp_path / 'a,b'
    folder.mkdir()
    assert split_folders([str(folder)]) == [folder]


def test_no_folder_is_refused() -> None:
    with pytest.raises(UserError, match='names no folder'):
        split_folders([','])
