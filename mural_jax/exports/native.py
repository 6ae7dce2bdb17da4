"""The project's own folder: safetensors, a vocabulary, a description. `mural_jax.load` reads it."""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import Subject
from mural_jax.inference import model as exported
from mural_jax.types import UserError

FLOATS = {'float32': np.float32, 'bfloat16': jnp.bfloat16, 'float16': np.float16}
DTYPES = (*FLOATS, 'int8')
TABLE = 'token_VD'  # of words, a vector each
USE = """\
    pip install mural-jax

    import mural_jax

    model = mural_jax.load('{folder}')
    image_ND = model.encode_image(['cat.png', 'dog.jpg'])
    text_ND = model.encode_text(['a cat', 'ein Hund', 'paka'])
    print(text_ND @ image_ND.T)"""


def write(subject: Subject, folder: Path, dtype: str) -> None:
    # The library writes memory as it lies there, whatever the strides say.
    arrays = {name: np.asarray(array, order='C') for name, array in stored(subject, dtype).items()}
    path = folder / exported.WEIGHTS
    safetensors.numpy.save_file(arrays, path, metadata={'format': 'np'})
    path.chmod(0o644)  # Others may read it, as the rest of the folder.
    describe(subject, folder)


def stored(subject: Subject, dtype: str) -> dict[str, np.ndarray]:
    """Parameters and statistics by name, as `exported.full` takes them.

    Raises UserError where a dtype is too small for them.
    """
    leaves = exported.flat({'params': subject.params, 'statistics': subject.statistics})
    if dtype == 'int8':
        return _eight_bits({name: np.asarray(leaf, np.float32) for name, leaf in leaves.items()})
    with np.errstate(over='ignore'):
        arrays = {name: np.asarray(leaf).astype(FLOATS[dtype]) for name, leaf in leaves.items()}
    for name, array in arrays.items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f'{name} has numbers that are too large for {dtype}: use bfloat16.')
    return arrays


def _eight_bits(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Kernels and the table of words in 8 bits, with a scale for each output or word, by qwix."""
    try:
        import qwix
    except ImportError as error:
        raise UserError(
            "--dtype=int8 needs the package qwix: pip install 'mural-jax[int8]'."
        ) from error
    found = dict(arrays)
    for name, array in arrays.items():
        last = name.rpartition('/')[2]
        if last == TABLE:
            own = [0]
        elif last == 'kernel':  # Blocks lie above each other; each keeps its own scales.
            own = [0, array.ndim - 1] if '/blocks/' in name else [array.ndim - 1]
        else:
            continue
        rounded = qwix.quantize(array, jnp.int8, channelwise_axes=own)
        found[name] = np.asarray(rounded.qvalue)
        found[exported.SCALES + name] = np.asarray(rounded.scale)
    return found


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
