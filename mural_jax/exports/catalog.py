"""The table of formats: how a folder is written, how it is read again in its own runtime."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mural_jax.exports import hugging_face, native, onnx, open_clip, savedmodel, stablehlo
from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import Subject


class Format(NamedTuple):
    """A format.

    write: (subject, an empty folder, dtype) fills the folder. read: (subject, folder) -> encoders
    of what is in it, by the runtime that it is meant for. dtypes: how weights can be stored. use:
    (subject, name of the folder) -> how it is used, Markdown.
    """

    write: Callable[[Subject, Path, str], None]
    read: Callable[[Subject, Path], dict[str, Encoder]]
    use: Callable[[Subject, str], str]
    dtypes: tuple[str, ...] = native.DTYPES


FORMATS = {
    'safetensors': Format(native.write, native.read, native.use),
    'stablehlo': Format(stablehlo.write, stablehlo.read, stablehlo.use),
    'onnx': Format(onnx.write, onnx.read, onnx.use),
    'savedmodel': Format(savedmodel.write, savedmodel.read, savedmodel.use),
    'transformers': Format(
        hugging_face.write, hugging_face.read, hugging_face.use, tuple(native.FLOATS)
    ),
    'open_clip': Format(open_clip.write, open_clip.read, open_clip.use, tuple(native.FLOATS)),
}
