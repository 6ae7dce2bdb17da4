"""A SavedModel by jax2tf, for TensorFlow Serving: strings and the bytes of pictures go in."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np

from mural_jax.data.tokenizer import SentencePiece
from mural_jax.exports import native, stablehlo
from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import Subject
from mural_jax.types import UserError

PUNCTUATION = r'[!-/:-@\[-`{-~]'  # of ASCII
USE = """\
    pip install tensorflow tensorflow-text

    import tensorflow as tf
    import tensorflow_text  # brings the operation that reads texts

    model = tf.saved_model.load('{folder}')
    text_ND = model.signatures['text'](tf.constant(['a cat', 'paka']))['embedding']
    image_ND = model.signatures['image'](tf.constant([open('cat.png', 'rb').read()]))['embedding']

TensorFlow Serving takes the folder as `MODEL/1`. Other signatures take what is prepared already:
`pixels`, uint8 [N, {size}, {size}, 3], and `tokens`, int32 [N, {length}]. All give unit vectors,
float32 [N, D]."""


def write(subject: Subject, folder: Path, dtype: str) -> None:
    import tensorflow as tf
    from jax.experimental import jax2tf

    about = subject.about
    module, signatures = tf.Module(), {}
    for tower, program in stablehlo.programs(subject, native.stored(subject, dtype)).items():
        shape = about.inputs(tower, None)
        polymorphic = f'(batch, {", ".join(map(str, shape.shape[1:]))})'
        converted = jax2tf.convert(
            program, polymorphic_shapes=[polymorphic], with_gradient=False,
            native_serialization_platforms=stablehlo.PLATFORMS,
        )  # fmt: skip
        prepare = _pixels(subject) if tower == 'image' else _tokens(subject, module)
        inner = tf.TensorSpec(shape.shape, shape.dtype)
        name = 'pixels' if tower == 'image' else 'tokens'
        signatures[name] = tf.function(_named(converted), [inner], autograph=False)
        outer = tf.TensorSpec([None], tf.string)
        signatures[tower] = tf.function(_named(converted, prepare), [outer], autograph=False)
    tf.saved_model.save(module, str(folder), signatures=signatures)
    _name(folder)
    native.describe(subject, folder)


def _name(folder: Path) -> None:
    """Calls the model by what it holds; TensorFlow draws a name at random."""
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef

    path = folder / 'fingerprint.pb'
    fingerprint = FingerprintDef.FromString(path.read_bytes())
    fingerprint.uuid = str(fingerprint.saved_model_checksum)
    path.write_bytes(fingerprint.SerializeToString(deterministic=True))


def _named(encode: Callable, prepare: Callable = lambda x: x) -> Callable:
    return lambda inputs: {'embedding': encode(prepare(inputs))}


def _pixels(subject: Subject) -> Callable:
    """Bytes of pictures -> uint8 [N, H, H, 3], as the streams read them."""

    from mural_jax.data.fields import images

    about = subject.about

    def pixels(encoded: Any) -> Any:
        return images.crop_middle(images.decode(encoded, about.resize), about.image_size)

    return pixels


def _tokens(subject: Subject, module: Any) -> Callable:
    """Strings -> int32 [N, L]; the vocabulary is a part of the graph."""
    import tensorflow as tf

    about, kind = subject.about, subject.about.tokenizer.kind
    if kind == 'tokenizers':
        raise UserError(
            'A vocabulary of kind tokenizers cannot be a part of a SavedModel: TensorFlow has no '
            'operation for it. Use --format=onnx or --format=stablehlo, which take tokens.'
        )
    try:
        import tensorflow_text
    except ImportError as error:
        raise UserError(
            '--format=savedmodel needs the package tensorflow_text, of the version of TensorFlow: '
            'pip install --no-deps tensorflow-text.'
        ) from error
    pieces = tensorflow_text.SentencepieceTokenizer(model=subject.vocabulary)
    module.pieces = pieces
    read = cast(SentencePiece, subject.tokenizer)
    before, after = read.before, read.after
    room = about.text_length - len(before) - len(after)

    def tokens(texts: Any) -> Any:
        if kind == 'siglip':
            texts = tf.strings.lower(tf.strings.regex_replace(texts, PUNCTUATION, ''), 'utf-8')
            texts = tf.strings.strip(tf.strings.regex_replace(texts, r'\s+', ' '))
        ids = pieces.tokenize(texts)[:, :room]
        if kind == 'xlm_r':
            ids = tf.where(ids > 0, ids + 1, 3)
        count = tf.shape(texts)[0]
        marks = [tf.tile(tf.constant([own], tf.int32), [count, 1]) for own in (before, after)]
        ids = tf.concat([marks[0], ids, marks[1]], axis=1)
        return ids.to_tensor(subject.pad_id, shape=[None, about.text_length])

    return tokens


def read(subject: Subject, folder: Path) -> dict[str, Encoder]:
    import tensorflow as tf

    model = tf.saved_model.load(str(folder))
    encoders = {
        tower: _call(model.signatures[tower], tf.constant) for tower in subject.towers
    }  # fmt: skip
    encoders['model'] = model  # What it holds lives as long as it does.
    return encoders


def _call(signature: Callable, constant: Callable) -> Encoder:
    return lambda inputs: np.asarray(signature(constant(list(inputs)))['embedding'])


def use(subject: Subject, folder: str) -> str:
    about = subject.about
    return USE.format(folder=folder, size=about.image_size, length=about.text_length)
