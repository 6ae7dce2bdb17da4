"""The door: a new kind of anything is a class and one line in a catalog, and nothing else.

This file alone adds a similarity, an objective, a stream with a fitted artefact, a task, a penalty
and an evaluator. A config that names them is prepared, trained for two steps and evaluated through
the same functions as every other config.
"""

import dataclasses
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Self

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from data.datasets import draw_image, encode_image, ingest_captions

from mural_jax.config.load import load_config
from mural_jax.data.fitted.base import FittedArtefact
from mural_jax.data.fitted.catalog import FITTED
from mural_jax.data.streams.base import Field, ReadingContext, Tensor
from mural_jax.data.streams.captions import Captions
from mural_jax.data.streams.catalog import STREAMS
from mural_jax.evaluation import scores
from mural_jax.evaluation.evaluators.base import Evaluation, SplitEvaluator
from mural_jax.evaluation.evaluators.catalog import EVALUATORS
from mural_jax.evaluation.split_data import SplitData
from mural_jax.objectives.catalog import OBJECTIVES
from mural_jax.objectives.pairwise import PairObjective, own_and_best
from mural_jax.runs.prepare import prepare
from mural_jax.runs.restore import restore, restored_split_data
from mural_jax.runs.start import train
from mural_jax.similarity.base import Head
from mural_jax.similarity.catalog import SIMILARITIES
from mural_jax.similarity.labels import NEGATIVE, POSITIVE, PairSide
from mural_jax.similarity.ring import ADD, MAX
from mural_jax.similarity.tiles import PairTile, Scalars
from mural_jax.tasks.base import Pass, Setup, check_views
from mural_jax.tasks.catalog import TASKS
from mural_jax.types import Array, Encoding


