"""Towers of every kind as ONNX, against jax, with random weights."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from mural_jax.data.tokenizer import Vocabulary
from mural_jax.exports import native, onnx
from mural_jax.exports.parity import Mismatch
from mural_jax.exports.trained import Subject
from mural_jax.inference.model import About, Space, encoders
from mural_jax.models import functional
from mural_jax.models.build import abstract, constructor
from mural_jax.types import UserError

pytest.importorskip('jax2onnx', reason='docs/export.md says how it is installed')

# Of the converter's own, which is run here in this process.
pytestmark = pytest.mark.filterwarnings('ignore')

SIZE, LENGTH, WORDS = 64, 12, 100
SMALL = dict(width=32, depth=2, num_heads=2)
RECURRENT = dict(embedding=16, hidden=32)


def subject(image: dict[str, Any], text: dict[str, Any]) -> Subject:
    node = dict(kind='dual_encoder', embedding=16, towers=dict(image=image, text=text))
    spaces = {'image_text': Space(('image', 'text'), 0.1)}
    make = constructor(node, spaces, WORDS)
    params, statistics = jax.jit(lambda: functional.split(make())[1:])()
    about = About(
        model=node, spaces=spaces, tokenizer=Vocabulary(vocab_size=WORDS), vocab_size=WORDS,
        text_length=LENGTH, image_size=SIZE, resize=SIZE,
    )  # fmt: skip
    return Subject(
        about=about, params=params, statistics=statistics, tokenizer=None, examples=None,  # type: ignore[arg-type]
        workdir='', step=0, config={}, scores={},
    )  # fmt: skip


@pytest.fixture(autouse=True)
def without_a_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, 'describe', lambda *given: None)


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
def test_every_tower(image: dict, text: dict, tmp_path: Path) -> None:
    import onnxruntime

    given = subject(image, text)
    onnx.write(given, tmp_path, 'float32')
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, WORDS, (5, LENGTH)).astype(np.int32)
    tokens[np.arange(LENGTH) >= np.arange(3, LENGTH, 2)[:, None]] = 0  # of several lengths
    inputs = {'image': rng.integers(0, 256, (5, SIZE, SIZE, 3)).astype(np.uint8), 'text': tokens}
    graphdef = abstract(given.about.model, given.about.spaces, WORDS)[0]
    for tower, encode in encoders(graphdef, given.about, 'image_text').items():
        wanted_ND = jax.jit(encode)(given.params, given.statistics, inputs[tower])
        session = onnxruntime.InferenceSession(tmp_path / onnx.MODEL.format(tower))
        for count in (5, 2):  # The batch is a symbol.
            (found_ND,) = session.run(
                [onnx.OUTPUT.format(tower)], {onnx.INPUTS[tower]: inputs[tower][:count]}
            )
            np.testing.assert_allclose(found_ND, wanted_ND[:count], atol=1e-5)


def test_the_same_bytes(tmp_path: Path) -> None:
    # The converter's numbers hang on addresses: many tries, each in another memory.
    given = subject(*towers())
    rng = np.random.default_rng(0)
    written: dict[str, set[bytes]] = {'image': set(), 'text': set()}
    for _ in range(8):
        objects = [object() for _ in range(rng.integers(100_000))]
        rng.shuffle(objects)
        del objects[::2]
        onnx.write(given, tmp_path, 'float32')
        for tower, models in written.items():
            models.add((tmp_path / onnx.MODEL.format(tower)).read_bytes())
    assert {tower: len(models) for tower, models in written.items()} == {'image': 1, 'text': 1}


def test_what_the_converter_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import jax2onnx

    def fails(*given: Any, **named: Any) -> None:
        raise NotImplementedError('an operation')

    monkeypatch.setattr(jax2onnx, 'to_onnx', fails)
    with pytest.raises(UserError, match='the tower image.*an operation.*stablehlo'):
        onnx.write(subject(*towers()), tmp_path, 'float32')


def test_what_the_runtime_does_not_read(tmp_path: Path) -> None:
    (tmp_path / 'image.onnx').write_bytes(b'no model')
    with pytest.raises(Mismatch, match='the tower image'):
        onnx.read(subject(*towers()), tmp_path)


def towers() -> tuple[dict[str, Any], dict[str, Any]]:
    image = dict(kind='vit', image_size=SIZE, patches=(16,), layers=SMALL)
    return image, dict(kind='gru', **RECURRENT)
