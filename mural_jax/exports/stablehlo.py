"""One StableHLO program for each tower, weights in it, by `jax.export`: jax alone runs them."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax import export as jax_export

from mural_jax.exports import native
from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import Subject, prepared
from mural_jax.inference import model
from mural_jax.models.build import abstract
from mural_jax.types import UserError

PLATFORMS = ('cpu', 'cuda', 'tpu')
PROGRAM = '{}.stablehlo'  # of a tower
MOST_BYTES = 2**31  # A serialised program is a flatbuffer, which can be no larger.
USE = {
    'image': """\
    from jax import export

    with open('{folder}/image.stablehlo', 'rb') as file:
        encode_image = export.deserialize(bytearray(file.read())).call
    image_ND = encode_image(image_NHHC)  # uint8 [N, {size}, {size}, 3], RGB""",
    'text': """\
    with open('{folder}/text.stablehlo', 'rb') as file:
        encode_text = export.deserialize(bytearray(file.read())).call
    text_ND = encode_text(text_NL)  # int32 [N, {length}], tokens""",
}
TOKENS = """\
Tokens are those of `vocabulary` with its marks, cut at {length} and filled up with {pad}:
`mural_jax.data.tokenizer` makes them{own}. Both programs give unit vectors, float32 [N, D], for any
N."""


def write(subject: Subject, folder: Path, dtype: str) -> None:
    arrays = native.stored(subject, dtype)
    size = sum(array.nbytes for array in arrays.values())
    if size > MOST_BYTES:
        raise UserError(
            f'The weights are {size / 1e9:.1f} GB, and a program holds 2 GB at most. Use '
            '--dtype=int8, one --tower, or --format=safetensors.'
        )
    (batch,) = jax_export.symbolic_shape('batch')
    for tower, program in programs(subject, arrays).items():
        shape = subject.about.inputs(tower, batch)
        made = jax_export.export(jax.jit(program), platforms=PLATFORMS)(shape)
        (folder / PROGRAM.format(tower)).write_bytes(made.serialize())
    native.describe(subject, folder)


def programs(subject: Subject, arrays: Mapping[str, np.ndarray]) -> dict[str, Callable]:
    """By tower, inputs -> unit vectors; the arrays are constants, computed with as float32."""
    about = subject.about
    graphdef, params, statistics = abstract(about.model, about.spaces, about.vocab_size)
    wanted = {'params': params, 'statistics': statistics}
    encoders = model.encoders(graphdef, about, subject.space)

    def closed(encode: model.Encode) -> Callable:
        def program(inputs: jax.Array) -> jax.Array:
            tree = model.unflat(wanted, model.full(arrays))
            return encode(tree['params'], tree['statistics'], inputs)

        return program

    return {tower: closed(encoders[tower]) for tower in subject.towers}


def read(subject: Subject, folder: Path) -> dict[str, Encoder]:
    calls = {
        tower: jax_export.deserialize(bytearray((folder / PROGRAM.format(tower)).read_bytes()))
        for tower in subject.towers
    }
    return prepared(subject, {tower: one.call for tower, one in calls.items()})


def use(subject: Subject, folder: str) -> str:
    about = subject.about
    words = dict(folder=folder, size=about.image_size, length=about.text_length)
    parts = [
        '    pip install jax flatbuffers',
        *(USE[tower].format(**words) for tower in subject.towers),
    ]
    if 'text' in subject.towers:
        parts.append(tokens(subject))
    return '\n\n'.join(parts)


def tokens(subject: Subject) -> str:
    """How texts become tokens, for formats that take these."""
    by = subject.about.tokenizer
    own = ', or the package sentencepiece' if by.kind == 'sentencepiece' else ''
    return TOKENS.format(length=subject.about.text_length, pad=subject.pad_id, own=own)
