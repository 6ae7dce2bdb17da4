"""Zero-shot classification: pictures by the names of their classes, language by language."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mural_jax.evaluation.evaluators import class_names
from mural_jax.evaluation.evaluators.base import ALL, Measured, Scored
from mural_jax.evaluation.evaluators.class_names import Names
from mural_jax.evaluation.metrics.bootstrap import Samples, means
from mural_jax.evaluation.metrics.ranking import ranks
from mural_jax.evaluation.split_data import Items, Sources
from mural_jax.types import UserError

TEXTS = 1 << 14  # that are embedded at a time, so that memory does not grow with them; ours
TOP = (1, 5)
NEAREST = {
    'accuracy': 'percent of pictures whose class is the best (top1), among the best five (top5)',
    'ties': 'classes of equal score share their ranks: the expected accuracy over their orders',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Measured):
    """Pictures by the nearest name of a class, one language at a time.

    Babel-ImageNet's protocol (Geigle et al. 2023, arXiv:2306.08658): in a language the classes are
    those with a name in it, and the pictures are those of these classes. A class is the mean of the
    embeddings of its name in each template, of norm 1 (CLIP's ensembles of prompts, Radford et al.
    2021, arXiv:2103.00020).

    text: the kind of the names. templates: what a name is put into where {} stands.
    templates_file: templates by language; those of `templates` for languages that it lacks.
    names_file: names in Babel-ImageNet's layout, instead of those of the data. min_classes: with
    languages=('*',) those with fewer are left out, as a few are easy to tell apart; every language
    that Babel-ImageNet publishes has ten.
    """

    task: str
    text: str = 'name'
    templates: tuple[str, ...] = ('{}',)
    templates_file: str = ''
    names_file: str = ''
    min_classes: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        class_names.check_templates(self.templates, f'templates={self.templates!r}')
        if self.min_classes < 2:
            raise UserError(f'min_classes={self.min_classes} must be at least 2: one is no choice.')

    def needs(self) -> dict[str, str]:
        return {'tasks': self.task}

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        items = sources.items(self.dataset, self.split, self.text, images=True)
        place_N = labelled(items, f'{self.dataset}:{self.split}')
        names = self._names(items, place_N)
        chosen = self._languages(names, languages)
        class_MD = self._ensembles(sources, names, chosen)
        image_ND = sources.embedder.images(self.task, items)
        results, samples, start = {}, {}, 0
        for language in chosen:
            number_C = np.array(sorted(names[language]))
            class_CD = class_MD[start : start + len(number_C)]
            start += len(number_C)
            samples[language] = [_scored(items, place_N, number_C, image_ND, class_CD)]
            results[language] = means(samples[language]) | {
                'num_classes': float(len(number_C)), 'chance': 100 / len(number_C),
            }  # fmt: skip
        return Scored(results, len(items.ids), None, samples)

    def _ensembles(self, sources: Sources, names: Names, languages: Sequence[str]) -> np.ndarray:
        """The classes of all languages one after another, by number, float32 [M, D]."""
        own = class_names.published_templates(self.templates_file) if self.templates_file else {}

        def prompts() -> Iterator[list[str]]:
            for language in languages:
                templates = own.get(language.lower(), self.templates)
                for number in sorted(names[language]):
                    name = names[language][number]
                    yield [template.replace('{}', name) for template in templates]

        return ensembles(lambda texts: sources.embedder.texts(self.task, texts), prompts())

    def _names(self, items: Items, place_N: np.ndarray) -> Names:
        """The names of classes that have a picture, by language."""
        if not self.names_file:
            return class_names.of_data(items, place_N)
        there = set(items.label_N[place_N].tolist())
        return {
            language: {number: name for number, name in named.items() if number in there}
            for language, named in class_names.published(self.names_file).items()
        }

    def _languages(self, names: Names, languages: Sequence[str]) -> list[str]:
        """Those that are scored. Raises UserError where one that was named has too few classes."""
        where = self.names_file or f'{self.dataset}:{self.split}'
        most = max((len(named) for named in names.values()), default=0)
        if most < self.min_classes:
            raise UserError(
                f'{where} names at most {most} classes that have a picture, in any language, by a '
                f'text of the kind {self.text!r}; min_classes={self.min_classes}. Give names with '
                '`mural data ingest ... --label_column --class_names`, or names_file.'
            )
        if ALL in self.languages:
            return sorted(x for x, named in names.items() if len(named) >= self.min_classes)
        wanted = list(self.languages or languages)
        few = [x for x in wanted if len(names.get(x, {})) < self.min_classes]
        if few:
            counted = ', '.join(f'{len(names.get(x, {}))} in {x}' for x in few)
            raise UserError(
                f'{where} names too few classes that have a picture, {counted}; '
                f'min_classes={self.min_classes}. Take the language out, or lower min_classes.'
            )
        return wanted

    def protocol(self) -> dict[str, Any]:
        names = f'the first {self.text} of a class in the data'
        if self.names_file:
            names = f'those of {class_names.stamp(self.names_file)}'
        by_file = {}
        if self.templates_file:
            by_file['templates_file'] = class_names.stamp(self.templates_file)
            by_file['without_templates'] = 'languages that the file lacks take `templates`'
        return NEAREST | self.about() | by_file | {
            'name': 'zero-shot classification',
            'head': self.task,
            'names': f'{names}, one for each class',
            'classes': 'of a language, those with a name in it and a picture in the split',
            'pictures': 'of a language, those of its classes',
            'class_embedding': 'mean of the embeddings of the name in each template, of norm 1',
            'templates': list(self.templates),
            'min_classes': self.min_classes,
        }  # fmt: skip


def _scored(
    items: Items, place_N: np.ndarray, number_C: np.ndarray, image_ND: np.ndarray,
    class_CD: np.ndarray,
) -> Samples:  # fmt: skip
    """Whether each picture of these classes, which are sorted, is nearest to its own."""
    found_Q = place_N[np.isin(items.label_N[place_N], number_C)]
    right_Q = np.searchsorted(number_C, items.label_N[found_Q])
    ranked = ranks(image_ND[found_Q], class_CD, list(right_Q[:, None]))
    hits = {f'top{k}': (100 * ranked.found(k)).astype(np.float32) for k in TOP}
    return Samples(found_Q.astype(np.int32), hits)


def labelled(items: Items, where: str) -> np.ndarray:
    """The pictures whose class is known, int [N]. Raises UserError where there is none."""
    place_N = np.flatnonzero(items.label_N >= 0)
    if not len(place_N):
        raise UserError(
            f'{where} has no picture with a class, so nothing can be classified. Ingest it with '
            '--label_column=COLUMN (of TFDS: --label=FIELD), the number of the class.'
        )
    return place_N


def ensembles(embed: Callable[[list[str]], np.ndarray], prompts: Iterable[list[str]]) -> np.ndarray:
    """For each list of texts the mean of their unit vectors, of norm 1, float32 [M, D].

    Raises UserError in ranking where it is 0 and has no direction.
    """
    parts = []
    for chunk in _chunks(prompts):
        vector_TD = embed([text for texts in chunk for text in texts]).astype(np.float64)
        first_M = np.cumsum([0] + [len(texts) for texts in chunk[:-1]])
        sum_MD = np.add.reduceat(vector_TD, first_M)
        with np.errstate(invalid='ignore'):
            sum_MD /= np.linalg.norm(sum_MD, axis=1, keepdims=True)
        parts.append(sum_MD.astype(np.float32))
    return np.concatenate(parts)


def _chunks(prompts: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Lists one after another, about TEXTS texts at a time."""
    chunk: list[list[str]] = []
    size = 0
    for texts in prompts:
        if chunk and size + len(texts) > TEXTS:
            yield chunk
            chunk, size = [], 0
        chunk.append(texts)
        size += len(texts)
    if chunk:
        yield chunk
