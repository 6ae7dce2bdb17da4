"""Retrieval by a model that encodes a text and an image together."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mural_jax.evaluation.evaluators.base import (
    Evaluation,
    SplitEvaluator,
    choose_languages,
    require_gallery_size,
    retrieval_metrics,
    select_with_text,
)
from mural_jax.evaluation.evaluators.retrieval import describe_gallery
from mural_jax.evaluation.metrics.bootstrap import QuerySamples
from mural_jax.evaluation.metrics.ranking import take_rows
from mural_jax.evaluation.metrics.recall import PROTOCOL, RANKS, recall_of_scores
from mural_jax.evaluation.split_data import SplitData, SplitExamples
from mural_jax.types import UserError

BEHIND = 1e6  # subtracted from cosines, so that they rank below every matching score (ours)


@dataclasses.dataclass(frozen=True)
class Reranking:
    """Joint passes for the k nearest by a dual encoder only; the others rank behind them.

    k: number of nearest items that are scored again; 0 scores all pairs.
    space: the space in which the dual encoder compares.
    workdir: the run of the dual encoder, at its newest checkpoint; '' for the scored model itself.
    """

    k: int = 0
    space: str = 'image_text'
    workdir: str = ''

    def __post_init__(self) -> None:
        if 0 < self.k < max(RANKS):
            raise UserError(
                f'rerank.k={self.k} is smaller than {max(RANKS)}, the largest K of the metrics, '
                'so R@K would measure the dual encoder. Give at least that, or 0 to score all '
                'pairs.'
            )


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrossEncoder(SplitEvaluator):
    """Retrieval by the matching score of every text with every image, one pass for each pair.

    The gallery of a language is the images with a text in it, each with its first text.

    text: the kind of text.
    gallery: number of images in the gallery, the first of the split; 0 for all.
    rerank: scores only the candidates of a dual encoder.
    """

    headline: ClassVar[str] = 'mean_recall'
    joint: ClassVar[bool] = True

    text: str = 'caption'
    gallery: int = 0
    rerank: Reranking = Reranking()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.every and self.rerank.workdir:
            raise UserError(
                f'every={self.every} and rerank.workdir={self.rerank.workdir!r}: another run '
                'cannot be opened during training. Set every=0, and score with `mural evaluate`.'
            )

    def needs(self) -> dict[str, str]:
        # With another run as the first stage, the space is that run's.
        own = self.rerank.k and not self.rerank.workdir
        return {'spaces': self.rerank.space} if own else {}

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        examples = self._read(data)
        first_stage = None
        if self.rerank.k:
            other = data.open_run(self.rerank.workdir) if self.rerank.workdir else data
            # The other run may take images of another size, so it decodes its own.
            first_stage = other, decode_all(self._read(other))
        # Decoded once for all languages, since every image is scored with many texts.
        visual = decode_all(examples)
        samples, costs = {}, {}
        for language in choose_languages(self, languages, examples):
            places = select_with_text(examples, [language], self)[: self.gallery or None]
            require_gallery_size(len(places), self, language)
            texts = [examples.texts[i][language][0] for i in places]
            both, costs[language] = self._score(data, texts, visual, places, first_stage)
            samples[language] = [one.map_items(places) for one in both]
        metrics = retrieval_metrics(samples)
        results = {language: row | costs[language] for language, row in metrics.items()}
        return Evaluation(results, len(examples.ids), None, samples)

    def _read(self, data: SplitData) -> SplitExamples:
        return data.read_examples(self.dataset, self.split, self.text, images=True)

    def _score(
        self,
        data: SplitData,
        texts: list[str],
        visual: Any,
        places: list[int],
        first_stage: tuple[SplitData, Any] | None,
    ) -> tuple[list[QuerySamples], dict[str, float]]:
        """Returns (recalls of a language, number and seconds of passes).

        first_stage: (the dual encoder, its images of the whole split), None to score all pairs.
        """
        started = time.perf_counter()
        # Rows are texts and columns images; pairs that nobody scores stay behind all others.
        score_NN = np.full((len(places), len(places)), -np.inf, np.float32)
        # All pairs, row after row.
        pair_P2 = np.indices(score_NN.shape).reshape(2, -1).T
        if first_stage:
            other, seen = first_stage
            score_NN, pair_P2 = self._find_candidates(other, texts, take_rows(seen, places))
        encoded = time.perf_counter()
        own_visual = take_rows(visual, places)
        score_NN[tuple(pair_P2.T)] = data.embedder.match_scores(texts, own_visual, pair_P2)
        ended = time.perf_counter()
        return recall_of_scores(score_NN, 'text', 'image'), {
            'passes': len(pair_P2) + (2 * len(places) if first_stage else 0),
            'seconds_to_encode': encoded - started,
            'seconds_to_score': ended - encoded,
        }

    def _find_candidates(
        self, data: SplitData, texts: list[str], visual: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns (scores of all pairs below every matching score, int [P, 2] pairs to score).

        A pair is scored again if either side is among the k nearest of the other.
        """
        space = self.rerank.space
        embedded = data.embedder.embed_texts(space, texts)
        images = data.embedder.embed_decoded(space, visual)
        # Images are the left side of the space, texts are the rows here.
        score_NN = np.array(data.similarity(space).score(images, embedded)).T
        near_NN = np.zeros(score_NN.shape, bool)
        k = min(self.rerank.k, len(texts))
        # Rows are texts, then (transposed views of the same memory) images.
        # Both directions need their candidates: recall is measured in both.
        for near, scores in ((near_NN, score_NN), (near_NN.T, score_NN.T)):
            best_NK = np.argpartition(-scores, k - 1, axis=1)[:, :k]
            np.put_along_axis(near, best_NK, True, axis=1)
        return score_NN - BEHIND, np.argwhere(near_NN)

    def protocol(self) -> dict[str, Any]:
        own = {
            'name': 'one caption',
            'captions_per_image': 1,
            'caption': f'the first {self.text}, without a prompt',
            'gallery': describe_gallery(self.text, self.gallery),
            'score': 'the matching head over a joint pass',
            'reranked': dataclasses.asdict(self.rerank) if self.rerank.k else 'all pairs',
            'seconds': 'to embed for the first ranking, and for the joint passes',
        }
        return PROTOCOL | self.base_protocol() | own


def decode_all(examples: SplitExamples) -> Any:
    """Returns all images of a split as the model takes them."""
    return examples.decode(0, len(examples.pngs))
