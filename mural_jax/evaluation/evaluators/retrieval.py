"""Retrieval of images by text, of texts by image, and of translations."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from mural_jax.evaluation.evaluators.base import (
    Gallery,
    Measured,
    Scored,
    enough,
    languages_of,
    named,
    retrieved,
)
from mural_jax.evaluation.metrics.recall import PROTOCOL, RANKS, both_ways
from mural_jax.evaluation.split_data import Items, Sources
from mural_jax.types import UserError


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


def gallery_of(text: str, size: int) -> str:
    """The gallery of a language in words; `size` pictures, 0 for all."""
    few = f'the first {size} of ' if size else ''
    return f'{few}the pictures of the split with a {text} in the language'
