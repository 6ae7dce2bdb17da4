"""Evaluators of a model that takes a text and a picture together."""

import dataclasses
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from mural_jax.evaluation.embed import Embedder
from mural_jax.evaluation.evaluators.base import (
    Measured,
    Scored,
    enough,
    languages_of,
    named,
    retrieved,
)
from mural_jax.evaluation.evaluators.retrieval import gallery_of
from mural_jax.evaluation.metrics.bootstrap import Samples
from mural_jax.evaluation.metrics.recall import PROTOCOL, RANKS, both_ways_of
from mural_jax.evaluation.split_data import Items, Sources
from mural_jax.models.functional import Params, merge
from mural_jax.types import Array, UserError


@dataclasses.dataclass(frozen=True)
class Rerank:
    """The k nearest by a dual encoder are scored again, the others stay behind them.

    k: 0 for none, all pairs are scored. task: of the dual encoder, in whose space it compares.
    workdir: of its run, at its newest checkpoint; empty for the model itself.
    """

    k: int = 0
    task: str = 'image_text'
    workdir: str = ''

    def __post_init__(self) -> None:
        if 0 < self.k < max(RANKS):
            raise UserError(
                f'rerank.k={self.k} is smaller than {max(RANKS)}, the largest K of the metrics: '
                'the recall there would be that of what was not ranked again. Give at least that, '
                'or 0 to score all pairs.'
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEncoder(Measured):
    """Retrieval by the matching score of every text with every picture, one pass for each pair.

    The gallery of a language is the pictures with a text in it; of several the first one of the
    kind `text` is taken. gallery: so many pictures, the first; 0 for all. rerank: only the best of
    a dual encoder are scored.
    """

    text: str = 'caption'
    gallery: int = 0
    rerank: Rerank = Rerank()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every and self.rerank.workdir:
            raise UserError(
                f'every={self.every} and rerank.workdir={self.rerank.workdir!r}: another run is '
                'not opened while one trains. Set every=0, and score it with `mural evaluate`.'
            )

    def needs(self) -> dict[str, str]:
        own = self.rerank.k and not self.rerank.workdir
        return {'tasks': self.rerank.task} if own else {}

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        items = self._items(sources)
        near = None
        if self.rerank.k:
            other = sources.open(self.rerank.workdir) if self.rerank.workdir else sources
            near = other.embedder, decode_all(self._items(other))
        visual = decode_all(items)
        samples, costs = {}, {}
        for language in languages_of(self, languages, items):
            found = named(items, [language], self)[: self.gallery or None]
            enough(len(found), self, language)
            texts = [items.texts[i][language][0] for i in found]
            scored, costs[language] = self._score(sources, texts, visual, found, near)
            samples[language] = [s.among(found) for s in scored]
        results = {language: row | costs[language] for language, row in retrieved(samples).items()}
        return Scored(results, len(items.ids), None, samples)

    def _items(self, sources: Sources) -> Items:
        return sources.items(self.dataset, self.split, self.text, images=True)

    def _score(
        self, sources: Sources, texts: list[str], visual: Any, found: list[int],
        near: tuple[Embedder, Any] | None,
    ) -> tuple[list[Samples], dict[str, float]]:  # fmt: skip
        """(recalls of a language, what they cost)."""
        started = time.perf_counter()
        score_NN = np.full((len(found), len(found)), -np.inf, np.float32)
        pairs = np.indices(score_NN.shape).reshape(2, -1).T
        if near:
            embedder, seen = near
            score_NN, pairs = self._nearest(embedder, texts, rows_of(seen, found))
        encoded = time.perf_counter()
        tokens_NL = sources.embedder.tokenize(texts)
        matches = _Matches(sources.embedder.model, tokens_NL, rows_of(visual, found))
        score_NN[tuple(pairs.T)] = matches(pairs)
        ended = time.perf_counter()
        return both_ways_of(score_NN, 'text', 'image'), {
            'passes': len(pairs) + (2 * len(found) if near else 0),
            'seconds_to_encode': encoded - started,
            'seconds_to_score': ended - encoded,
        }

    def _nearest(
        self, embedder: Embedder, texts: list[str], visual: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores of a dual encoder, below every matching score; pairs of the k nearest).

        A pair is scored again where either side is among the k nearest of the other.
        """
        task = self.rerank.task
        text_ND, image_ND = embedder.texts(task, texts), embedder.visual(task, visual)
        score_NN = text_ND @ image_ND.T
        near_NN = np.zeros(score_NN.shape, bool)
        k = min(self.rerank.k, len(texts))
        for near, scores in ((near_NN, score_NN), (near_NN.T, score_NN.T)):
            best_NK = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            np.put_along_axis(near, best_NK, True, axis=1)
        return score_NN - 1e6, np.argwhere(near_NN)

    def protocol(self) -> dict[str, Any]:
        return PROTOCOL | self.about() | {
            'name': 'one caption',
            'captions_per_image': 1,
            'caption': f'the first {self.text}, without a prompt',
            'gallery': gallery_of(self.text, self.gallery),
            'score': 'the matching head over a joint pass',
            'reranked': dataclasses.asdict(self.rerank) if self.rerank.k else 'all pairs',
            'seconds': 'to embed for the ranking before, and for the joint passes',
        }  # fmt: skip


class _Matches:
    """Matching scores of pairs of texts and pictures, in batches of one shape."""

    SIZE = 512  # pairs in a pass

    def __init__(self, model: Any, text_NL: np.ndarray, visual: Any):
        self._model, self._text_NL, self._visual = model, text_NL, visual

    def __call__(self, pairs: np.ndarray) -> np.ndarray:
        """int [P, 2] of (text, picture) -> float32 [P]."""
        graphdef, *arrays = self._model
        scores = np.empty(len(pairs), np.float32)
        for start in range(0, len(pairs), self.SIZE):
            part = pairs[start : start + self.SIZE]
            filled = np.resize(part, (self.SIZE, 2))
            text_BL, picture = self._text_NL[filled[:, 0]], rows_of(self._visual, filled[:, 1])
            found = _match(graphdef, *arrays, text_BL, picture)
            scores[start : start + self.SIZE] = np.asarray(found)[: len(part)]
        return scores


@partial(jax.jit, static_argnums=(0,))
def _match(
    graphdef: Any, params: Params, statistics: Params, text_BL: Array, picture: Any
) -> Array:
    model = merge(graphdef, params, statistics)
    return model.matches(model.encode('joint', (text_BL, picture)))


def decode_all(items: Items) -> Any:
    """All pictures of a split, as the model takes them."""
    return items.decode(0, len(items.png))


def rows_of(visual: Any, rows: Any) -> Any:
    """Some pictures of many: an array, or tags and regions."""
    return jax.tree.map(lambda array: array[rows], visual)
