"""Translations among sentences: accuracy on aligned sets, and mining of two unaligned sets."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from mural_jax.evaluation.evaluators.base import (
    ALL,
    Evaluation,
    SplitEvaluator,
    choose_languages,
    select_with_text,
)
from mural_jax.evaluation.metrics import margin
from mural_jax.evaluation.metrics.bootstrap import QuerySamples, mean_metrics
from mural_jax.evaluation.metrics.margin import STRATEGIES, K, Score, Strategy
from mural_jax.evaluation.metrics.ranking import Ranks, rank_queries
from mural_jax.evaluation.split_data import SplitData, SplitExamples
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class BitextSide:
    """The embedded sentences of a language.

    Every distinct sentence is embedded once, so equal sentences tie exactly.

    row: {example: its row in vector_UD} for the examples with a sentence in the language.
    vector_UD: float32 [U, D], the embeddings of the U distinct sentences.
    """

    row: Mapping[int, int]
    vector_UD: np.ndarray

    @classmethod
    def embed(
        cls, texts: Sequence[Mapping[str, str]], language: str, data: SplitData, space: str
    ) -> 'BitextSide':
        """Embeds a language; `texts` holds the first text of each example by language."""
        rows: dict[str, int] = {}
        row = {
            place: rows.setdefault(by_language[language], len(rows))
            for place, by_language in enumerate(texts)
            if by_language.get(language)
        }
        return cls(row, data.embedder.embed_texts(space, list(rows)))

    def take(self, places: Sequence[int]) -> np.ndarray:
        """Returns float32 [N, D], the embeddings of some examples."""
        return self.vector_UD[[self.row[place] for place in places]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitextAccuracy(SplitEvaluator):
    """How often a sentence's translation is its nearest, in both directions, in percent.

    The set of a language and a pivot is the examples with a sentence in both: for Tatoeba the
    1,000 or fewer of that language, for FLORES and NTREX all. A sentence is right if the nearest
    one belongs to its own example, as in LASER's similarity_search.py, XTREME's Tatoeba, MTEB's
    BitextMining (`accuracy`) and sentence-transformers' TranslationEvaluator (sources read).
    Those take any one of several equal scores; here each of them gets its share, so a sentence
    that stands in the pivot t times counts 1 / t. MTEB's main score of these sets is another,
    `f1` weighted by label, which never exceeds the accuracy.

    space: the space whose embeddings are compared.
    pivots: languages as the data names them (`eng_Latn` in FLORES, `eng` in Tatoeba); they are
    not scored as languages.
    text: the kind of text; the first text of that kind counts.
    score, k: see `metrics.margin`; with a margin only the k nearest by cosine are candidates, as
    in LASER's search.
    """

    headline: ClassVar[str] = 'accuracy'

    space: str
    pivots: tuple[str, ...] = ('en',)
    text: str = 'sentence'
    score: Score = 'cosine'
    k: int = K

    def __post_init__(self) -> None:
        super().__post_init__()
        margin.check_score(self.score, self.k)
        if not self.pivots:
            raise UserError('pivots is empty: name the languages that hold the translations.')

    def needs(self) -> dict[str, str]:
        return {'spaces': self.space}

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        data.require_dense(self.space)
        examples = data.read_examples(self.dataset, self.split, self.text, images=False)
        texts = examples.first_texts
        # Before anything is embedded, so that a wrong language costs no time.
        wanted = choose_paired_languages(self, self.pivots, languages, examples)
        # Pivots are embedded once, not once for each language.
        pivots = {pivot: BitextSide.embed(texts, pivot, data, self.space) for pivot in self.pivots}
        samples = {}
        for language in wanted:
            side = BitextSide.embed(texts, language, data, self.space)
            samples[language] = self._score(side, pivots, examples, language)
        results = {language: mean_metrics(own) for language, own in samples.items()}
        return Evaluation(results, len(examples.ids), None, samples)

    def _score(
        self,
        side: BitextSide,
        pivots: Mapping[str, BitextSide],
        examples: SplitExamples,
        language: str,
    ) -> list[QuerySamples]:
        """Returns the accuracies of a language for each pivot and, if several, over all pivots."""
        single = len(pivots) == 1
        parts = []
        for pivot, other in pivots.items():
            places = select_with_text(examples, [language, pivot], self)
            there_N, back_N = (
                (100 * ranks.hit_rate(1)).astype(np.float32)
                for ranks in self._rank(side.take(places), other.take(places))
            )
            # With one pivot the metrics do not name it, so that languages of several sets compare.
            name, mean = ('pivot', 'accuracy') if single else (pivot, f'{pivot}_accuracy')
            values: dict[str, np.ndarray] = {
                f'text_to_{name}_accuracy': there_N,
                f'{name}_to_text_accuracy': back_N,
                mean: (there_N + back_N) / 2,
            }
            parts.append(QuerySamples(np.array(places, np.int32), values))
        if single:
            return parts
        # The mean over the sentences of all pivots has all their queries, so samples of its own.
        item_N = np.concatenate([part.item_N for part in parts])
        accuracies = [part.values[f'{pivot}_accuracy'] for pivot, part in zip(pivots, parts)]
        return [*parts, QuerySamples(item_N, {'accuracy': np.concatenate(accuracies)})]

    def _rank(self, text_ND: np.ndarray, pivot_ND: np.ndarray) -> tuple[Ranks, Ranks]:
        """Returns the ranks of the translations, from the texts and from the pivot."""
        if self.score == 'cosine':
            # The translation of a sentence has the same number.
            own = list(np.arange(len(text_ND))[:, None])
            return rank_queries(text_ND, pivot_ND, own), rank_queries(pivot_ND, text_ND, own)
        there, back = margin.find_both_neighbours(text_ND, pivot_ND, self.k)
        return (
            margin.rank_own(there, margin.margin_scores(there, back, self.score)),
            margin.rank_own(back, margin.margin_scores(back, there, self.score)),
        )

    def protocol(self) -> dict[str, Any]:
        candidates = f'; the best of the {self.k} nearest by cosine'
        return self.base_protocol() | {
            'name': 'bitext accuracy',
            'space': self.space,
            'pivots': list(self.pivots),
            'accuracy': 'percent of sentences whose best scored translation is that of their own '
            'example; mean over both directions and all pivots',
            'score': margin.describe_score(self.score, self.k)
            + ('' if self.score == 'cosine' else candidates),
            'sentence': f'the first {self.text}',
            'gallery': 'the examples with a sentence in both languages',
            'ties': 'equal scores share: a sentence that stands t times in the gallery counts 1/t',
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class BitextMining(SplitEvaluator):
    """How well the pairs among two sets of sentences are found, as in BUCC: F1 in percent.

    The sets are the distinct sentences of a language and of the pivot. Examples with both are the
    gold pairs, the other examples have one of the two. Candidates, strategies and margins are
    those of LASER's mine_bitexts.py with `unify`, the threshold is that of its bucc.py and of
    XTREME's utils_retrieve.py (sources read). Those scripts drop repeated sentences from the mined
    pairs, though not from gold; here each of them stays, once.

    space: the space whose embeddings are compared.
    threshold: the lowest score of a mined pair; None for the threshold with the best F1 on this
    very set, as those scripts choose it with the gold they are given.
    """

    headline: ClassVar[str] = 'f1'

    space: str
    pivot: str = 'en'
    text: str = 'sentence'
    score: Score = 'ratio'
    k: int = K
    strategy: Strategy = 'max'
    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        margin.check_score(self.score, self.k)
        if self.strategy not in STRATEGIES:
            raise UserError(f'strategy={self.strategy!r} must be one of {", ".join(STRATEGIES)}.')
        if not (self.threshold is None or isinstance(self.threshold, int | float)):
            raise UserError(f'threshold={self.threshold!r} must be a number, or None for the best.')

    def needs(self) -> dict[str, str]:
        return {'spaces': self.space}

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        data.require_dense(self.space)
        examples = data.read_examples(self.dataset, self.split, self.text, images=False)
        texts = examples.first_texts
        wanted = choose_paired_languages(self, (self.pivot,), languages, examples)
        pivot = BitextSide.embed(texts, self.pivot, data, self.space)
        results, samples = {}, {}
        for language in wanted:
            side = BitextSide.embed(texts, language, data, self.space)
            gold = self._find_gold(examples, language, side, pivot)
            results[language], samples[language] = self._score(side, pivot, gold)
        return Evaluation(results, len(examples.ids), None, samples)

    def _find_gold(
        self, examples: SplitExamples, language: str, side: BitextSide, pivot: BitextSide
    ) -> dict[tuple[int, int], int]:
        """Returns {(row of the text, row of the pivot's sentence): the first such example}."""
        # Equal sentences share a row, so several examples may be one gold pair.
        gold: dict[tuple[int, int], int] = {}
        for place in select_with_text(examples, [language, self.pivot], self):
            gold.setdefault((side.row[place], pivot.row[place]), place)
        return gold

    def _score(
        self, side: BitextSide, pivot: BitextSide, gold: Mapping[tuple[int, int], int]
    ) -> tuple[dict[str, float], list[QuerySamples]]:
        """Returns (metrics, whether each gold pair was mined).

        Only recall has samples: its queries, the gold pairs, are the same in every run, while
        precision is a mean over the pairs that one run mined.
        """
        mined = margin.mine_pairs(
            side.vector_UD, pivot.vector_UD, self.k, self.score, self.strategy
        )
        pairs = list(zip(mined.left_P.tolist(), mined.right_P.tolist()))
        threshold = self.threshold
        if threshold is None:
            # This looks at the answers, as the published scripts do; the protocol says so.
            right_P = np.array([pair in gold for pair in pairs])
            threshold = margin.choose_threshold(mined.score_P, right_P, len(gold))
        taken = {pair for pair, score in zip(pairs, mined.score_P) if score >= threshold}
        hits = len(taken & gold.keys())
        metrics = {
            # 2PR / (P + R) with P = hits / taken and R = hits / gold.
            'f1': 200 * hits / (len(taken) + len(gold)),
            'precision': 100 * hits / max(len(taken), 1),
            'recall': 100 * hits / len(gold),
            'threshold': float(threshold),
        }
        recall_N = np.array([100 * (pair in taken) for pair in gold], np.float32)
        return metrics, [QuerySamples(np.array([*gold.values()], np.int32), {'recall': recall_N})]

    def protocol(self) -> dict[str, Any]:
        best = 'the best F1 on this very set'
        return self.base_protocol() | {
            'name': 'bitext mining',
            'space': self.space,
            'pivot': self.pivot,
            'f1': 'harmonic mean of precision and recall of the mined pairs, percent',
            'score': margin.describe_score(self.score, self.k),
            'candidates': f'the {self.k} nearest by cosine',
            'strategy': f'{self.strategy}: {STRATEGIES[self.strategy]}',
            'threshold': best if self.threshold is None else self.threshold,
            'sentence': f'the first {self.text}; each different one counts once',
            'gold': 'examples with a sentence in both languages',
        }


def choose_paired_languages(
    evaluator: Any, pivots: Sequence[str], languages: Sequence[str], examples: SplitExamples
) -> list[str]:
    """Returns the languages to score against the pivots, which are not among them.

    '*' stands for the languages with translations into every pivot. Raises UserError if the data
    has no text in a pivot, and if no language is left.
    """
    # Messages name what the data has, because every set names languages in its own way.
    known = examples.languages
    missing = [pivot for pivot in pivots if pivot not in known]
    if missing:
        raise UserError(
            f'{evaluator.where} has no {evaluator.text} in the pivot {", ".join(missing)}; it has '
            f'{", ".join(known[:40]) or "none at all"}. Name pivots as the data does (`eng_Latn` '
            'in FLORES, `eng` in Tatoeba), and the kind of text as it was ingested.'
        )
    wanted = [x for x in choose_languages(evaluator, languages, examples) if x not in pivots]
    paired = {
        # Languages that share at least one example with a pivot.
        pivot: {language for texts in examples.texts if pivot in texts for language in texts}
        for pivot in pivots
    }
    if ALL in evaluator.languages:
        wanted = [x for x in wanted if all(x in own for own in paired.values())]
    for language in wanted:
        for pivot in pivots:
            if language not in paired[pivot]:
                # Raises the error here, before anything is embedded.
                select_with_text(examples, [language, pivot], evaluator)
    if not wanted:
        raise UserError(
            f'{evaluator.where} has no language to score against {", ".join(pivots)}: none has '
            "translations into each of them. Correct the evaluator's languages or pivots."
        )
    return wanted
