"""`mural export`: each format in its own runtime, checked, and written whole or not at all."""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import mural
from exports.trained_runs import assert_same_files, clip, model_folder  # noqa: F401, fixtures
from safetensors.numpy import load_file, save_file

import mural_jax
from mural_jax.config.build import lists_to_tuples
from mural_jax.config.load import load_config
from mural_jax.exports import native
from mural_jax.exports.catalog import FORMATS
from mural_jax.exports.trained import describe_model
from mural_jax.inference.arrays import dequantize
from mural_jax.inference.description import WEIGHTS
from mural_jax.runs.run import Run
from mural_jax.types import UserError

NEEDED_PACKAGES = {'onnx': 'jax2onnx', 'savedmodel': 'tensorflow_text'}
CARD_PARTS = ('## Use', '## Intended use', '## Data', '## Scores', '## Checked', '"en"')


def export(workdir: Path, out: Path, kind: str, *more: str) -> subprocess.CompletedProcess:
    return mural('export', f'--workdir={workdir}', f'--format={kind}', f'--out={out}', *more)


def require_packages(kind: str, dtype: str = 'float32') -> None:
    """Skips the test if a package of the format or dtype is not installed."""
    for package in (NEEDED_PACKAGES.get(kind), 'qwix' if dtype == 'int8' else None):
        if package and find_spec(package) is None:
            pytest.skip(f'{package} is not installed; docs/export.md says how')


def assert_agrees_with_trainer(done: subprocess.CompletedProcess) -> None:
    """Fails unless the command printed cosines above 0.9999 for both towers."""
    lines = [line for line in done.stdout.splitlines() if 'cosine' in line]
    assert [line.split(':')[0] for line in lines] == ['image', 'text']
    assert all(float(line.split('at least ')[1].split(',')[0]) > 0.9999 for line in lines)


@pytest.mark.parametrize('kind', ['onnx', 'savedmodel'])
def test_export_of_clip_agrees_with_the_trainer(kind: str, clip: Path, tmp_path: Path) -> None:  # noqa: F811
    require_packages(kind)
    done = export(clip, tmp_path / 'out', kind)
    assert done.returncode == 0, done.stderr
    assert_agrees_with_trainer(done)


@pytest.mark.parametrize('kind', ['safetensors', 'stablehlo', 'onnx', 'savedmodel'])
def test_export_is_checked_described_and_repeatable(
    kind: str, workdir: Path, tmp_path: Path
) -> None:
    """One test, because exporting takes long: its checks share two exports of a format."""
    require_packages(kind)
    out, again = tmp_path / 'out', tmp_path / 'again' / 'out'
    done = export(workdir, out, kind)
    assert done.returncode == 0, done.stderr
    assert_agrees_with_trainer(done)
    card = (out / 'README.md').read_text(encoding='utf-8')
    assert [part for part in CARD_PARTS if part not in card] == []
    # No part of the work is left beside the folder.
    assert [path.name for path in tmp_path.iterdir()] == ['out']
    assert export(workdir, again, kind).returncode == 0
    assert_same_files(out, again)


@pytest.mark.parametrize(
    ('kind', 'dtype'),
    [
        ('safetensors', 'bfloat16'),
        ('stablehlo', 'float16'),
        ('stablehlo', 'int8'),
        ('onnx', 'int8'),
    ],
)
def test_smaller_dtype_is_exported_and_on_the_card(
    kind: str, dtype: str, workdir: Path, tmp_path: Path
) -> None:
    require_packages(kind, dtype)
    done = export(workdir, tmp_path / 'out', kind, f'--dtype={dtype}')
    assert done.returncode == 0, done.stderr
    assert dtype in (tmp_path / 'out' / 'README.md').read_text(encoding='utf-8')


class Int8:
    """Weights exported in int8, and the float32 weights that they stand for."""

    def __init__(self, folder: Path, exact: Path):
        self.folder = folder
        self.stored, self.exact = load_file(folder / WEIGHTS), load_file(exact / WEIGHTS)
        self.rounded = {name for name, array in self.stored.items() if array.dtype == np.int8}


