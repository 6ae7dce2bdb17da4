"""Readers of published files: formats, folders, and refusal of pickles."""

import json
import pickle
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.flax
from safetensors.numpy import save_file

from mural_jax.pretrained.files import read_arrays
from mural_jax.types import UserError

RNG = np.random.default_rng(0)
ARRAYS = {
    'a': RNG.normal(size=(2, 3)).astype(np.float32),
    'b': RNG.normal(size=4).astype(np.float32),
}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """A folder with two arrays in a file each."""
    for name, array in ARRAYS.items():
        save_file({name: array}, tmp_path / f'model-{name}.safetensors')
    return tmp_path


def test_index_joins_shards(shards: Path) -> None:
    index = {'weight_map': {name: f'model-{name}.safetensors' for name in ARRAYS}}
    (shards / 'model.safetensors.index.json').write_text(json.dumps(index))
    arrays = read_arrays(shards)
    assert arrays.keys() == ARRAYS.keys()
    np.testing.assert_array_equal(arrays['b'], ARRAYS['b'])


def test_folder_of_several_models_is_refused(shards: Path) -> None:
    with pytest.raises(UserError, match='several models'):
        read_arrays(shards)


def test_folder_without_weights_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='no weights'):
        read_arrays(tmp_path)


@pytest.mark.parametrize('name', ['none.npz', 'a.txt'])
def test_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='is no file'):
        read_arrays(tmp_path / name)


def test_file_of_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'a.txt').touch()
    with pytest.raises(UserError, match='unknown format'):
        read_arrays(tmp_path / 'a.txt')


def test_broken_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'broken.safetensors').write_bytes(b'0' * 40)
    with pytest.raises(UserError, match='cannot be read'):
        read_arrays(tmp_path / 'broken.safetensors')


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize('suffix', ['.bin', '.pt', '.pth', '.ckpt'])
def test_pickle_is_refused_with_a_way_to_convert_it(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f'pytorch_model{suffix}'
    path.write_bytes(pickle.dumps(Bomb(tmp_path / 'exploded')))
    for source in (path, tmp_path):
        with pytest.raises(UserError, match='weights_only=True'):
            read_arrays(source)
    assert not (tmp_path / 'exploded').exists()


def test_pickled_objects_in_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / 'objects.npz', x=np.array([Bomb(tmp_path / 'exploded')], dtype=object))
    with pytest.raises(UserError, match='cannot be read'):
        read_arrays(tmp_path / 'objects.npz')
    assert not (tmp_path / 'exploded').exists()


@pytest.mark.parametrize('dtype', [ml_dtypes.bfloat16, np.float16])
def test_half_precision_becomes_float32(dtype: type, tmp_path: Path) -> None:
    array = RNG.normal(size=(3, 3)).astype(dtype)
    safetensors.flax.save_file({'a': jax.numpy.asarray(array)}, tmp_path / 'x.safetensors')
    np.savez(tmp_path / 'x.npz', a=array)
    for name in ('x.safetensors', 'x.npz'):
        read_back = read_arrays(tmp_path / name)['a']
        assert read_back.dtype == np.float32
        np.testing.assert_array_equal(read_back, array.astype(np.float32))
