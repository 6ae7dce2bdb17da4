"""What is measured: each evaluator scores languages on one prepared split.

An evaluator returns {language: {metric: value}}, recalls in percent, and the embeddings of the
pictures if it has any; it says its protocol.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mural_jax.evaluation.embed import Embedder
from mural_jax.evaluation.retrieval import PROTOCOL, both_ways, mean_over
from mural_jax.types import UserError

Results = dict[str, dict[str, float]]


class Items(NamedTuple):
    """The examples of a split: names by language, '' where there is none, and pictures."""

    ids: list[str]
    names: list[dict[str, str]]
    image_NHWC: np.ndarray  # uint8; no rows where the evaluator needs none
    png: list[bytes]


@dataclasses.dataclass(frozen=True)
class ImageText:
    """Pictures by their name and names by their picture, one language at a time.

    The gallery of a language is the pictures of the split that have a text in it. Of several the
    first one of the kind `text` is taken.
    """

    dataset: str
    split: str
    task: str
    text: str = 'name'

    has_image = True

    def __call__(
        self, items: Items, embedder: Embedder, languages: Sequence[str]
    ) -> tuple[Results, np.ndarray | None]:
        image_ND = embedder.images(self.task, items.image_NHWC)
        results = {}
        for language in languages:
            named = _named(items, [language], self)
            text_ND = embedder.texts(self.task, [items.names[i][language] for i in named])
            results[language] = both_ways(image_ND[named], text_ND, 'image', 'text')
        return results, image_ND

    def protocol(self) -> dict[str, Any]:
        return PROTOCOL | {
            'dataset': self.dataset,
            'split': self.split,
            'head': self.task,
            'captions_per_image': 1,
            'caption': f'the first {self.text}, without a prompt',
            'gallery': f'the pictures of the split with a {self.text} in the language',
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

    def __call__(
        self, items: Items, embedder: Embedder, languages: Sequence[str]
    ) -> tuple[Results, np.ndarray | None]:
        results = {}
        for language in languages:
            if language == self.pivot:
                continue
            named = _named(items, [language, self.pivot], self)
            text_ND, pivot_ND = (
                embedder.texts(self.task, [items.names[i][side] for i in named])
                for side in (language, self.pivot)
            )
            results[language] = both_ways(text_ND, pivot_ND, 'text', 'pivot')
        return results, None

    def protocol(self) -> dict[str, Any]:
        return PROTOCOL | {
            'dataset': self.dataset,
            'split': self.split,
            'head': self.task,
            'pivot': self.pivot,
            'gallery': f'the first {self.text} of what has one in both languages',
        }


def _named(items: Items, languages: list[str], evaluator: ImageText | TextText) -> list[int]:
    named = [i for i, names in enumerate(items.names) if all(names.get(x) for x in languages)]
    if not named:
        raise UserError(
            f'{evaluator.dataset}:{evaluator.split} has no names in {" and ".join(languages)}, '
            'so there is nothing to score. Take the language out of config.languages.'
        )
    return named


def with_means(results: Results, groups: Mapping[str, Sequence[str]]) -> Results:
    """The results and the mean over each group of languages, as a language `mean_GROUP`."""
    means = {f'mean_{name}': mean_over(results, list(group)) for name, group in groups.items()}
    return results | {name: mean for name, mean in means.items() if mean}
