"""`mural_jax.load` and the model that it returns."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from exports.trained_runs import model_folder  # noqa: F401, a fixture

import mural_jax
from mural_jax.inference.description import DESCRIPTION
from mural_jax.inference.encode import split_patches
from mural_jax.inference.model import Model
from mural_jax.runs.restore import Restored, restore
from mural_jax.search.store import ImageIndex
from mural_jax.types import UserError

TEXTS = ['cat', 'paka', 'кошка', 'a text that is longer than any that the model takes at all']


@pytest.fixture(scope='module')
def model(model_folder: Path) -> Model:  # noqa: F811
    return mural_jax.load(model_folder)


@pytest.fixture(scope='module')
def restored(workdir: Path) -> Restored:
    """The checkpoint that was exported."""
    return restore(workdir)


def test_texts_encode_as_in_the_trainer(model: Model, restored: Restored) -> None:
    expected_ND = restored.embedder.embed_texts('image_text', TEXTS)
    np.testing.assert_allclose(model.encode_text(TEXTS), expected_ND, atol=1e-6)


def test_vectors_have_unit_length(model: Model) -> None:
    np.testing.assert_allclose(np.linalg.norm(model.encode_text(TEXTS), axis=1), 1, atol=1e-6)


def test_single_text_encodes_as_in_a_batch(model: Model) -> None:
    text_ND = model.encode_text(TEXTS)
    np.testing.assert_allclose(model.encode_text('paka'), text_ND[1:2], atol=1e-6)


def test_other_space_has_vectors_of_its_own(model: Model, restored: Restored) -> None:
    text_ND = model.encode_text(TEXTS, 'text_text')
    expected_ND = restored.embedder.embed_texts('text_text', TEXTS)
    np.testing.assert_allclose(text_ND, expected_ND, atol=1e-6)
    assert not np.allclose(text_ND, model.encode_text(TEXTS), atol=1e-2)


def test_images_encode_as_in_the_trainer(model: Model, workdir: Path) -> None:
    index = ImageIndex(workdir / 'index' / '12')
    images = [index.read_image(number) for number in range(3)]
    np.testing.assert_allclose(model.encode_image(images), index.image_ND[:3], atol=1e-6)


def test_no_images_encode_to_no_rows(model: Model) -> None:
    width = model.encode_text('paka').shape[1]
    assert model.encode_image([]).shape == (0, width)


def test_space_of_images_and_texts_is_the_default(model: Model) -> None:
    assert model.spaces == ['image_text', 'text_text']


def test_space_without_the_tower_is_refused_with_one_that_has_it(model: Model) -> None:
    with pytest.raises(UserError, match='image_text'):
        model.encode_image([], 'text_text')


def test_anything_but_strings_is_no_text(model: Model) -> None:
    with pytest.raises(UserError, match='no text'):
        model.encode_text([3])  # type: ignore[list-item]


def test_unreadable_image_is_refused_with_its_number(model: Model) -> None:
    with pytest.raises(UserError, match='Image 0'):
        model.encode_image(b'nothing')


def test_model_loads_neither_tensorflow_nor_the_trainer(model_folder: Path) -> None:  # noqa: F811
    code = (
        f'import mural_jax, sys; mural_jax.load({str(model_folder)!r}).encode_text("paka"); '
        "print([name for name in ('tensorflow', 'orbax', 'mural_jax.training', "
        "'mural_jax.runs.run') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def break_folder(folder: Path, damage: str) -> None:
    """Damages an exported folder in one of the ways of the test below."""
    description = json.loads((folder / DESCRIPTION).read_text())
    if damage == 'no description':
        (folder / DESCRIPTION).unlink()
    elif damage == 'other layout':
        (folder / DESCRIPTION).write_text(json.dumps(description | {'layout': 99}))
    elif damage == 'no JSON':
        (folder / DESCRIPTION).write_text('{')
    elif damage == 'other sizes':
        description['spaces']['image_text']['embedding'] = 16
        (folder / DESCRIPTION).write_text(json.dumps(description))
    else:
        (folder / 'vocabulary').write_bytes(b'nothing')


@pytest.mark.parametrize(
    'damage', ['no description', 'other layout', 'no JSON', 'other sizes', 'broken vocabulary']
)
def test_damaged_folder_is_refused_by_name(damage: str, model_folder: Path, tmp_path: Path) -> None:  # noqa: F811
    copy = shutil.copytree(model_folder, tmp_path / 'copy')
    break_folder(copy, damage)
    with pytest.raises(UserError, match=str(copy)):
        mural_jax.load(copy)


@pytest.mark.parametrize(('most', 'geometry'), [(9, 5), (7, 6)])
def test_patches_are_those_of_the_streams(most: int, geometry: int) -> None:
    import tensorflow as tf

    from mural_jax.data.fields.crops import cut_regions
    from mural_jax.data.fields.region_settings import RegionSettings

    image_BHWC = np.random.default_rng(0).integers(0, 255, (3, 48, 48, 3), dtype=np.uint8)
    settings = RegionSettings(by='patches', most=most, side=16, geometry=geometry)
    expected_BRF = cut_regions(settings, tf.constant(image_BHWC), {}).numpy()
    np.testing.assert_allclose(split_patches(image_BHWC, settings), expected_BRF, atol=1e-5)
