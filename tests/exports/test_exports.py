"""Exports from the command line: each format in its own runtime, checked, whole or not there."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import mural
from exports.trained_runs import assert_same, clip  # noqa: F401, a fixture
from safetensors.numpy import load_file, save_file

import mural_jax
from mural_jax.cli import export as export_commands
from mural_jax.config.build import plain
from mural_jax.config.load import load_config
from mural_jax.exports import native
from mural_jax.exports.catalog import FORMATS
from mural_jax.exports.trained import about
from mural_jax.inference.model import ABOUT, WEIGHTS, Model, full
from mural_jax.runs.restore import restore
from mural_jax.runs.run import Run
from mural_jax.search.run_index import Index
from mural_jax.types import UserError

NEEDS = {'onnx': 'jax2onnx', 'savedmodel': 'tensorflow_text'}


def export(workdir: Path, out: Path, kind: str, *more: str) -> subprocess.CompletedProcess:
    return mural('export', f'--workdir={workdir}', f'--format={kind}', f'--out={out}', *more)


@pytest.fixture(scope='module')
def folder(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp('exported') / 'model'
    done = export(workdir, out, 'safetensors')
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize('kind', ['safetensors', 'stablehlo', 'onnx', 'savedmodel'])
@pytest.mark.parametrize('which', ['workdir', 'clip'])
def test_it_proves_itself(
    kind: str, which: str, workdir: Path, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    if kind in NEEDS and find_spec(NEEDS[kind]) is None:
        pytest.skip(f'{NEEDS[kind]} is not installed; docs/export.md says how')
    out = tmp_path / 'out'
    done = export(request.getfixturevalue(which), out, kind)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if 'cosine' in line]
    assert [line.split(':')[0] for line in lines] == ['image', 'text']
    assert all(float(line.split('at least ')[1].split(',')[0]) > 0.9999 for line in lines)
    card = (out / 'README.md').read_text(encoding='utf-8')
    for words in ('## Use', '## Intended use', '## Data', '## Scores', '## Checked', '"en"'):
        assert words in card
    assert [path.name for path in tmp_path.iterdir()] == ['out']
    if which == 'workdir':
        again = tmp_path / 'again' / 'out'
        assert export(workdir, again, kind).returncode == 0
        assert_same(out, again)


@pytest.mark.parametrize(
    ('kind', 'dtype'),
    [
        ('safetensors', 'bfloat16'), ('safetensors', 'int8'), ('stablehlo', 'float16'),
        ('stablehlo', 'int8'), ('onnx', 'int8'),
    ],
)  # fmt: skip
def test_smaller_ones(kind: str, dtype: str, workdir: Path, tmp_path: Path) -> None:
    for needed in NEEDS.get(kind, ''), 'qwix' if dtype == 'int8' else '':
        if needed and find_spec(needed) is None:
            pytest.skip(f'{needed} is not installed; docs/export.md says how')
    done = export(workdir, tmp_path / 'out', kind, f'--dtype={dtype}')
    assert done.returncode == 0, done.stderr
    assert dtype in (tmp_path / 'out' / 'README.md').read_text(encoding='utf-8')


def test_eight_bits_are_within_half_a_step(workdir: Path, folder: Path, tmp_path: Path) -> None:
    pytest.importorskip('qwix', reason="pip install 'mural-jax[int8]'")
    assert export(workdir, tmp_path / 'out', 'safetensors', '--dtype=int8').returncode == 0
    stored, wanted = load_file(tmp_path / 'out' / WEIGHTS), load_file(folder / WEIGHTS)
    found = full(stored)
    assert set(found) == set(wanted)
    rounded = {name for name, array in stored.items() if array.dtype == np.int8}
    assert {name.rsplit('/')[-1] for name in rounded} == {'kernel', 'token_VD'}
    for name, array in wanted.items():
        # Each output of each block, and each word, has a scale of its own.
        step = stored[f'scales/{name}'] if name in rounded else 0.0
        assert (np.abs(found[name] - array) <= step / 2 + 1e-7).all(), name
    table = stored['scales/params/towers/text/token_VD']
    assert table.shape == (len(wanted['params/towers/text/token_VD']), 1)
    save_file({**stored, 'scales/nothing': table}, tmp_path / 'out' / WEIGHTS)
    with pytest.raises(UserError, match='nothing'):
        mural_jax.load(tmp_path / 'out')


def test_it_encodes_as_the_trainer_does(workdir: Path, folder: Path) -> None:
    model, found = mural_jax.load(folder), restore(workdir)
    texts = ['cat', 'paka', 'кошка', 'a text that is longer than any that the model takes at all']
    text_ND = model.encode_text(texts)
    wanted_ND = found.embedder.texts('image_text', texts)
    np.testing.assert_allclose(text_ND, wanted_ND, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(text_ND, axis=1), 1, atol=1e-6)
    # Whatever stands beside it, and one alone.
    np.testing.assert_allclose(model.encode_text('paka'), text_ND[1:2], atol=1e-6)
    other_ND = found.embedder.texts('text_text', texts)
    np.testing.assert_allclose(model.encode_text(texts, 'text_text'), other_ND, atol=1e-6)
    assert not np.allclose(other_ND, wanted_ND, atol=1e-2)
    index = Index.load(workdir / 'index' / '12.npz')
    np.testing.assert_allclose(model.encode_image(index.pngs[:3]), index.image_ND[:3], atol=1e-6)
    assert model.encode_image([]).shape == (0, text_ND.shape[1])


def test_it_says_what_it_cannot_encode(folder: Path) -> None:
    model: Model = mural_jax.load(folder)
    assert model.spaces == ['image_text', 'text_text']
    with pytest.raises(UserError, match='image_text'):
        model.encode_image([], 'text_text')
    with pytest.raises(UserError, match='no text'):
        model.encode_text([3])  # type: ignore[list-item]
    with pytest.raises(UserError, match='Picture 0'):
        model.encode_image(b'nothing')


def test_it_needs_neither_tensorflow_nor_the_trainer(folder: Path) -> None:
    code = (
        f'import mural_jax, sys; mural_jax.load({str(folder)!r}).encode_text("paka"); print([name '
        "for name in ('tensorflow', 'orbax', 'mural_jax.training', 'mural_jax.runs.run') "
        'if name in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def test_one_tower_alone(workdir: Path, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / 'text'
    done = export(workdir, out, 'safetensors', '--tower=text')
    assert done.returncode == 0, done.stderr
    assert 'image:' not in done.stdout
    model = mural_jax.load(out)
    whole_ND = mural_jax.load(folder).encode_text(['paka'])
    np.testing.assert_allclose(model.encode_text(['paka']), whole_ND, atol=1e-6)
    assert (out / WEIGHTS).stat().st_size < (folder / WEIGHTS).stat().st_size
    with pytest.raises(UserError, match="no tower 'image'"):
        model.encode_image([])


def test_what_does_not_agree_is_removed(
    workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    whole = native.stored

    def other(subject, dtype):
        arrays = whole(subject, dtype)
        head = 'params/heads/image_text/text/kernel'
        return arrays | {head: arrays[head][:, ::-1]}

    monkeypatch.setattr(native, 'stored', other)
    code = export_commands.export(workdir, None, 'safetensors', tmp_path / 'out', 'float32', None)
    assert code == 1
    said = capsys.readouterr().out
    assert 'removed' in said and 'the tower text' in said
    assert not [*tmp_path.iterdir()]


def test_what_cannot_be_exported(workdir: Path, tmp_path: Path) -> None:
    (tmp_path / 'there').mkdir()
    (tmp_path / 'there' / 'mine').touch()
    done = export(workdir, tmp_path / 'there', 'safetensors')
    assert done.returncode == 2 and 'is there already' in done.stderr
    assert [path.name for path in (tmp_path / 'there').iterdir()] == ['mine']
    done = export(workdir, tmp_path / 'out', 'transformers', '--dtype=int8')
    assert done.returncode == 2 and 'has no int8' in done.stderr
    copy = shutil.copytree(workdir, tmp_path / 'copy')
    (copy / 'index' / '12.npz').unlink()
    done = export(copy, tmp_path / 'out', 'safetensors')
    assert done.returncode == 2 and 'mural evaluate' in done.stderr
    done = export(tmp_path / 'nowhere', tmp_path / 'out', 'safetensors')
    assert done.returncode == 2 and 'nowhere' in done.stderr
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    ('config', 'said'),
    [('unicoder_vl:tiny', 'a picture alone does not have'), ('unicoder_vl:photos', 'No task')],
)
def test_models_that_do_not_stand_alone(config: str, said: str) -> None:
    run = Run.of(plain(load_config(config, [])))
    with pytest.raises(UserError, match=said):
        about(run, 100, None)


@pytest.mark.parametrize('change', ['gone', 'layout', 'no json', 'weights', 'vocabulary'])
def test_folders_that_are_not_whole(change: str, folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / 'copy')
    about = json.loads((copy / ABOUT).read_text())
    if change == 'gone':
        (copy / ABOUT).unlink()
    elif change == 'layout':
        (copy / ABOUT).write_text(json.dumps(about | {'layout': 99}))
    elif change == 'no json':
        (copy / ABOUT).write_text('{')
    elif change == 'weights':
        about['model']['embedding'] = 16
        (copy / ABOUT).write_text(json.dumps(about))
    else:
        (copy / 'vocabulary').write_bytes(b'nothing')
    with pytest.raises(UserError, match=str(copy)):
        mural_jax.load(copy)


def test_patches_are_those_of_the_streams() -> None:
    import tensorflow as tf

    from mural_jax.data.fields.crops import regions
    from mural_jax.data.fields.region_settings import Regions
    from mural_jax.inference.model import patches

    image_BHWC = np.random.default_rng(0).integers(0, 255, (3, 48, 48, 3), dtype=np.uint8)
    for settings in (
        Regions(by='patches', most=9, side=16), Regions(by='patches', most=7, side=16, geometry=6)
    ):  # fmt: skip
        wanted_BRF = regions(settings, tf.constant(image_BHWC), {}).numpy()
        np.testing.assert_allclose(patches(image_BHWC, settings), wanted_BRF, atol=1e-5)


def test_the_table_is_that_of_the_command_line() -> None:
    done = mural('export', '--help')
    for name, one in FORMATS.items():
        assert name in done.stdout
        assert all(dtype in done.stdout for dtype in one.dtypes)
