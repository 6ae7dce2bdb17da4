"""One ONNX model for each tower, by jax2onnx: a converter that goes from jax's own primitives.

The other way, by a SavedModel and tf2onnx, is closed: that does not know the operation in which
jax2tf keeps a program, XlaCallModule.
"""

import logging
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType
from typing import Any

from jax import export as jax_export

from mural_jax.exports import native, stablehlo
from mural_jax.exports.parity import Encoder, Mismatch
from mural_jax.exports.trained import Call, Subject, prepared
from mural_jax.types import UserError

OPSET = 23
MODEL = '{}.onnx'  # of a tower
ERRORS = 3  # of onnxruntime's log: nothing below
USE = """\
    pip install onnxruntime

    import onnxruntime

    onnxruntime.set_default_logger_severity({errors})  # else it tells of each constant it folds
    tower = onnxruntime.InferenceSession('{folder}/{tower}.onnx')
    ({output},) = tower.run(['{output}'], {{'{input}': {input}}})"""
INPUTS = {'image': 'image_NHHC', 'text': 'text_NL'}
OUTPUT = '{}_ND'  # of a tower


def write(subject: Subject, folder: Path, dtype: str) -> None:
    jax2onnx = needed('jax2onnx')
    # They warn of what they then do right: statistics of batches, types that nobody named.
    for name in ('onnx_ir', None):
        logging.getLogger(name).setLevel(logging.ERROR)
    (batch,) = jax_export.symbolic_shape('batch')
    for tower, program in stablehlo.programs(subject, native.stored(subject, dtype)).items():
        shape = subject.about.inputs(tower, batch)
        path = folder / MODEL.format(tower)
        try:
            model = jax2onnx.to_onnx(
                program, inputs=[shape], model_name=tower, opset=OPSET,
                input_names=[INPUTS[tower]], output_names=[OUTPUT.format(tower)],
            )  # fmt: skip
        except Exception as error:  # Whatever a converter raises where it does not know something.
            raise UserError(
                f'jax2onnx cannot convert the tower {tower} ({error!r}). Use --format=stablehlo or '
                'savedmodel, or one --tower.'
            ) from error
        kept = (INPUTS[tower], OUTPUT.format(tower))
        _rename(model.graph, _Numbers(kept))
        needed('onnx').save(model, path)
    native.describe(subject, folder)


class _Numbers:
    """The names of a graph with numbers of their own: `const_57` is the third constant, `const_2`.

    The converter's numbers count what it made and threw away too, and that differs with where in
    memory its objects lie: the same model would be other bytes from time to time.
    """

    def __init__(self, kept: Iterable[str]):
        self._names = {name: name for name in kept}
        self._counts: Counter[str] = Counter()

    def __call__(self, name: str) -> str:
        if name and name not in self._names:
            stem = re.sub(r'_\d+$', '', name)
            self._names[name] = f'{stem}_{self._counts[stem]}'
            self._counts[stem] += 1
        return self._names.get(name, '')


def _rename(graph: Any, new: Callable[[str], str]) -> None:
    """Gives every value and node of an onnx.GraphProto, and of the graphs in it, its new name."""
    for value in (*graph.input, *graph.initializer, *graph.output, *graph.value_info):
        value.name = new(value.name)
    for node in graph.node:
        node.name = new(node.name)
        node.input[:] = map(new, node.input)
        node.output[:] = map(new, node.output)
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                _rename(inner, new)


def read(subject: Subject, folder: Path) -> dict[str, Encoder]:
    runtime = needed('onnxruntime')
    options = runtime.SessionOptions()
    options.log_severity_level = ERRORS
    calls = {}
    for tower in subject.towers:
        try:
            session = runtime.InferenceSession(folder / MODEL.format(tower), options)
        except Exception as error:  # The runtime has no class of its own for all it raises.
            raise Mismatch(f'onnxruntime does not read the tower {tower}: {error}') from error
        calls[tower] = _call(session)
    return prepared(subject, calls)


def _call(session: Any) -> Call:
    (name,) = (given.name for given in session.get_inputs())
    return lambda inputs: session.run(None, {name: inputs})[0]


def use(subject: Subject, folder: str) -> str:
    about = subject.about
    size, length = about.image_size, about.text_length
    parts = [
        USE.format(folder=folder, tower=x, input=INPUTS[x], output=OUTPUT.format(x), errors=ERRORS)
        for x in subject.towers
    ]
    parts.append(
        f'Opset {OPSET}; `image_NHHC` is uint8 [N, {size}, {size}, 3], RGB, and `text_NL` int32 '
        f'[N, {length}].'
    )
    if 'text' in subject.towers:
        parts.append(stablehlo.tokens(subject))
    return '\n\n'.join(parts)


def needed(name: str) -> ModuleType:
    """A package of the extra `onnx`. Raises UserError where it is not installed."""
    try:
        return __import__(name)
    except ImportError as error:
        raise UserError(
            f"--format=onnx needs the package {name}: pip install 'mural-jax[onnx]', and then "
            'pip install --no-deps jax2onnx.'
        ) from error
