"""The index of a run's evaluated images, at one checkpoint."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mural_jax.evaluation.evaluators.base import EmbeddedGallery
from mural_jax.runs.restore import Restored
from mural_jax.search.fingerprints import fingerprint_arrays, require_model
from mural_jax.search.store import ImageIndex, ImageRow, IndexDescription, write_index
from mural_jax.types import UserError


def index_path(workdir: Path, step: int) -> Path:
    """The folder of the index that `mural evaluate` writes for a checkpoint."""
    return workdir / 'index' / str(step)


def write_run_index(
    workdir: Path, restored: Restored, galleries: Sequence[EmbeddedGallery]
) -> None:
    """Writes one index of the galleries in the space of the first one, each split once."""
    space = galleries[0].space
    splits = {(one.dataset, one.split): one for one in galleries if one.space == space}
    image_ND = np.concatenate([gallery.image_ND for gallery in splits.values()])
    description = IndexDescription(
        space=space,
        dim=image_ND.shape[1],
        model=str(workdir.resolve()),
        images=', '.join(f'{dataset}:{split}' for dataset, split in splits),
        # The originals: exports are checked on them, and the report shows them.
        thumbnail=None,
    )
    fingerprint = _fingerprint(restored)
    rows = [
        ImageRow(id_, fingerprint, names=names, split=gallery.split)
        for gallery in splits.values()
        for id_, names in zip(gallery.examples.ids, gallery.examples.first_texts, strict=True)
    ]
    images = [image for gallery in splits.values() for image in gallery.examples.pngs]
    write_index(index_path(workdir, restored.step), description, rows, image_ND, images)


def load_run_index(workdir: Path, restored: Restored) -> ImageIndex:
    """The index of a restored checkpoint.

    Raises UserError if there is none, or another model embedded it.
    """
    path = index_path(workdir, restored.step)
    if not path.exists():
        raise UserError(
            f'There is no index {path}. `mural evaluate` makes it: run it for this step.'
        )
    index = ImageIndex(path)
    require_model(
        index.fingerprints, _fingerprint(restored), path, f'the checkpoint of step {restored.step}'
    )
    return index


def _fingerprint(restored: Restored) -> str:
    _, params, statistics = restored.embedder.model
    return fingerprint_arrays(params, statistics, restored.tokenizer.hash)
