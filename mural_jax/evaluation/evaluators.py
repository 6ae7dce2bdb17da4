"""What is measured: each evaluator scores languages on one prepared split.

Results are {language: {metric: value}}, recalls in percent.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mural_jax.evaluation.retrieval import PROTOCOL, both_ways, mean_over
from mural_jax.evaluation.sources import Items, Pictured, Sources
from mural_jax.types import UserError

Results = dict[str, dict[str, float]]


class Gallery(NamedTuple):
    """Pictures that an evaluator embedded on the way, float32 [N, D], in the space of a task."""

    items: Items
    image_ND: np.ndarray
    split: str
    task: str


class Scored(NamedTuple):
    """What an evaluator found. size: of the whole gallery."""

    results: Results
    size: int
    gallery: Gallery | None = None


class Evaluator(Protocol):
    """Scores a model in some languages, and says by which protocol.

    `needs`: what it names of its run, such as {'tasks': 'image_text'}.
    """

    @property
    def dataset(self) -> str: ...

    def needs(self) -> dict[str, str]: ...

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored: ...

    def protocol(self) -> dict[str, Any]: ...


@dataclasses.dataclass(frozen=True)
class ImageText:
    """Pictures by their name and names by their picture, one language at a time.

    The gallery of a language is the pictures of the split that have a text in it. Of several the
    first one of the kind `text` is taken. gallery: so many of them, the first; 0 for all.
    """

    dataset: str
    split: str
    task: str
    text: str = 'name'
    gallery: int = 0

    has_image = True

    def needs(self) -> dict[str, str]:
        return {'tasks': self.task}

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        items, embedder = sources.items(self), sources.embedder
        image_ND = embedder.images(self.task, items.visual)
        results = {}
        for language in languages:
            found = named(items, [language], self)[: self.gallery or None]
            text_ND = embedder.texts(self.task, [items.names[i][language] for i in found])
            results[language] = both_ways(image_ND[found], text_ND, 'image', 'text')
        gallery = Gallery(items, image_ND, self.split, self.task)
        return Scored(results, len(items.ids), gallery)

    def protocol(self) -> dict[str, Any]:
        return PROTOCOL | {
            'dataset': self.dataset,
            'split': self.split,
            'head': self.task,
            'captions_per_image': 1,
            'caption': f'the first {self.text}, without a prompt',
            'gallery': gallery_of(self.text, self.gallery),
        }


@dataclasses.dataclass(frozen=True)
class TextText:
    """Texts of the kind `text` by their translation, from and to the language `pivot`."""

    dataset: str
    split: str
    task: str
    pivot: str = 'en'
    text: str = 'name'

    has_image = False

    def needs(self) -> dict[str, str]:
        return {'tasks': self.task}

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        items, embedder = sources.items(self), sources.embedder
        results = {}
        for language in languages:
            if language == self.pivot:
                continue
            found = named(items, [language, self.pivot], self)
            text_ND, pivot_ND = (
                embedder.texts(self.task, [items.names[i][side] for i in found])
                for side in (language, self.pivot)
            )
            results[language] = both_ways(text_ND, pivot_ND, 'text', 'pivot')
        return Scored(results, len(items.ids))

    def protocol(self) -> dict[str, Any]:
        return PROTOCOL | {
            'dataset': self.dataset,
            'split': self.split,
            'head': self.task,
            'pivot': self.pivot,
            'gallery': f'the first {self.text} of what has one in both languages',
        }


def named(items: Items, languages: list[str], evaluator: Pictured) -> list[int]:
    found = [i for i, names in enumerate(items.names) if all(names.get(x) for x in languages)]
    if not found:
        raise UserError(
            f'{evaluator.dataset}:{evaluator.split} has no names in {" and ".join(languages)}, '
            'so there is nothing to score. Take the language out of config.languages.'
        )
    return found


def gallery_of(text: str, size: int) -> str:
    """The gallery of a language in words; `size` pictures, 0 for all."""
    few = f'the first {size} of ' if size else ''
    return f'{few}the pictures of the split with a {text} in the language'


def with_means(results: Results, groups: Mapping[str, Sequence[str]]) -> Results:
    """The results and the mean over each group of languages, as a language `mean_GROUP`."""
    means = {f'mean_{name}': mean_over(results, list(group)) for name, group in groups.items()}
    return results | {name: mean for name, mean in means.items() if mean}
