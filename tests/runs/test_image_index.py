"""The index that `mural evaluate` writes for a checkpoint."""

import io
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from mural_jax.runs.image_index import index_path, load_run_index
from mural_jax.runs.restore import Restored, restore
from mural_jax.search.store import ImageIndex
from mural_jax.types import UserError


@pytest.fixture(scope='module')
def restored(workdir: Path) -> Restored:
    return restore(workdir)


@pytest.fixture(scope='module')
def index(workdir: Path, restored: Restored) -> ImageIndex:
    return load_run_index(workdir, restored)


def test_index_holds_what_evaluation_embedded(index: ImageIndex, restored: Restored) -> None:
    assert index.space == 'image_text'
    assert len(index.fingerprints) == 1
    assert set(index.splits) <= {'train', 'validation', 'test'}
    assert all(row.names for row in index.rows)
    np.testing.assert_allclose(np.linalg.norm(index.image_ND, axis=1), 1, atol=1e-5)


def test_index_stores_original_images(index: ImageIndex) -> None:
    for number in (0, len(index.rows) - 1):
        assert Image.open(io.BytesIO(index.read_image(number))).format == 'PNG'


def test_missing_index_is_named(workdir: Path, restored: Restored, tmp_path: Path) -> None:
    with pytest.raises(UserError, match='Run|run it for this step'):
        load_run_index(tmp_path, restored)


def test_index_of_another_checkpoint_is_refused(
    workdir: Path, restored: Restored, tmp_path: Path
) -> None:
    """As after training again in the same folder: the step is the same, the model is not."""
    shutil.copytree(index_path(workdir, restored.step), index_path(tmp_path, restored.step))
    assert load_run_index(tmp_path, restored).rows
    graphdef, params, statistics = restored.embedder.model
    trained_on = jax.tree.map(lambda array: array + 1, params)
    embedder = type(restored.embedder)(
        graphdef, trained_on, statistics, restored.embedder.tokenize, mesh=restored.embedder.mesh
    )
    with pytest.raises(UserError, match='embedded by another model'):
        load_run_index(tmp_path, restored._replace(embedder=embedder))
