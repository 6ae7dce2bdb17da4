"""mural prepare where a source or the data folder is wrong."""

from pathlib import Path

from conftest import mural


def test_unwritable_data_folder_is_refused() -> None:
    done = mural('prepare', '--config=emoji:tiny', '--data_dir=/proc/nowhere')
    assert done.returncode == 2
    assert 'Cannot write in /proc/nowhere' in done.stderr and '--data_dir' in done.stderr


def test_missing_source_names_its_package(tmp_path: Path) -> None:
    done = mural(
        *('prepare', '--config=emoji:tiny', f'--data_dir={tmp_path}'),
        *('--source', f'font={tmp_path}/none.ttf'),
    )
    assert done.returncode == 2
    assert 'fonts-noto-color-emoji' in done.stderr


def test_unknown_source_is_answered_with_known_ones(tmp_path: Path) -> None:
    done = mural('prepare', '--config=emoji:tiny', f'--data_dir={tmp_path}', '--source', 'fnt=x')
    assert done.returncode == 2
    assert 'font' in done.stderr
