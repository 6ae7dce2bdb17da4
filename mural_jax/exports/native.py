"""The project's own format: safetensors, vocabulary, description. `mural_jax.load` reads it."""

from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import safetensors.numpy

from mural_jax.exports.packages import import_package
from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import TrainedModel
from mural_jax.inference.arrays import SCALES, flatten
from mural_jax.inference.description import DESCRIPTION, VOCABULARY, WEIGHTS
from mural_jax.inference.model import load
from mural_jax.types import UserError

FLOATS = {'float32': np.float32, 'bfloat16': jnp.bfloat16, 'float16': np.float16}
DTYPES = (*FLOATS, 'int8')
TOKEN_TABLE = 'token_VD'  # name of the array with a vector for each token
USAGE = """\
    pip install mural-jax

    import mural_jax

    model = mural_jax.load('{folder}')
    image_ND = model.encode_image(['cat.png', 'dog.jpg'])
    text_ND = model.encode_text(['a cat', 'ein Hund', 'paka'])
    print(text_ND @ image_ND.T)"""


def write_folder(source: TrainedModel, folder: Path, dtype: str) -> None:
    """Writes the weights, the vocabulary and the description."""
    # safetensors writes the memory of an array and ignores its strides, so it must be contiguous.
    arrays = {
        name: np.asarray(array, order='C') for name, array in convert_arrays(source, dtype).items()
    }
    path = folder / WEIGHTS
    safetensors.numpy.save_file(arrays, path, metadata={'format': 'np'})
    path.chmod(0o644)  # The library lets nobody else read it, unlike the other files.
    write_description(source, folder)


def convert_arrays(source: TrainedModel, dtype: str) -> dict[str, np.ndarray]:
    """Returns parameters and batch statistics by path, as `inference.arrays.dequantize` takes them.

    Raises UserError if a number is too large for the dtype.
    """
    leaves = flatten({'params': source.params, 'statistics': source.statistics})
    if dtype == 'int8':
        return _quantize({name: np.asarray(leaf, np.float32) for name, leaf in leaves.items()})
    with np.errstate(over='ignore'):  # The check below names the array.
        arrays = {name: np.asarray(leaf).astype(FLOATS[dtype]) for name, leaf in leaves.items()}
    for name, array in arrays.items():
        if not np.isfinite(array.astype(np.float32)).all():
            raise UserError(f'{name} has numbers that are too large for {dtype}: use bfloat16.')
    return arrays


def _quantize(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the arrays with kernels and the table of tokens in int8, and their scales.

    By qwix. There is one scale for each output of a kernel and for each token.
    """
    qwix = import_package('qwix', "pip install 'mural-jax[int8]'")
    quantized = dict(arrays)
    for name, array in arrays.items():
        leaf = name.rpartition('/')[2]
        if leaf == TOKEN_TABLE:
            scaled_axes = [0]
        elif leaf == 'kernel':
            # Kernels of scanned blocks are stacked along axis 0; each block has its own scales.
            scaled_axes = [0, array.ndim - 1] if '/blocks/' in name else [array.ndim - 1]
        else:
            continue
        rounded = qwix.quantize(array, jnp.int8, channelwise_axes=scaled_axes)
        quantized[name] = np.asarray(rounded.qvalue)
        quantized[SCALES + name] = np.asarray(rounded.scale)
    return quantized


def write_description(source: TrainedModel, folder: Path) -> None:
    """Writes the vocabulary and the description, which other formats have too."""
    (folder / VOCABULARY).write_bytes(source.vocabulary)
    (folder / DESCRIPTION).write_text(source.description.to_json(), encoding='utf-8')


def read_encoders(source: TrainedModel, folder: Path) -> dict[str, Encoder]:
    """Returns encoders by tower that use the model in a folder."""
    model, space = load(folder), source.space
    return {
        'image': lambda images: model.encode_image(images, space),
        'text': lambda texts: model.encode_text(texts, space),
    }


def describe_usage(source: TrainedModel, folder: str) -> str:
    """Returns how to use the folder, as Markdown."""
    return USAGE.format(folder=folder)
