"""What is measured: each evaluator scores languages on one prepared split.

Results are {language: {metric: value}}, recalls and accuracies in percent.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np

from mural_jax.evaluation.retrieval import (
    PROTOCOL,
    RANKS,
    both_ways,
    combined,
    mean_over,
    medians,
)
from mural_jax.evaluation.samples import Samples, means
from mural_jax.evaluation.sources import Items, Sources
from mural_jax.types import UserError

Results = dict[str, dict[str, float]]
MEAN = 'mean_'  # before the name of a group, as a language of results
ALL = '*'  # the languages of the data, whatever they are


class Gallery(NamedTuple):
    """Pictures that an evaluator embedded on the way, float32 [N, D], in the space of a task."""

    items: Items
    image_ND: np.ndarray
    dataset: str
    split: str
    task: str


class Scored(NamedTuple):
    """What an evaluator found.

    size: of the whole gallery. samples: what the results are means of, by language, where they
    are: intervals are drawn from it.
    """

    results: Results
    size: int
    gallery: Gallery | None = None
    samples: Mapping[str, Sequence[Samples]] = {}


class Evaluator(Protocol):
    """Scores a model in some languages, and says by which protocol.

    `needs`: what it names of its run, such as {'tasks': 'image_text'}. `languages`: its own, none
    for those of the config, '*' for all that the data has. `every`: so many steps while a run
    trains, 0 for never.
    """

    @property
    def dataset(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def languages(self) -> tuple[str, ...]: ...

    @property
    def every(self) -> int: ...

    def needs(self) -> dict[str, str]: ...

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored: ...

    def protocol(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """What all evaluators have.

    dataset, split: what is scored. languages, every: see Evaluator.
    """

    dataset: str
    split: str
    languages: tuple[str, ...] = ()
    every: int = 0

    def __post_init__(self) -> None:
        if self.every < 0:
            raise UserError(f'every={self.every} must be a number of steps, or 0 for never.')

    def about(self) -> dict[str, Any]:
        """What every protocol says."""
        return {'dataset': self.dataset, 'split': self.split}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageText(Measured):
    """Pictures by their text and texts by their picture, one language at a time.

    The gallery of a language is the pictures of the split that have a text in it; examples with the
    same id are one picture.

    captions: the first text of a picture, or all of the kind `text`, of which each is a query.
    gallery: so many pictures, the first; 0 for all. fold: galleries of so many pictures, over which
    the mean is taken (COCO 1K: 1000); 0 for one. prompt: what a text is put into, such as "a photo
    of {}".
    """

    task: str
    text: str = 'name'
    captions: Literal['first', 'all'] = 'first'
    gallery: int = 0
    fold: int = 0
    prompt: str = '{}'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.captions not in ('first', 'all'):
            raise UserError(f"captions={self.captions!r} must be 'first' or 'all'.")
        if '{}' not in self.prompt:
            raise UserError(f'prompt={self.prompt!r} must hold {{}}, where the text goes.')

    def needs(self) -> dict[str, str]:
        return {'tasks': self.task}

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        items = sources.items(self.dataset, self.split, self.text, images=True)
        embedder = sources.embedder
        image_ND = embedder.images(self.task, items)
        samples = {}
        for language in languages_of(self, languages, items, max(RANKS)):
            found, texts = self._gallery(items, language)
            owner_M = np.repeat(np.arange(len(found)), [len(own) for own in texts])
            flat = [self.prompt.replace('{}', text) for own in texts for text in own]
            text_MD = embedder.texts(self.task, flat)
            enough(self.fold or len(found), self, language)
            scored = both_ways(image_ND[found], text_MD, owner_M, 'image', 'text', self.fold)
            # Pictures are drawn again, in whatever language: the same ones in all.
            samples[language] = [s.among(found) for s in scored]
        gallery = Gallery(items, image_ND, self.dataset, self.split, self.task)
        return Scored(retrieved(samples), len(items.ids), gallery, samples)

    def _gallery(self, items: Items, language: str) -> tuple[list[int], list[list[str]]]:
        """(pictures with a text in a language, the texts of each)."""
        places: dict[str, int] = {}
        texts: dict[int, list[str]] = {}
        for place in named(items, [language], self):
            first = places.setdefault(items.ids[place], place)
            texts.setdefault(first, []).extend(items.texts[place][language])
        found = list(texts)[: self.gallery or None]
        if self.fold and len(found) < self.fold:
            raise UserError(
                f'{self.dataset}:{self.split} has {len(found)} pictures with a {self.text} in '
                f'{language}, fewer than fold={self.fold}. Make it smaller, or 0 for one gallery.'
            )
        one = 1 if self.captions == 'first' else None
        return found, [texts[place][:one] for place in found]

    def protocol(self) -> dict[str, Any]:
        which = 'the first' if self.captions == 'first' else 'every'
        more = {'folds': f'galleries of {self.fold} pictures, their mean'} if self.fold else {}
        return PROTOCOL | self.about() | more | {
            'name': 'one caption' if self.captions == 'first' else 'all captions',
            'head': self.task,
            'captions_per_image': 1 if self.captions == 'first' else 'all',
            'caption': f'{which} {self.text}, '
            + ('without a prompt' if self.prompt == '{}' else f'in the prompt {self.prompt!r}'),
            'relevance': 'by the id of the picture',
            'gallery': gallery_of(self.text, self.gallery),
        }  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextText(Measured):
    """Texts of the kind `text` by their translation, from and to the language `pivot`."""

    task: str
    pivot: str = 'en'
    text: str = 'name'

    def needs(self) -> dict[str, str]:
        return {'tasks': self.task}

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        items = sources.items(self.dataset, self.split, self.text, images=False)
        names, embedder = items.names, sources.embedder
        samples = {}
        for language in languages_of(self, languages, items, max(RANKS)):
            if language == self.pivot:
                continue
            found = named(items, [language, self.pivot], self)
            text_ND, pivot_ND = (
                embedder.texts(self.task, [names[i][side] for i in found])
                for side in (language, self.pivot)
            )
            enough(len(found), self, language)
            scored = both_ways(text_ND, pivot_ND, np.arange(len(found)), 'text', 'pivot')
            samples[language] = [s.among(found) for s in scored]
        return Scored(retrieved(samples), len(items.ids), None, samples)

    def protocol(self) -> dict[str, Any]:
        return PROTOCOL | self.about() | {
            'name': 'translation retrieval',
            'head': self.task,
            'pivot': self.pivot,
            'gallery': f'the first {self.text} of what has one in both languages',
        }  # fmt: skip


def retrieved(samples: Mapping[str, Sequence[Samples]]) -> Results:
    """The metrics of retrieval by language."""
    return {
        language: combined(means(scored)) | medians(scored) for language, scored in samples.items()
    }


def languages_of(
    evaluator: Evaluator, languages: Sequence[str], items: Items, least: int = 1
) -> Sequence[str]:
    """The languages that an evaluator scores: its own, or those of the config that are given.

    least: of all languages of the data, those that so many items have a text in. Raises UserError
    where a language of its own has no text in the data.
    """
    if ALL in evaluator.languages:
        counts = Counter(language for texts in items.texts for language in texts)
        return [language for language in items.languages if counts[language] >= least]
    missing = [language for language in evaluator.languages if language not in items.languages]
    if missing:
        raise UserError(
            f'{evaluator.dataset}:{evaluator.split} has no text in {", ".join(missing)}; it has '
            f'{", ".join(items.languages[:40])}. Correct languages of the evaluator.'
        )
    return evaluator.languages or languages


def named(items: Items, languages: Sequence[str], evaluator: Any) -> list[int]:
    """The items with a text in all of the languages. Raises UserError where there is none."""
    found = [i for i, texts in enumerate(items.texts) if all(texts.get(x) for x in languages)]
    if not found:
        raise UserError(
            f'{evaluator.dataset}:{evaluator.split} has no {evaluator.text} in '
            f'{" and ".join(languages)}, so there is nothing to score. '
            'Take the language out of config.languages.'
        )
    return found


def enough(count: int, evaluator: Evaluator, language: str) -> None:
    """Raises UserError where a gallery of so many is smaller than a K of R@K."""
    if count < max(RANKS):
        where = f'{evaluator.dataset}:{evaluator.split}'.rstrip(':')
        raise UserError(
            f'{where} has a gallery of {count} in {language}, and R@{max(RANKS)} of that is 100 '
            'whatever the model does. Make it larger (gallery, fold, more data), or leave the '
            'language out.'
        )


def gallery_of(text: str, size: int) -> str:
    """The gallery of a language in words; `size` pictures, 0 for all."""
    few = f'the first {size} of ' if size else ''
    return f'{few}the pictures of the split with a {text} in the language'


def with_means(results: Results, groups: Mapping[str, Sequence[str]]) -> Results:
    """The results and the mean over each group of languages, as a language `mean_GROUP`."""
    means_of = {MEAN + name: mean_over(results, group) for name, group in groups.items()}
    return results | {name: mean for name, mean in means_of.items() if mean}
