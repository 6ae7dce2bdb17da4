"""Retrieval of images by text, of texts by image, and of translations."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from mural_jax.evaluation.evaluators.base import (
    EmbeddedGallery,
    Evaluation,
    SplitEvaluator,
    choose_languages,
    require_gallery_size,
    retrieval_metrics,
    select_with_text,
)
from mural_jax.evaluation.metrics.ranking import take_rows
from mural_jax.evaluation.metrics.recall import PROTOCOL, RANKS, recall_both_ways
from mural_jax.evaluation.split_data import SplitData, SplitExamples
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageTextRetrieval(SplitEvaluator):
    """Recall of images by their texts and of texts by their images, one language at a time.

    The gallery of a language is the images of the split that have a text in it; examples with the
    same id are one image.

    space: the space whose embeddings are compared.
    text: the kind of text.
    captions: 'first' takes one text for each image, 'all' makes every text of the kind a query.
    gallery: number of images in the gallery, the first of the split; 0 for all.
    fold: size of the galleries whose mean recall is taken (COCO 1K: 1000); 0 for one gallery.
    prompt: the template around each text, such as "a photo of {}".
    """

    headline: ClassVar[str] = 'mean_recall'

    space: str
    text: str = 'name'
    captions: Literal['first', 'all'] = 'first'
    gallery: int = 0
    fold: int = 0
    prompt: str = '{}'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.captions not in ('first', 'all'):
            raise UserError(f"captions={self.captions!r} must be 'first' or 'all'.")
        # Without the place of the text all texts would be one.
        if '{}' not in self.prompt:
            raise UserError(f'prompt={self.prompt!r} must contain {{}}, the place of the text.')

    def needs(self) -> dict[str, str]:
        return {'spaces': self.space}

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        examples = data.read_examples(self.dataset, self.split, self.text, images=True)
        # Once for all languages: images cost the most.
        images = data.embedder.embed_images(self.space, examples)
        similarity = data.similarity(self.space)
        samples = {}
        for language in choose_languages(self, languages, examples, max(RANKS)):
            places, texts = self._select_gallery(examples, language)
            owner_M = np.repeat(np.arange(len(places)), [len(own) for own in texts])
            flat = [self.prompt.replace('{}', text) for own in texts for text in own]
            # In one call for all images of the language, so that batches are full.
            embedded = data.embedder.embed_texts(self.space, flat)
            require_gallery_size(self.fold or len(places), self, language)
            own = take_rows(images, places)
            both = recall_both_ways(own, embedded, owner_M, 'image', 'text', self.fold, similarity)
            # Numbered by their place in the split, so that the bootstrap draws the same images in
            # all languages.
            samples[language] = [one.map_items(places) for one in both]
        # An index of a run holds one vector an image.
        dense = similarity.form == 'dense'
        gallery = EmbeddedGallery(examples, images, self.dataset, self.split, self.space)
        return Evaluation(
            retrieval_metrics(samples), len(examples.ids), gallery if dense else None, samples
        )

    def _select_gallery(
        self, examples: SplitExamples, language: str
    ) -> tuple[list[int], list[list[str]]]:
        """Returns (the images with a text in a language, the texts of each)."""
        # Examples that share an id are captions of one image, which counts at its first place.
        first_place: dict[str, int] = {}
        texts: dict[int, list[str]] = {}
        for place in select_with_text(examples, [language], self):
            first = first_place.setdefault(examples.ids[place], place)
            texts.setdefault(first, []).extend(examples.texts[place][language])
        places = list(texts)[: self.gallery or None]
        if self.fold and len(places) < self.fold:
            raise UserError(
                f'{self.where} has {len(places)} images with a {self.text} in {language}, fewer '
                f'than fold={self.fold}. Make it smaller, or 0 for one gallery.'
            )
        count = 1 if self.captions == 'first' else None
        return places, [texts[place][:count] for place in places]

    def protocol(self) -> dict[str, Any]:
        first = self.captions == 'first'
        prompt = 'without a prompt' if self.prompt == '{}' else f'in the prompt {self.prompt!r}'
        # An entry only if it is set, so that protocols without folds stay as they are.
        folds = {'folds': f'mean over galleries of {self.fold} images'} if self.fold else {}
        own = {
            'name': 'one caption' if first else 'all captions',
            'space': self.space,
            'captions_per_image': 1 if first else 'all',
            'caption': f'{"the first" if first else "every"} {self.text}, {prompt}',
            'relevance': 'by the id of the image',
            'gallery': describe_gallery(self.text, self.gallery),
        }
        return PROTOCOL | self.base_protocol() | folds | own


@dataclasses.dataclass(frozen=True, kw_only=True)
class TranslationRetrieval(SplitEvaluator):
    """Recall of texts of the kind `text` by their translation, to and from the language `pivot`.

    space: the space whose embeddings are compared.
    """

    headline: ClassVar[str] = 'mean_recall'

    space: str
    pivot: str = 'en'
    text: str = 'name'

    def needs(self) -> dict[str, str]:
        return {'spaces': self.space}

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        examples = data.read_examples(self.dataset, self.split, self.text, images=False)
        texts = examples.first_texts
        samples = {}
        for language in choose_languages(self, languages, examples, max(RANKS)):
            # The pivot would find itself.
            if language == self.pivot:
                continue
            places = select_with_text(examples, [language, self.pivot], self)
            text_ND, pivot_ND = (
                data.embedder.embed_texts(self.space, [texts[i][side] for i in places])
                for side in (language, self.pivot)
            )
            require_gallery_size(len(places), self, language)
            both = recall_both_ways(
                text_ND,
                pivot_ND,
                np.arange(len(places)),
                'text',
                'pivot',
                similarity=data.similarity(self.space),
            )
            samples[language] = [one.map_items(places) for one in both]
        return Evaluation(retrieval_metrics(samples), len(examples.ids), None, samples)

    def protocol(self) -> dict[str, Any]:
        own = {
            'name': 'translation retrieval',
            'space': self.space,
            'pivot': self.pivot,
            'gallery': f'the first {self.text} of every example with one in both languages',
        }
        return PROTOCOL | self.base_protocol() | own


def describe_gallery(text: str, size: int) -> str:
    """Returns the gallery of a language in words; `size` images, 0 for all."""
    few = f'the first {size} of ' if size else ''
    return f'{few}the images of the split with a {text} in the language'
