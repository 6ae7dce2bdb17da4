"""Made-up runs: scores, images and names from random numbers, without any model."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mural_jax.evaluation.evaluators.base import add_group_means, retrieval_metrics
from mural_jax.evaluation.metrics.bootstrap import QuerySamples
from mural_jax.evaluation.report.comparison import RunScores
from mural_jax.evaluation.report.page import ReportedRun
from mural_jax.evaluation.scores import CheckpointScores, compute_intervals

DIM = 8
CATS = ('cat', 'قطة', 'חתול', 'बिल्ली', '猫', 'кошка', 'แมว', 'ድመት')


def random_recalls(rng: np.random.Generator, skill: float, size: int) -> list[QuerySamples]:
    """Recalls of `size` queries in each direction; more skill means higher recall."""
    noise_N = rng.random(size)
    return [
        QuerySamples(
            np.arange(size, dtype=np.int32),
            {
                f'{way}_r{k}': (100 * (noise_N < skill * (1 + k / 10))).astype(np.float32)
                for k in (1, 5, 10)
            }
            | {f'{way}_mean_rank': (1 + 9 * noise_N).astype(np.float32)},
        )
        for way in ('image_to_text', 'text_to_image')
    ]


def make_scores(
    groups: dict[str, Sequence[str]], skill: float, size: int = 60, evaluators: int = 1
) -> RunScores:
    """Scores as `mural evaluate` writes them: retrieval, and one evaluator without languages."""
    scores, samples_of = CheckpointScores({}, {}, {}, {}), {}
    for number in range(evaluators):
        name = f'image_text/set{number}'
        samples = {
            language: random_recalls(np.random.default_rng([number, row]), skill, size)
            for row, language in enumerate(x for group in groups.values() for x in group)
        }
        scores.results[name] = add_group_means(retrieval_metrics(samples), groups)
        scores.intervals[name] = compute_intervals(samples, size, groups)
        scores.protocol[name] = {
            'name': 'one caption',
            'dataset': 'captions/made_up',
            'split': 'test',
            'space': 'image_text',
            'headline': 'mean_recall',
            'items': size,
            'chance': 5.0,
            'languages': list(samples),
        }
        samples_of[name] = size, samples
    scores.results['hidden'] = {'all': {'words': 12.5, 'match_auc': 0.75}}
    scores.protocol['hidden'] = {
        'name': 'hidden parts',
        'dataset': 'captions/made_up',
        'split': 'test',
        'headline': 'match_auc',
        'items': size,
        'chance': 5.0,
    }
    return RunScores(scores, samples_of)


def make_run(
    name: str, groups: dict[str, Sequence[str]], skill: float = 0.4, evaluators: int = 1
) -> ReportedRun:
    """A run with 29 steps of training metrics and one value of an evaluator among them."""
    lines = [
        {
            'step': step,
            'loss': 9 / step,
            'image_text/loss': 9 / step,
            'pairs_per_second': 100.0,
            'image_text/accuracy': step / 100,
        }
        for step in range(1, 30)
    ]
    lines[3:3] = [{'step': 3, 'eval/image_text/set0/mean_few/mean_recall': 3.0}]
    return ReportedRun(
        Path(name),
        30,
        '2026-01-02 03:04 UTC',
        make_scores(groups, skill, evaluators=evaluators),
        lines,
        {'languages': groups, 'seed': 0},
    )


class RandomIndex:
    """An index of random images with names in all languages; every fourth is a training image."""

    space = 'image_text'

    def __init__(self, languages: Sequence[str], size: int = 40):
        rng = np.random.default_rng(0)
        self.image_ND = normalize(rng.normal(size=(size, DIM)))
        self.names = [
            {x: f'{CATS[row % len(CATS)]} {i}' for row, x in enumerate(languages)}
            for i in range(size)
        ]
        self.splits = ['train' if i % 4 == 0 else 'test' for i in range(size)]
        self._images = [random_png(rng) for _ in range(size)]

    def read_image(self, number: int) -> bytes:
        return self._images[number]


class TargetEmbedder:
    """Embeds a text near to the image whose number ends it."""

    def __init__(self, index: RandomIndex, noise: float = 0.5):
        self.index, self.noise = index, noise

    def embed_texts(self, space: str, texts: list[str]) -> np.ndarray:
        rng = np.random.default_rng(len(texts))
        target_ND = self.index.image_ND[[int(text.split()[-1]) for text in texts]]
        return normalize(target_ND + self.noise * rng.normal(size=target_ND.shape))


def normalize(vector_ND: np.ndarray) -> np.ndarray:
    return (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)


def random_png(rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    noise = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((256, 256)).save(stream, 'PNG')
    return stream.getvalue()
