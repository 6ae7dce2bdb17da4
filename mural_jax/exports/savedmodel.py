"""A SavedModel by jax2tf, for TensorFlow Serving: it takes strings and encoded images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from mural_jax.data.tokenizer import SentencePieceTokenizer
from mural_jax.exports import native, stablehlo
from mural_jax.exports.packages import import_package
from mural_jax.exports.parity import Encoder
from mural_jax.exports.tokenizer_json import PUNCTUATION
from mural_jax.exports.trained import TrainedModel
from mural_jax.types import UserError

INSTALL_TEXT = 'pip install --no-deps tensorflow-text, in the version of TensorFlow'
USAGE = """\
    pip install tensorflow tensorflow-text

    import tensorflow as tf
    import tensorflow_text  # registers the operation that reads texts

    model = tf.saved_model.load('{folder}')
    text_ND = model.signatures['text'](tf.constant(['a cat', 'paka']))['embedding']
    image_ND = model.signatures['image'](tf.constant([open('cat.png', 'rb').read()]))['embedding']

TensorFlow Serving takes the folder as `MODEL/1`. Two more signatures take prepared inputs:
`pixels`, uint8 [N, {size}, {size}, 3], and `tokens`, int32 [N, {length}]. All give unit vectors,
float32 [N, D]."""


def write_folder(source: TrainedModel, folder: Path, dtype: str) -> None:
    """Writes the SavedModel, the vocabulary and the description.

    Raises UserError if TensorFlow has no operation for the vocabulary, or a package is missing.
    """
    import tensorflow as tf
    from jax.experimental import jax2tf

    module, signatures = tf.Module(), {}
    programs = stablehlo.build_programs(source, native.convert_arrays(source, dtype))
    for tower, program in programs.items():
        shape = source.description.input_shape(tower, None)
        polymorphic = f'(batch, {", ".join(map(str, shape.shape[1:]))})'
        converted = jax2tf.convert(
            program,
            polymorphic_shapes=[polymorphic],
            with_gradient=False,
            native_serialization_platforms=stablehlo.PLATFORMS,
        )
        if tower == 'image':
            name, prepare = 'pixels', _build_pixel_preparation(source)
        else:
            name, prepare = 'tokens', _build_token_preparation(source, module)
        # Two signatures for each tower: one for prepared inputs, one for strings.
        prepared = tf.TensorSpec(shape.shape, shape.dtype)
        signatures[name] = tf.function(_wrap_output(converted), [prepared], autograph=False)
        strings = tf.TensorSpec([None], tf.string)
        with_preparation = _wrap_output(converted, prepare)
        signatures[tower] = tf.function(with_preparation, [strings], autograph=False)
    tf.saved_model.save(module, str(folder), signatures=signatures)
    _fix_fingerprint(folder)
    native.write_description(source, folder)


def _fix_fingerprint(folder: Path) -> None:
    """Replaces the random id of a SavedModel by its checksum, so that equal models equal bytes."""
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

    path = folder / 'fingerprint.pb'
    fingerprint = FingerprintDef.FromString(path.read_bytes())
    fingerprint.uuid = str(fingerprint.saved_model_checksum)
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _wrap_output(encode: Callable, prepare: Callable = lambda x: x) -> Callable:
    """Returns a function of a signature, whose results have names."""
    return lambda inputs: {'embedding': encode(prepare(inputs))}


def _build_pixel_preparation(source: TrainedModel) -> Callable:
    """Returns encoded images -> uint8 [N, H, H, 3], by the code of the streams."""
    from mural_jax.data.fields import images

    size, resize = source.description.image_size, source.description.resize

    def prepare_pixels(encoded_N: Any) -> Any:
        return images.crop_middle(images.decode_images(encoded_N, resize), size)

    return prepare_pixels


def _build_token_preparation(source: TrainedModel, module: Any) -> Callable:
    """Returns strings -> int32 [N, L], by the code of TensorFlow Text.

    module: holds the vocabulary, which becomes a part of the SavedModel.
    """
    import tensorflow as tf

    description, kind = source.description, source.description.tokenizer.kind
    if kind == 'tokenizers':
        raise UserError(
            'A vocabulary of kind tokenizers cannot be a part of a SavedModel: TensorFlow has no '
            'operation for it. Use --format=onnx or --format=stablehlo, which take tokens.'
        )
    tensorflow_text = import_package('tensorflow_text', INSTALL_TEXT)
    pieces = tensorflow_text.SentencepieceTokenizer(model=source.vocabulary)
    module.pieces = pieces
    tokenizer = cast(SentencePieceTokenizer, source.tokenizer)
    before, after = tokenizer.start_ids, tokenizer.end_ids
    room = description.text_length - len(before) - len(after)

    def prepare_tokens(text_N: Any) -> Any:
        if kind == 'siglip':
            # SigLIP was trained on texts without punctuation and capitals.
            text_N = tf.strings.regex_replace(text_N, PUNCTUATION, '')
            text_N = tf.strings.lower(text_N, 'utf-8')
            text_N = tf.strings.strip(tf.strings.regex_replace(text_N, r'\s+', ' '))
        ids = pieces.tokenize(text_N)[:, :room]
        if kind == 'xlm_r':
            # XLM-R has the pieces of its SentencePiece model behind <pad>, and <unk> at 3.
            ids = tf.where(ids > 0, ids + 1, 3)
        count = tf.shape(text_N)[0]
        first, last = (
            tf.tile(tf.constant([tokens], tf.int32), [count, 1]) for tokens in (before, after)
        )
        ids = tf.concat([first, ids, last], axis=1)
        return ids.to_tensor(source.pad_id, shape=[None, description.text_length])

    return prepare_tokens


def read_encoders(source: TrainedModel, folder: Path) -> dict[str, Encoder]:
    """Returns encoders by tower that run the signatures of the SavedModel in a folder."""
    import tensorflow as tf

    model = tf.saved_model.load(str(folder))
    encoders = {
        tower: _wrap_signature(model.signatures[tower], tf.constant) for tower in source.towers
    }
    # Signatures do not keep their model alive, and it owns the vocabulary.
    encoders['model'] = model
    return encoders


def _wrap_signature(signature: Callable, constant: Callable) -> Encoder:
    return lambda inputs: np.asarray(signature(constant(list(inputs)))['embedding'])


def describe_usage(source: TrainedModel, folder: str) -> str:
    """Returns how to use the folder, as Markdown."""
    description = source.description
    return USAGE.format(folder=folder, size=description.image_size, length=description.text_length)