@pytest.fixture(scope='module')
def int8(workdir: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Int8:  # noqa: F811
    require_packages('safetensors', 'int8')
    out = tmp_path_factory.mktemp('int8') / 'out'
    done = export(workdir, out, 'safetensors', '--dtype=int8')
    assert done.returncode == 0, done.stderr
    return Int8(out, model_folder)


def test_int8_is_on_the_card(int8: Int8) -> None:
    assert 'int8' in (int8.folder / 'README.md').read_text(encoding='utf-8')


def test_int8_rounds_kernels_and_the_table_of_tokens(int8: Int8) -> None:
    assert {name.rsplit('/')[-1] for name in int8.rounded} == {'kernel', 'token_VD'}


def test_int8_is_exact_to_half_a_step(int8: Int8) -> None:
    arrays = dequantize(int8.stored)
    assert set(arrays) == set(int8.exact)
    for name, exact in int8.exact.items():
        step = int8.stored[f'scales/{name}'] if name in int8.rounded else 0.0
        assert (np.abs(arrays[name] - exact) <= step / 2 + 1e-7).all(), name


def test_int8_has_a_scale_for_each_token(int8: Int8) -> None:
    table = 'params/towers/text/token_VD'
    assert int8.stored[f'scales/{table}'].shape == (len(int8.exact[table]), 1)


def test_scales_without_an_array_are_refused(int8: Int8, tmp_path: Path) -> None:
    copy = shutil.copytree(int8.folder, tmp_path / 'copy')
    scales = int8.stored['scales/params/towers/text/token_VD']
    save_file({**int8.stored, 'scales/nothing': scales}, copy / WEIGHTS)
    with pytest.raises(UserError, match='nothing'):
        mural_jax.load(copy)


@pytest.fixture(scope='module')
def text_tower(
    workdir: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess]:
    """An export of the text tower alone, and the finished command."""
    out = tmp_path_factory.mktemp('text') / 'out'
    done = export(workdir, out, 'safetensors', '--tower=text')
    assert done.returncode == 0, done.stderr
    return out, done


def test_single_tower_is_checked_alone(
    text_tower: tuple[Path, subprocess.CompletedProcess],
) -> None:
    assert 'image:' not in text_tower[1].stdout


def test_single_tower_encodes_as_the_whole_model(
    text_tower: tuple[Path, subprocess.CompletedProcess],
    model_folder: Path,  # noqa: F811
) -> None:
    whole_ND = mural_jax.load(model_folder).encode_text(['paka'])
    text_ND = mural_jax.load(text_tower[0]).encode_text(['paka'])
    np.testing.assert_allclose(text_ND, whole_ND, atol=1e-6)


def test_single_tower_is_smaller_than_the_whole_model(
    text_tower: tuple[Path, subprocess.CompletedProcess],
    model_folder: Path,  # noqa: F811
) -> None:
    assert (text_tower[0] / WEIGHTS).stat().st_size < (model_folder / WEIGHTS).stat().st_size


def test_missing_tower_is_named(text_tower: tuple[Path, subprocess.CompletedProcess]) -> None:
    with pytest.raises(UserError, match="no tower 'image'"):
        mural_jax.load(text_tower[0]).encode_image([])


def test_export_that_disagrees_is_removed(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from mural_jax.cli.parser import main

    convert_arrays = native.convert_arrays

    def reverse_head(source, dtype):
        arrays = convert_arrays(source, dtype)
        head = 'params/spaces/image_text/heads/text/kernel'
        return arrays | {head: arrays[head][:, ::-1]}

    monkeypatch.setattr(native, 'convert_arrays', reverse_head)
    words = [f'--workdir={workdir}', '--format=safetensors', f'--out={tmp_path / "out"}']
    assert main(['export', *words]) == 1
    printed = capsys.readouterr().out
    assert 'removed' in printed and 'the tower text' in printed
    assert not [*tmp_path.iterdir()]


def test_folder_that_is_not_empty_is_left_alone(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / 'mine').touch()
    done = export(workdir, tmp_path, 'safetensors')
    assert done.returncode == 2 and 'is there already' in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ['mine']


def test_dtype_that_a_format_lacks_is_refused(workdir: Path, tmp_path: Path) -> None:
    done = export(workdir, tmp_path / 'out', 'transformers', '--dtype=int8')
    assert done.returncode == 2 and 'has no int8' in done.stderr
    assert not (tmp_path / 'out').exists()


def test_run_without_an_index_is_refused(workdir: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    shutil.rmtree(copy / 'index' / '12')
    done = export(copy, tmp_path / 'out', 'safetensors')
    assert done.returncode == 2 and 'mural evaluate' in done.stderr
    assert not (tmp_path / 'out').exists()


def test_missing_run_is_refused(tmp_path: Path) -> None:
    done = export(tmp_path / 'nowhere', tmp_path / 'out', 'safetensors')
    assert done.returncode == 2 and 'nowhere' in done.stderr
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('config', 'message'),
    [('unicoder_vl:tiny', 'an image alone has none'), ('unicoder_vl:photos', 'No task')],
)
def test_model_that_needs_more_than_an_image_is_refused(config: str, message: str) -> None:
    run = Run.of(lists_to_tuples(load_config(config, [])))
    with pytest.raises(UserError, match=message):
        describe_model(run, 100, None)


def test_command_line_offers_every_format_and_dtype() -> None:
    done = mural('export', '--help')
    for name, export_format in FORMATS.items():
        assert name in done.stdout
        assert all(dtype in done.stdout for dtype in export_format.dtypes)
