"""One ONNX model for each tower, by jax2onnx, which converts jax's own primitives.

The other way, a SavedModel and tf2onnx, does not work: jax2tf stores a program in the operation
XlaCallModule, which tf2onnx does not know.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from jax import export as jax_export

from mural_jax.exports import native, stablehlo
from mural_jax.exports.packages import import_package
from mural_jax.exports.parity import Encoder, Mismatch
from mural_jax.exports.trained import Program, TrainedModel, build_encoders
from mural_jax.types import UserError

# --no-deps: jax2onnx asks for an older orbax-checkpoint, which it does not use.
INSTALL = "pip install 'mural-jax[onnx]', and then pip install --no-deps jax2onnx"
OPSET = 23
MODEL = '{}.onnx'  # name of a tower's file
LOG_ERRORS = 3  # onnxruntime's level that logs errors alone
USAGE = """\
    pip install onnxruntime

    import onnxruntime

    onnxruntime.set_default_logger_severity({errors})  # or it warns about each constant it folds
    tower = onnxruntime.InferenceSession('{folder}/{tower}.onnx')
    ({output},) = tower.run(['{output}'], {{'{input}': {input}}})"""
INPUTS = {'image': 'image_NHHC', 'text': 'text_NL'}
OUTPUT = '{}_ND'  # name of a tower's result


def write_folder(source: TrainedModel, folder: Path, dtype: str) -> None:
    """Writes the models, the vocabulary and the description.

    Raises UserError if a package is missing or the converter does not know an operation.
    """
    jax2onnx = import_package('jax2onnx', INSTALL)
    # The converter warns about batch statistics and untyped values, which it converts correctly.
    for name in ('onnx_ir', None):
        logging.getLogger(name).setLevel(logging.ERROR)
    (batch,) = jax_export.symbolic_shape('batch')
    programs = stablehlo.build_programs(source, native.convert_arrays(source, dtype))
    for tower, program in programs.items():
        shape = source.description.input_shape(tower, batch)
        path = folder / MODEL.format(tower)
        try:
            model = jax2onnx.to_onnx(
                program,
                inputs=[shape],
                model_name=tower,
                opset=OPSET,
                input_names=[INPUTS[tower]],
                output_names=[OUTPUT.format(tower)],
            )
        except Exception as error:  # A converter may raise anything for an unknown operation.
            raise UserError(
                f'jax2onnx cannot convert the tower {tower} ({error!r}). Use --format=stablehlo or '
                'savedmodel, or one --tower.'
            ) from error
        public_names = (INPUTS[tower], OUTPUT.format(tower))
        _rename_values(model.graph, _NameCounter(public_names))
        import_package('onnx', INSTALL).save(model, path)
    native.write_description(source, folder)


class _NameCounter:
    """Gives the names of a graph new numbers: the third constant becomes `const_2`.

    The converter's own numbers also count what it made and discarded, and that depends on the
    memory addresses of its objects: the same model would give different bytes each time.
    """

    def __init__(self, public_names: Iterable[str]):
        """`public_names` stay as they are."""
        self._names = {name: name for name in public_names}
        self._counts: Counter[str] = Counter()

    def __call__(self, name: str) -> str:
        if name and name not in self._names:
            stem = re.sub(r'_\d+$', '', name)
            self._names[name] = f'{stem}_{self._counts[stem]}'
            self._counts[stem] += 1
        # An empty name stands for an optional input that is not given.
        return self._names.get(name, '')


def _rename_values(graph: Any, rename: Callable[[str], str]) -> None:
    """Renames every value and node of an onnx.GraphProto and of the graphs inside of it."""
    for value in (*graph.input, *graph.initializer, *graph.output, *graph.value_info):
        value.name = rename(value.name)
    for node in graph.node:
        node.name = rename(node.name)
        node.input[:] = map(rename, node.input)
        node.output[:] = map(rename, node.output)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename_values(inner, rename)


def read_encoders(source: TrainedModel, folder: Path) -> dict[str, Encoder]:
    """Returns encoders by tower that run the models in a folder with onnxruntime.

    Raises Mismatch if onnxruntime cannot read a model.
    """
    runtime = import_package('onnxruntime', INSTALL)
    options = runtime.SessionOptions()
    options.log_severity_level = LOG_ERRORS
    programs = {}
    for tower in source.towers:
        try:
            session = runtime.InferenceSession(folder / MODEL.format(tower), options)
        except Exception as error:  # onnxruntime's errors have no common class.
            raise Mismatch(f'onnxruntime does not read the tower {tower}: {error}') from error
        programs[tower] = _wrap_session(session)
    return build_encoders(source, programs)


def _wrap_session(session: Any) -> Program:
    (name,) = (value.name for value in session.get_inputs())
    return lambda inputs: session.run(None, {name: inputs})[0]


def describe_usage(source: TrainedModel, folder: str) -> str:
    """Returns how to use the folder, as Markdown."""
    size, length = source.description.image_size, source.description.text_length
    parts = [
        USAGE.format(
            folder=folder,
            tower=tower,
            input=INPUTS[tower],
            output=OUTPUT.format(tower),
            errors=LOG_ERRORS,
        )
        for tower in source.towers
    ]
    parts.append(
        f'Opset {OPSET}; `image_NHHC` is uint8 [N, {size}, {size}, 3], RGB, and `text_NL` int32 '
        f'[N, {length}].'
    )
    if 'text' in source.towers:
        parts.append(stablehlo.describe_tokens(source))
    return '\n\n'.join(parts)
