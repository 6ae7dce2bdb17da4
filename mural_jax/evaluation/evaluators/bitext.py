"""Translations found among sentences: accuracy of pairs, and mining of two sets."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mural_jax.evaluation.evaluators.base import ALL, Measured, Scored, languages_of, named
from mural_jax.evaluation.metrics import margin
from mural_jax.evaluation.metrics.bootstrap import Samples, means
from mural_jax.evaluation.metrics.margin import STRATEGY, K, Score, Strategy
from mural_jax.evaluation.metrics.ranking import Ranks, ranks
from mural_jax.evaluation.split_data import Items, Sources
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bitext(Measured):
    """How often a sentence's translation is the nearest of its set, in both directions, percent.

    The set of a language and a pivot is the examples with a sentence in both: of Tatoeba the 1,000
    or fewer of that language, of FLORES and NTREX all. A sentence is right where the nearest one
    is that of its own example, as LASER's similarity_search.py, XTREME's Tatoeba, MTEB's
    BitextMining (`accuracy`) and sentence-transformers' TranslationEvaluator count (sources read).
    These take one of equal scores, whichever; here each has its share, so a sentence that stands
    in the pivot t times counts 1 / t. MTEB's main score of these sets is another, `f1` weighted by
    label, which is never above the accuracy.

    pivots: named as the data does (`eng_Latn` in FLORES, `eng` in Tatoeba); they are not scored as
    languages. text: the kind, of which the first counts. score, k: see `margin`; with a margin
    the k nearest by cosine are candidates, as in LASER's search. task: in whose space.
    """

    task: str
    pivots: tuple[str, ...] = ('en',)
    text: str = 'sentence'
    score: Score = 'cosine'
    k: int = K

    def __post_init__(self) -> None:
        super().__post_init__()
        margin.check_score(self.score, self.k)
        if not self.pivots:
            raise UserError('pivots is empty: name the languages that translations are found in.')

    def needs(self) -> dict[str, str]:
        return {'tasks': self.task}

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        items = sources.items(self.dataset, self.split, self.text, images=False)
        firsts = items.names
        wanted = chosen(self, self.pivots, languages, items)
        # Each pivot once, not once a language.
        pivots = {pivot: Side.of(firsts, pivot, sources, self.task) for pivot in self.pivots}
        samples = {}
        for language in wanted:
            side = Side.of(firsts, language, sources, self.task)
            samples[language] = self._sampled(side, pivots, items, language)
        results = {language: means(own) for language, own in samples.items()}
        return Scored(results, len(items.ids), None, samples)

    def _sampled(
        self, side: 'Side', pivots: Mapping[str, 'Side'], items: Items, language: str
    ) -> list[Samples]:
        """Of a language, by pivot and, of several, over all."""
        one = len(pivots) == 1
        parts = []
        for pivot, other in pivots.items():
            found = named(items, [language, pivot], self)
            there_N, back_N = (
                (100 * ranked.found(1)).astype(np.float32)
                for ranked in self._ranks(side.rows(found), other.rows(found))
            )
            name, own = ('pivot', 'accuracy') if one else (pivot, f'{pivot}_accuracy')
            values: dict[str, np.ndarray] = {
                f'text_to_{name}_accuracy': there_N,
                f'{name}_to_text_accuracy': back_N,
                own: (there_N + back_N) / 2,
            }
            parts.append(Samples(np.array(found, np.int32), values))
        if one:
            return parts
        item_N = np.concatenate([part.item_N for part in parts])
        every_N = [part.values[f'{pivot}_accuracy'] for pivot, part in zip(pivots, parts)]
        return [*parts, Samples(item_N, {'accuracy': np.concatenate(every_N)})]

    def _ranks(self, text_ND: np.ndarray, pivot_ND: np.ndarray) -> tuple[Ranks, Ranks]:
        """Where the own translation ranks, from the text and from the pivot."""
        if self.score == 'cosine':
            own = list(np.arange(len(text_ND))[:, None])
            return ranks(text_ND, pivot_ND, own), ranks(pivot_ND, text_ND, own)
        there, back = margin.both_nearest(text_ND, pivot_ND, self.k)
        return (
            margin.own_ranks(there, margin.margins(there, back, self.score)),
            margin.own_ranks(back, margin.margins(back, there, self.score)),
        )

    def protocol(self) -> dict[str, Any]:
        kept = '' if self.score == 'cosine' else f' of the {self.k} nearest by cosine'
        return self.about() | {
            'name': 'bitext accuracy',
            'head': self.task,
            'pivots': list(self.pivots),
            'accuracy': 'percent of sentences whose best scored translation is that of their own '
            'example; mean over both directions and all pivots',
            'score': margin.in_words(self.score, self.k) + (kept and f'; the best{kept}'),
            'sentence': f'the first {self.text}',
            'gallery': 'the examples with a sentence in both languages',
            'ties': 'equal scores share: a sentence that stands t times in the gallery counts 1/t',
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mining(Measured):
    """How well the pairs among two sets of sentences are found, as in BUCC: F1, percent.

    The sets are the different sentences of a language and of the pivot; gold are the pairs of the
    examples with both, the other examples have one. Candidates, strategies and margins are those
    of LASER's mine_bitexts.py with `unify`, the threshold that of its bucc.py and of XTREME's
    utils_retrieve.py (sources read). These leave sentences that are repeated out of what is
    extracted, though not out of gold; here they stay, once.

    threshold: pairs that score at least that much are taken; None for the one with the best F1 on
    this very set, as those scripts do with the gold that they are given.
    """

    task: str
    pivot: str = 'en'
    text: str = 'sentence'
    score: Score = 'ratio'
    k: int = K
    strategy: Strategy = 'max'
    threshold: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        margin.check_score(self.score, self.k)
        if self.strategy not in STRATEGY:
            raise UserError(f'strategy={self.strategy!r} must be one of {", ".join(STRATEGY)}.')
        if not (self.threshold is None or isinstance(self.threshold, int | float)):
            raise UserError(f'threshold={self.threshold!r} must be a number, or None for the best.')

    def needs(self) -> dict[str, str]:
        return {'tasks': self.task}

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        items = sources.items(self.dataset, self.split, self.text, images=False)
        firsts = items.names
        wanted = chosen(self, (self.pivot,), languages, items)
        pivot = Side.of(firsts, self.pivot, sources, self.task)
        results, samples = {}, {}
        for language in wanted:
            side = Side.of(firsts, language, sources, self.task)
            gold = self._gold(items, language, side, pivot)
            results[language], samples[language] = self._scored(side, pivot, gold)
        return Scored(results, len(items.ids), None, samples)

    def _gold(
        self, items: Items, language: str, side: 'Side', pivot: 'Side'
    ) -> dict[tuple[int, int], int]:
        """{(text, sentence of the pivot): the first example with them}."""
        gold: dict[tuple[int, int], int] = {}
        for place in named(items, [language, self.pivot], self):
            gold.setdefault((side.row[place], pivot.row[place]), place)
        return gold

    def _scored(
        self, side: 'Side', pivot: 'Side', gold: Mapping[tuple[int, int], int]
    ) -> tuple[dict[str, float], list[Samples]]:
        """(metrics, whether each gold pair was found).

        Only recall is a mean over what every run has: precision is one over what a run took.
        """
        found = margin.mine(side.vector_UD, pivot.vector_UD, self.k, self.score, self.strategy)
        pairs = list(zip(found.left_P.tolist(), found.right_P.tolist()))
        threshold = self.threshold
        if threshold is None:
            right_P = np.array([pair in gold for pair in pairs])
            threshold = margin.best_threshold(found.score_P, right_P, len(gold))
        taken = {pair for pair, score in zip(pairs, found.score_P) if score >= threshold}
        hits = len(taken & gold.keys())
        metrics = {
            'f1': 200 * hits / (len(taken) + len(gold)),
            'precision': 100 * hits / max(len(taken), 1),
            'recall': 100 * hits / len(gold),
            'threshold': float(threshold),
        }
        recall_N = np.array([100 * (pair in taken) for pair in gold], np.float32)
        return metrics, [Samples(np.array([*gold.values()], np.int32), {'recall': recall_N})]

    def protocol(self) -> dict[str, Any]:
        best = 'the best F1 on this very set'
        return self.about() | {
            'name': 'bitext mining',
            'head': self.task,
            'pivot': self.pivot,
            'f1': 'harmonic mean of precision and recall of the pairs taken, percent',
            'score': margin.in_words(self.score, self.k),
            'candidates': f'the {self.k} nearest by cosine',
            'strategy': f'{self.strategy}: {STRATEGY[self.strategy]}',
            'threshold': best if self.threshold is None else self.threshold,
            'sentence': f'the first {self.text}; each different one counts once',
            'gold': 'examples with a sentence in both languages',
        }


@dataclasses.dataclass(frozen=True)
class Side:
    """The sentences of a language: each different one is embedded once, so equal ones tie.

    row: of an example with one, its row in vector_UD, float32 [U, D].
    """

    row: Mapping[int, int]
    vector_UD: np.ndarray

    @classmethod
    def of(
        cls, firsts: Sequence[Mapping[str, str]], language: str, sources: Sources, task: str
    ) -> 'Side':
        """`firsts`: the first text of each example by language."""
        unique: dict[str, int] = {}
        row = {
            place: unique.setdefault(texts[language], len(unique))
            for place, texts in enumerate(firsts)
            if texts.get(language)
        }
        return cls(row, sources.embedder.texts(task, list(unique)))

    def rows(self, places: Sequence[int]) -> np.ndarray:
        """The vectors of some examples, float32 [N, D]."""
        return self.vector_UD[[self.row[place] for place in places]]


def chosen(
    evaluator: Any, pivots: Sequence[str], languages: Sequence[str], items: Items
) -> list[str]:
    """The languages to score against the pivots, without these; of '*' those with pairs.

    Raises UserError where the data has no text in a pivot, and where no language is left.
    """
    known = items.languages
    where = f'{evaluator.dataset}:{evaluator.split}'
    missing = [pivot for pivot in pivots if pivot not in known]
    if missing:
        raise UserError(
            f'{where} has no {evaluator.text} in the pivot {", ".join(missing)}; it has '
            f'{", ".join(known[:40]) or "none at all"}. Name pivots as the data does (`eng_Latn` '
            'in FLORES, `eng` in Tatoeba), and the kind of text as it was ingested.'
        )
    wanted = [x for x in languages_of(evaluator, languages, items) if x not in pivots]
    paired = {
        pivot: {language for texts in items.texts if pivot in texts for language in texts}
        for pivot in pivots
    }
    if ALL in evaluator.languages:
        wanted = [x for x in wanted if all(x in found for found in paired.values())]
    for language in wanted:
        for pivot in pivots:
            if language not in paired[pivot]:
                named(items, [language, pivot], evaluator)  # Says so, before anything is embedded.
    if not wanted:
        raise UserError(
            f'{where} has no language to score against {", ".join(pivots)}: there is none with '
            'translations into each. Correct languages or pivots of the evaluator.'
        )
    return wanted
