"""The table of export formats."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from mural_jax.exports import hugging_face, native, onnx, open_clip, savedmodel, stablehlo
from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import TrainedModel


class ExportFormat(NamedTuple):
    """How a format is written and checked.

    write: (model, empty folder, dtype) -> None. Fills the folder.
    read: (model, folder) -> encoders by tower, which run in the runtime the format is meant for.
    describe_usage: (model, name of the folder) -> how to use it, as Markdown.
    dtypes: in which the weights can be stored.
    """

    write: Callable[[TrainedModel, Path, str], None]
    read: Callable[[TrainedModel, Path], dict[str, Encoder]]
    describe_usage: Callable[[TrainedModel, str], str]
    dtypes: tuple[str, ...] = native.DTYPES


FORMATS = {
    'safetensors': ExportFormat(native.write_folder, native.read_encoders, native.describe_usage),
    'stablehlo': ExportFormat(
        stablehlo.write_folder, stablehlo.read_encoders, stablehlo.describe_usage
    ),
    'onnx': ExportFormat(onnx.write_folder, onnx.read_encoders, onnx.describe_usage),
    'savedmodel': ExportFormat(
        savedmodel.write_folder, savedmodel.read_encoders, savedmodel.describe_usage
    ),
    'transformers': ExportFormat(
        hugging_face.write_folder,
        hugging_face.read_encoders,
        hugging_face.describe_usage,
        tuple(native.FLOATS),
    ),
    'open_clip': ExportFormat(
        open_clip.write_folder,
        open_clip.read_encoders,
        open_clip.describe_usage,
        tuple(native.FLOATS),
    ),
}
