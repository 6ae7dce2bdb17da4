"""The project's own folder: safetensors, a vocabulary, a description. `mural_jax.load` reads it."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from mural_jax import exported
from mural_jax.exports.check import Encoder
from mural_jax.exports.subject import Subject
from mural_jax.types import UserError

DTYPES = {'float32': np.float32, 'bfloat16': jnp.bfloat16, 'float16': np.float16}
USE = """\
    pip install mural-jax

    import mural_jax

    model = mural_jax.load('{folder}')
    image_ND = model.encode_image(['cat.png', 'dog.jpg'])
    text_ND = model.encode_text(['a cat', 'ein Hund', 'paka'])
    print(text_ND @ image_ND.T)"""


def write(subject: Subject, folder: Path, dtype: str) -> None:
    arrays = exported.flat(stored(subject, dtype))
    # The library writes memory as it lies there, whatever the strides say.
    arrays = {name: np.asarray(array, order='C') for name, array in arrays.items()}
    path = folder / exported.WEIGHTS
    safetensors.numpy.save_file(arrays, path, metadata={'format': 'np'})
    path.chmod(0o644)  # Others may read it, as the rest of the folder.
    describe(subject, folder)


def stored(subject: Subject, dtype: str) -> dict[str, Any]:
    """Parameters and statistics as NumPy arrays. Raises UserError where a dtype is too small."""
    tree = {'params': subject.params, 'statistics': subject.statistics}
    with np.errstate(over='ignore'):
        tree = jax.tree.map(lambda x: np.asarray(x).astype(DTYPES[dtype]), tree)
    for name, array in exported.flat(tree).items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f'{name} has numbers that are too large for {dtype}: use bfloat16.')
    return tree


def describe(subject: Subject, folder: Path) -> None:
    """Adds the vocabulary and the description, which all formats have."""
    (folder / exported.VOCABULARY).write_bytes(subject.vocabulary)
    (folder / exported.ABOUT).write_text(subject.about.text(), encoding='utf-8')


def read(subject: Subject, folder: Path) -> dict[str, Encoder]:
    model, space = exported.load(folder), subject.space
    return {
        'image': lambda pictures: model.encode_image(pictures, space),
        'text': lambda texts: model.encode_text(texts, space),
    }


def use(subject: Subject, folder: str) -> str:
    return USE.format(folder=folder)