@dataclasses.dataclass(frozen=True)
class Divergence:
    """score = -KL(right || left) of two distributions: another form, and not symmetric."""

    form: ClassVar[str] = 'distribution'
    candidates: ClassVar[str] = ''

    def represent(self, encoding: Encoding, head: Head) -> Array:
        return jax.nn.log_softmax(head(encoding.pooled_BD).astype(jnp.float32))

    def score(self, left: Array, right: Array) -> Array:
        entropy_R = (jnp.exp(right) * right).sum(1)
        return jnp.matmul(left, jnp.exp(right).T, precision='highest') - entropy_R[None, :]

    def score_pairs(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        left, right = left.astype(np.float64), right.astype(np.float64)
        return (np.exp(right) * (left - right)).sum(1)

    def rounding(self, left: np.ndarray, right: np.ndarray) -> float:
        return float(left.shape[1] * 2.0**-22 * np.abs(left).max())


class HingeTally(NamedTuple):
    own: Any
    best: Any
    loss: Any
    count: Any  # of violations


@dataclasses.dataclass(frozen=True)
class AllPairsHinge(PairObjective):
    """[m + score_ij - score_ii]_+ over all other pairs: own scores, own labels, no scalars."""

    margin: float = 0.2
    needs_own_scores: ClassVar[bool] = True
    merges: ClassVar[Any] = HingeTally(ADD, MAX, ADD, ADD)

    def label_pairs(self, query: PairSide, result: PairSide) -> Array:
        own_QR = query.place_B[:, None] == result.place_B[None, :]
        return jnp.where(own_QR, POSITIVE, NEGATIVE).astype(jnp.int8)

    def tally(self, tile: PairTile, dim: int, scalars: Scalars) -> HingeTally:
        cost_QR = self._cost(tile, dim)
        own_best = own_and_best(tile, dim)
        return HingeTally(*own_best, cost_QR.sum(dim), (cost_QR > 0).sum(dim))

    def loss(self, query: HingeTally, result: HingeTally, scalars: Scalars) -> Array:
        return query.loss + result.loss

    def slope(
        self, tile: PairTile, query: HingeTally, result: HingeTally, scalars: Scalars
    ) -> tuple[Array, dict[str, Array]]:
        violated_QR = (self._cost(tile, 1) > 0).astype(jnp.float32) + (self._cost(tile, 0) > 0)
        own_QR = -(query.count[:, None] + result.count[None, :]).astype(jnp.float32)
        return jnp.where(tile.positive_QR, own_QR, violated_QR), {}

    def _cost(self, tile: PairTile, dim: int) -> Array:
        assert tile.own_Q is not None and tile.own_R is not None
        own = tile.own_Q[:, None] if dim else tile.own_R[None, :]
        cost_QR = jax.nn.relu(self.margin + tile.score_QR - own)
        return jnp.where(tile.positive_QR, 0.0, cost_QR)


@dataclasses.dataclass(frozen=True, eq=False)
class TextLengths(FittedArtefact):
    """The mean length of the texts, which the stream below subtracts from its target."""

    mean: float

    @classmethod
    def path(cls, stream: Any, data_dir: Path) -> Path:
        return data_dir / 'text_lengths' / 'mean.json'

    @classmethod
    def fit(cls, stream: Any, data_dir: Path) -> Self:
        return cls(5.0)

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        return cls(json.loads(content))

    def to_bytes(self) -> bytes:
        return json.dumps(self.mean).encode()

    @property
    def fingerprint(self) -> str:
        return f'{zlib.crc32(self.to_bytes()):08x}'


@dataclasses.dataclass(frozen=True)
class MeasuredCaptions(Captions):
    """Captions with a target: how much longer a text is than the mean."""

    def fields(self) -> dict[str, Field]:
        return super().fields() | {'excess': Field((), np.float32, 'target')}

    def fitted(self) -> tuple[str, ...]:
        return ('text_lengths',)

    def finish_fields(
        self, fields: dict[str, Tensor], random_BU: Tensor, context: ReadingContext
    ) -> dict[str, Tensor]:
        import tensorflow as tf

        length_B = tf.reduce_sum(tf.cast(fields['text'] != 0, tf.float32), axis=1)
        return fields | {'excess': length_B - context.fitted['text_lengths'].mean}


@dataclasses.dataclass(frozen=True)
class LengthRegression:
    """The mean of a text's vector predicts how long the text is."""

    stream: str
    encode: Any = (('text', 'text'),)
    weight: float = 1.0

    def outputs(self, given: Pass) -> Array:
        (text,) = given.encodings
        return (text.pooled_BD.mean(1) - given.batch['excess']) ** 2 + 0 * given.step

    def loss(self, given: Pass, outputs: Array) -> tuple[Array, dict[str, Array]]:
        return outputs.mean(), {}

    def trained_spaces(self) -> dict[str, tuple[str, ...]]:
        return {}

    def check(self, setup: Setup, where: str) -> None:
        check_views(self, setup, where)

    def check_classes(self, counts: Mapping[str, int], setup: Setup, where: str) -> None:
        pass

    def num_negatives(self, batch_size: int) -> int:
        return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeanScore(SplitEvaluator):
    """The mean score of images with their texts, by the space's own similarity."""

    headline: ClassVar[str] = 'score'
    space: str

    def needs(self) -> dict[str, str]:
        return {'spaces': self.space}

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        examples = data.read_examples(self.dataset, self.split, 'caption', images=True)
        images = data.embedder.embed_images(self.space, examples)
        texts = data.embedder.embed_texts(self.space, [x['en'][0] for x in examples.texts])
        score_P = data.similarity(self.space).score_pairs(images, texts)
        return Evaluation({'en': {'score': float(score_P.mean())}}, len(examples.ids))

    def protocol(self) -> dict[str, Any]:
        return self.base_protocol() | {'name': 'mean score', 'space': self.space}


CATALOGS: list[tuple[dict[str, Any], str, Any]] = [
    (SIMILARITIES, 'divergence', Divergence),
    (OBJECTIVES, 'all_pairs_hinge', AllPairsHinge),
    (FITTED, 'text_lengths', TextLengths),
    (STREAMS, 'measured', MeasuredCaptions),
    (TASKS, 'length', LengthRegression),
    (EVALUATORS, 'mean_score', MeanScore),
]


def make_config() -> dict[str, Any]:
    """The tiny emoji config, with everything of its new kinds."""
    config = load_config('emoji:align,tiny', ['--config.schedule.num_steps=2'])
    stream = config['streams']['captions'] | {'kind': 'measured', 'languages': ('en',)}
    stream |= {'sources': {'main': {'dataset': 'captions/door'}}, 'batch_size': 8, 'text': {}}
    space = {key: x for key, x in config['spaces']['image_text'].items() if key != 'temperature'}
    split = {'dataset': 'captions/door', 'split': 'train', 'space': 'image_text'}
    return config | {
        'languages': {'all': ('en',)},
        'tokenizer': config['tokenizer'] | {'vocab_size': 300},
        'streams': {'captions': stream},
        'spaces': {'image_text': space | {'similarity': {'kind': 'divergence'}}},
        'tasks': {
            'image_text': config['tasks']['image_text']
            | {'objective': {'kind': 'all_pairs_hinge'}},
            'length': {'kind': 'length', 'stream': 'captions', 'weight': 0.1},
        },
        'evaluators': {
            'mean': split | {'kind': 'mean_score'},
            'retrieval': split | {'kind': 'image_text', 'text': 'caption'},
        },
    }


@pytest.fixture(scope='module')
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The scores of a run whose kinds this file adds."""
    folder = tmp_path_factory.mktemp('door')
    names = [f'{number}.png' for number in range(24)]
    images = {name: encode_image(draw_image(number)) for number, name in enumerate(names)}
    words = ['a', 'red', 'blue', 'green', 'small', 'large', 'cat', 'dog', 'bird', 'tree', 'house']
    rows = [
        (name, 'en', ' '.join(words[: 2 + number % 9]) + f' {words[number % 11]}')
        for number, name in enumerate(names)
    ]
    ingest_captions(folder / 'data', 'door', images, rows)
    config = make_config()
    with pytest.MonkeyPatch.context() as patch:
        for catalog, kind, added in CATALOGS:
            patch.setitem(catalog, kind, added)
        prepare(config, folder / 'data', {})
        train(config, folder / 'run', folder / 'data')
        restored = restore(folder / 'run')
        path = folder / 'run' / 'eval' / '2.json'
        scores.score(
            restored.run.evaluators,
            restored.run.languages,
            restored_split_data(restored, folder / 'data'),
            path,
        )
        lines = (folder / 'run' / 'metrics.jsonl').read_text().splitlines()
    return json.loads(path.read_text()) | {'logs': json.loads(lines[-1])}


def test_new_task_and_objective_train(results: dict[str, Any]) -> None:
    logs = results['logs']
    assert logs['step'] == 2
    assert np.isfinite([logs['image_text/loss'], logs['length/loss'], logs['gradient_norm']]).all()


def test_new_evaluator_scores_by_new_similarity(results: dict[str, Any]) -> None:
    assert results['results']['mean']['en']['score'] <= 0  # A negative divergence.


def test_retrieval_ranks_by_new_similarity(results: dict[str, Any]) -> None:
    row = results['results']['retrieval']['en']
    assert 0 <= row['mean_recall'] <= 100
    assert results['protocol']['retrieval']['items'] == 24


def test_new_objective_runs_around_the_ring() -> None:
    """Gathered and in tiles, by the new similarity too."""
    rng = np.random.default_rng(0)
    left, right = np.log(rng.dirichlet(np.ones(6), (2, 16)).astype(np.float32))
    ids = np.arange(16, dtype=np.int32)[:, None]

    def compute(objective: AllPairsHinge) -> Any:
        def loss(left: Any, right: Any) -> Any:
            return objective(Divergence(), left, right, ids, {})[0]

        return jax.value_and_grad(loss, argnums=(0, 1))(left, right)

    gathered, ring = (compute(AllPairsHinge(by=by, tile=4)) for by in ('gathered', 'ring'))
    for a, b in zip(jax.tree.leaves(gathered), jax.tree.leaves(ring)):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
