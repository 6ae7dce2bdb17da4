"""One StableHLO program for each tower, with its weights, by `jax.export`. jax alone runs it."""

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import numpy as np
from jax import export as jax_export

from mural_jax.exports import native
from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import TrainedModel, build_encoders
from mural_jax.inference.arrays import dequantize, unflatten_like
from mural_jax.inference.encode import Encode, build_encode_functions
from mural_jax.models.build import abstract_model
from mural_jax.types import UserError

PLATFORMS = ('cpu', 'cuda', 'tpu')
PROGRAM = '{}.stablehlo'  # name of a tower's file
MAX_BYTES = 2**31  # A serialised program is a flatbuffer, which can be no larger.
USAGE = {
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
Tokens are those of `vocabulary` with its special tokens, cut or padded with {pad} to a length of
{length}. `mural_jax.data.tokenizer` makes them{other}. Both programs give unit vectors, float32
[N, D], for any N."""


def write_folder(source: TrainedModel, folder: Path, dtype: str) -> None:
    """Writes the programs, the vocabulary and the description.

    Raises UserError if the weights are too large for a program.
    """
    arrays = native.convert_arrays(source, dtype)
    size = sum(array.nbytes for array in arrays.values())
    if size > MAX_BYTES:
        raise UserError(
            f'The weights are {size / 1e9:.1f} GB, and a program holds 2 GB at most. Use '
            '--dtype=int8, one --tower, or --format=safetensors.'
        )
    # A symbolic dimension: the program takes batches of any size.
    (batch,) = jax_export.symbolic_shape('batch')
    for tower, program in build_programs(source, arrays).items():
        shape = source.description.input_shape(tower, batch)
        exported = jax_export.export(jax.jit(program), platforms=PLATFORMS)(shape)
        (folder / PROGRAM.format(tower)).write_bytes(exported.serialize())
    native.write_description(source, folder)


def build_programs(source: TrainedModel, arrays: Mapping[str, np.ndarray]) -> dict[str, Callable]:
    """Returns a function for each tower, from prepared inputs to unit vectors.

    arrays: the weights as they are stored. They are constants of the function, which converts them
        to float32.
    """
    description = source.description
    graphdef, params, statistics = abstract_model(
        description.model, description.spaces, description.vocab_size
    )
    tree = {'params': params, 'statistics': statistics}
    encode_functions = build_encode_functions(graphdef, description, source.space)

    def bind_weights(encode: Encode) -> Callable:
        def program(inputs: jax.Array) -> jax.Array:
            # Inside of the program, so that it holds the weights in their stored dtype.
            weights = unflatten_like(tree, dequantize(arrays))
            return encode(weights['params'], weights['statistics'], inputs)

        return program

    return {tower: bind_weights(encode_functions[tower]) for tower in source.towers}


def read_encoders(source: TrainedModel, folder: Path) -> dict[str, Encoder]:
    """Returns encoders by tower that run the programs in a folder."""
    programs = {
        tower: jax_export.deserialize(bytearray((folder / PROGRAM.format(tower)).read_bytes()))
        for tower in source.towers
    }
    return build_encoders(source, {tower: program.call for tower, program in programs.items()})


def describe_usage(source: TrainedModel, folder: str) -> str:
    """Returns how to use the folder, as Markdown."""
    description = source.description
    values = dict(folder=folder, size=description.image_size, length=description.text_length)
    parts = [
        '    pip install jax flatbuffers',
        *(USAGE[tower].format(**values) for tower in source.towers),
    ]
    if 'text' in source.towers:
        parts.append(describe_tokens(source))
    return '\n\n'.join(parts)


def describe_tokens(source: TrainedModel) -> str:
    """Returns how texts become tokens, for formats whose programs take tokens."""
    is_sentencepiece = source.description.tokenizer.kind == 'sentencepiece'
    other = ', and so does the package sentencepiece' if is_sentencepiece else ''
    length = source.description.text_length
    return TOKENS.format(length=length, pad=source.pad_id, other=other)
