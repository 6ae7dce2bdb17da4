"""Runs that nobody trained: scores, pictures and names made of random numbers."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mural_jax.evaluation.evaluators.base import Scored, retrieved, with_means
from mural_jax.evaluation.metrics.bootstrap import Samples
from mural_jax.evaluation.report.comparison import Measured
from mural_jax.evaluation.report.page import Reported
from mural_jax.evaluation.scores import Found, intervals

DIM = 8
SCRIPTS = ('cat', 'قطة', 'חתול', 'बिल्ली', '猫', 'кошка', 'แมว', 'ድመት')


def retrieval(rng: np.random.Generator, skill: float, size: int) -> list[Samples]:
    """Recalls of `size` queries in each direction; of more skill, more are found."""
    noise_N = rng.random(size)
    return [
        Samples(
            np.arange(size, dtype=np.int32),
            {f'{way}_r{k}': (100 * (noise_N < skill * (1 + k / 10))).astype(np.float32)
             for k in (1, 5, 10)} | {f'{way}_mean_rank': (1 + 9 * noise_N).astype(np.float32)},
        )
        for way in ('image_to_text', 'text_to_image')
    ]  # fmt: skip


def measured(
    groups: dict[str, Sequence[str]], skill: float, size: int = 60, evaluators: int = 1
) -> Measured:
    """Scores as `mural evaluate` writes them: retrieval, and one evaluator without languages."""
    found, kept = Found({}, {}, {}, {}), {}
    for number in range(evaluators):
        name = f'image_text/set{number}'
        samples = {
            language: retrieval(np.random.default_rng([number, row]), skill, size)
            for row, language in enumerate(x for group in groups.values() for x in group)
        }
        scored = Scored(retrieved(samples), size, None, samples)
        found.results[name] = with_means(scored.results, groups)
        found.intervals[name] = intervals(samples, size, groups)
        found.protocol[name] = {
            'name': 'one caption', 'dataset': 'captions/made_up', 'split': 'test',
            'head': 'image_text', 'items': size, 'chance': 5.0, 'languages': list(samples),
        }  # fmt: skip
        kept[name] = size, samples
    found.results['hidden'] = {'all': {'words': 12.5, 'match_auc': 0.75}}
    found.protocol['hidden'] = {'name': 'hidden parts', 'dataset': 'captions/made_up',
                                'split': 'test', 'items': size, 'chance': 5.0}  # fmt: skip
    return Measured(found, kept)


def run(
    name: str, groups: dict[str, Sequence[str]], skill: float = 0.4, evaluators: int = 1
) -> Reported:
    lines = [
        {'step': step, 'loss': 9 / step, 'image_text/loss': 9 / step, 'pairs_per_second': 100.0,
         'image_text/accuracy': step / 100}
        for step in range(1, 30)
    ]  # fmt: skip
    lines[3:3] = [{'step': 3, 'eval/image_text/set0/mean_few/mean_recall': 3.0}]
    return Reported(
        Path(name), 30, '2026-01-02 03:04 UTC', measured(groups, skill, evaluators=evaluators),
        lines, {'languages': groups, 'seed': 0},
    )  # fmt: skip


class Index:
    """Pictures named in all languages: noise, each another one, every fourth a training one."""

    task = 'image_text'

    def __init__(self, languages: Sequence[str], size: int = 40):
        rng = np.random.default_rng(0)
        self.image_ND = unit(rng.normal(size=(size, DIM)))
        self.names = [
            {x: f'{SCRIPTS[row % len(SCRIPTS)]} {i}' for row, x in enumerate(languages)}
            for i in range(size)
        ]
        self.splits = ['train' if i % 4 == 0 else 'test' for i in range(size)]
        self.pngs = [png(rng) for _ in range(size)]


class Embedder:
    """Texts near to the picture whose number ends them."""

    def __init__(self, index: Index, noise: float = 0.5):
        self.index, self.noise = index, noise

    def texts(self, task: str, texts: list[str]) -> np.ndarray:
        rng = np.random.default_rng(len(texts))
        right_ND = self.index.image_ND[[int(text.split()[-1]) for text in texts]]
        return unit(right_ND + self.noise * rng.normal(size=right_ND.shape))


def unit(vector_ND: np.ndarray) -> np.ndarray:
    return (vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)).astype(np.float32)


def png(rng: np.random.Generator) -> bytes:
    stream = io.BytesIO()
    noise = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((256, 256)).save(stream, 'PNG')
    return stream.getvalue()
