"""Towers of every kind as ONNX, with random weights, compared with jax."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mural_jax.data.tokenizer import Vocabulary
from mural_jax.exports import native, onnx
from mural_jax.exports.parity import Mismatch
from mural_jax.exports.trained import TrainedModel
from mural_jax.inference.description import ModelDescription
from mural_jax.inference.encode import build_encode_functions
from mural_jax.models import functional
from mural_jax.models.build import abstract_model, model_constructor
from mural_jax.models.spaces import Space
from mural_jax.types import UserError

pytest.importorskip('jax2onnx', reason='docs/export.md says how it is installed')

# The converter runs in this process and gives warnings of its own.
pytestmark = pytest.mark.filterwarnings('ignore')

SIZE, LENGTH, WORDS = 64, 12, 100
SMALL = dict(width=32, depth=2, num_heads=2)
RECURRENT = dict(embedding=16, hidden=32)


def build_source(image: dict[str, Any], text: dict[str, Any]) -> TrainedModel:
    """Returns a model of two towers with random weights, which has no vocabulary or examples."""
    node = dict(kind='dual_encoder', towers=dict(image=image, text=text))
    spaces = {'image_text': Space(sides=('image', 'text'), embedding=16, temperature=0.1)}
    construct = model_constructor(node, spaces, WORDS)
    params, statistics = jax.jit(lambda: functional.split(construct())[1:])()
    description = ModelDescription(
        model=node,
        spaces=spaces,
        tokenizer=Vocabulary(vocab_size=WORDS),
        vocab_size=WORDS,
        text_length=LENGTH,
        image_size=SIZE,
        resize=SIZE,
    )
    return TrainedModel(
        description=description,
        params=params,
        statistics=statistics,
        tokenizer=None,  # type: ignore[arg-type]
        examples=None,  # type: ignore[arg-type]
        workdir='',
        step=0,
        config={},
        scores={},
    )


@pytest.fixture(scope='module')
def small_source() -> TrainedModel:
    image = dict(kind='vit', image_size=SIZE, patches=(16,), layers=SMALL)
    return build_source(image, dict(kind='gru', **RECURRENT))


@pytest.fixture(autouse=True)
def without_a_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, 'write_description', lambda source, folder: None)


@pytest.mark.parametrize(
    ('image', 'text'),
    [
        (
            dict(kind='efficientnet', width_factor=0.25, depth_factor=0.1),
            dict(kind='bert', max_length=LENGTH, layers=SMALL),
        ),
        (
            dict(kind='resnet', stages=(1, 1)),
            dict(kind='lstm', depth=2, bidirectional=True, **RECURRENT),
        ),
        (
            dict(kind='vit', image_size=SIZE, patches=(16,), pool='map', layers=SMALL),
            dict(kind='gru', **RECURRENT),
        ),
    ],
    ids=['efficientnet-bert', 'resnet-lstm', 'vit-gru'],
)
def test_tower_gives_the_same_vectors_in_onnxruntime(
    image: dict, text: dict, tmp_path: Path
) -> None:
    import onnxruntime

    source = build_source(image, text)
    onnx.write_folder(source, tmp_path, 'float32')
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, WORDS, (5, LENGTH)).astype(np.int32)
    tokens[np.arange(LENGTH) >= np.arange(3, LENGTH, 2)[:, None]] = 0  # padding of several lengths
    inputs = {'image': rng.integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8), 'text': tokens}
    graphdef = abstract_model(source.description.model, source.description.spaces, WORDS)[0]
    for tower, encode in build_encode_functions(graphdef, source.description, 'image_text').items():
        expected_ND = jax.jit(encode)(source.params, source.statistics, inputs[tower])
        session = onnxruntime.InferenceSession(tmp_path / onnx.MODEL.format(tower))
        for count in (5, 2):  # The model takes batches of any size.
            (vector_ND,) = session.run(
                [onnx.OUTPUT.format(tower)], {onnx.INPUTS[tower]: inputs[tower][:count]}
            )
            np.testing.assert_allclose(vector_ND, expected_ND[:count], atol=1e-5)


def test_model_has_the_same_bytes_each_time(small_source: TrainedModel, tmp_path: Path) -> None:
    # The converter's numbers depend on memory addresses, so each of many tries fills the memory
    # differently.
    rng = np.random.default_rng(0)
    written: dict[str, set[bytes]] = {'image': set(), 'text': set()}
    for _ in range(8):
        objects = [object() for _ in range(rng.integers(100_000))]
        rng.shuffle(objects)
        del objects[::2]
        onnx.write_folder(small_source, tmp_path, 'float32')
        for tower, models in written.items():
            models.add((tmp_path / onnx.MODEL.format(tower)).read_bytes())
    assert {tower: len(models) for tower, models in written.items()} == {'image': 1, 'text': 1}


def test_unknown_operation_is_refused_with_other_formats(
    small_source: TrainedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jax2onnx

    def fail(*arguments: Any, **keywords: Any) -> None:
        raise NotImplementedError('an operation')

    monkeypatch.setattr(jax2onnx, 'to_onnx', fail)
    with pytest.raises(UserError, match='the tower image.*an operation.*stablehlo'):
        onnx.write_folder(small_source, tmp_path, 'float32')


def test_unreadable_model_is_a_mismatch(small_source: TrainedModel, tmp_path: Path) -> None:
    (tmp_path / 'image.onnx').write_bytes(b'no model')
    with pytest.raises(Mismatch, match='the tower image'):
        onnx.read_encoders(small_source, tmp_path)
