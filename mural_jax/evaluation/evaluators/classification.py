"""Zero-shot classification of images by the names of their classes, language by language."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from mural_jax.evaluation.evaluators import class_names
from mural_jax.evaluation.evaluators.base import ALL, Evaluation, SplitEvaluator
from mural_jax.evaluation.evaluators.class_names import Names
from mural_jax.evaluation.metrics.bootstrap import QuerySamples, mean_metrics
from mural_jax.evaluation.metrics.ranking import rank_queries
from mural_jax.evaluation.split_data import SplitData, SplitExamples
from mural_jax.types import UserError

CHUNK_TEXTS = 1 << 14  # texts embedded at a time, which bounds memory (ours)
TOP = (1, 5)
NEAREST = {
    'accuracy': 'percent of images whose class is the best (top1), among the best five (top5)',
    'ties': 'classes of equal score share their ranks: the expected accuracy over their orders',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShotClassification(SplitEvaluator):
    """Classifies images by the nearest class name, one language at a time.

    Babel-ImageNet's protocol (Geigle et al. 2023, arXiv:2306.08658): the classes of a language are
    those with a name in it, and its images are those of these classes. A class is the mean of the
    embeddings of its name in each template, normalised to 1 (CLIP's prompt ensembles, Radford et
    al. 2021, arXiv:2103.00020).

    space: the space whose embeddings are compared.
    text: the kind of text that names a class.
    templates: texts with {} in the place of the name.
    templates_file: templates by language; languages that it lacks take `templates`.
    names_file: names in Babel-ImageNet's layout, used instead of those of the data.
    min_classes: languages=('*',) leaves out languages with fewer classes, because a few classes
    are easy to tell apart; every language that Babel-ImageNet publishes has ten.
    """

    headline: ClassVar[str] = 'top1'

    space: str
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
        return {'spaces': self.space}

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        data.require_dense(self.space)
        examples = data.read_examples(self.dataset, self.split, self.text, images=True)
        # Examples without a class are neither queries nor a source of names.
        place_N = select_labelled(examples, self.where)
        names = self._read_names(examples, place_N)
        chosen = self._choose_languages(names, languages)
        # All languages together, so that batches of texts are full.
        class_MD = self._embed_classes(data, names, chosen)
        image_ND = data.embedder.embed_images(self.space, examples)
        results, samples, start = {}, {}, 0
        for language in chosen:
            number_C = np.array(sorted(names[language]))
            class_CD = class_MD[start : start + len(number_C)]
            # Classes of a language lie one after another in class_MD.
            start += len(number_C)
            samples[language] = [_classify(examples, place_N, number_C, image_ND, class_CD)]
            results[language] = mean_metrics(samples[language]) | {
                'num_classes': float(len(number_C)),
                'chance': 100 / len(number_C),
            }
        return Evaluation(results, len(examples.ids), None, samples)

    def _embed_classes(self, data: SplitData, names: Names, languages: Sequence[str]) -> np.ndarray:
        """Returns float32 [M, D]: language after language, its classes by number."""
        own = class_names.read_templates_file(self.templates_file) if self.templates_file else {}

        def prompts() -> Iterator[list[str]]:
            for language in languages:
                templates = own.get(language.lower(), self.templates)
                for number in sorted(names[language]):
                    name = names[language][number]
                    yield [template.replace('{}', name) for template in templates]

        return embed_ensembles(
            lambda texts: data.embedder.embed_texts(self.space, texts), prompts()
        )

    def _read_names(self, examples: SplitExamples, place_N: np.ndarray) -> Names:
        """Returns, by language, the names of the classes that have an image."""
        if not self.names_file:
            return class_names.names_of_data(examples, place_N)
        # A class that no image has would only be a distractor that the data does not contain.
        present = set(examples.label_N[place_N].tolist())
        return {
            language: {number: name for number, name in own.items() if number in present}
            for language, own in class_names.read_names_file(self.names_file).items()
        }

    def _choose_languages(self, names: Names, languages: Sequence[str]) -> list[str]:
        """Returns the languages to score. Raises UserError if a requested one lacks classes."""
        where = self.names_file or self.where
        # If no language has enough classes, the kind of text is wrong, not one language.
        most = max((len(own) for own in names.values()), default=0)
        if most < self.min_classes:
            raise UserError(
                f'{where} names at most {most} classes that have an image, in any language, by a '
                f'text of the kind {self.text!r}; min_classes={self.min_classes}. Give names with '
                '`mural data ingest ... --label_column --class_names`, or names_file.'
            )
        if ALL in self.languages:
            return sorted(x for x, own in names.items() if len(own) >= self.min_classes)
        wanted = list(self.languages or languages)
        few = [x for x in wanted if len(names.get(x, {})) < self.min_classes]
        if few:
            counted = ', '.join(f'{len(names.get(x, {}))} in {x}' for x in few)
            raise UserError(
                f'{where} names too few classes that have an image, {counted}; '
                f'min_classes={self.min_classes}. Remove the language, or lower min_classes.'
            )
        return wanted

    def protocol(self) -> dict[str, Any]:
        names = f'the first {self.text} of a class in the data'
        if self.names_file:
            names = f'those of {class_names.describe_file(self.names_file)}'
        from_file = {}
        if self.templates_file:
            from_file['templates_file'] = class_names.describe_file(self.templates_file)
            from_file['without_templates'] = 'languages that the file lacks take `templates`'
        own = {
            'name': 'zero-shot classification',
            'space': self.space,
            'names': f'{names}, one for each class',
            'classes': 'of a language, those with a name in it and an image in the split',
            'images': 'of a language, those of its classes',
            'class_embedding': 'mean of the embeddings of the name in each template, of norm 1',
            'templates': list(self.templates),
            'min_classes': self.min_classes,
        }
        return NEAREST | self.base_protocol() | from_file | own


def _classify(
    examples: SplitExamples,
    place_N: np.ndarray,
    number_C: np.ndarray,
    image_ND: np.ndarray,
    class_CD: np.ndarray,
) -> QuerySamples:
    """Returns the hits in the top K of the images of some classes.

    place_N: the labelled examples. number_C: the sorted numbers of the classes, class_CD their
    embeddings.
    """
    # Images of classes without a name in the language have no right answer there.
    place_Q = place_N[np.isin(examples.label_N[place_N], number_C)]
    right_Q = np.searchsorted(number_C, examples.label_N[place_Q])
    ranks = rank_queries(image_ND[place_Q], class_CD, list(right_Q[:, None]))
    hits = {f'top{k}': (100 * ranks.hit_rate(k)).astype(np.float32) for k in TOP}
    return QuerySamples(place_Q.astype(np.int32), hits)


def select_labelled(examples: SplitExamples, where: str) -> np.ndarray:
    """Returns the examples whose class is known, int [N]. Raises UserError if there is none."""
    place_N = np.flatnonzero(examples.label_N >= 0)
    if not len(place_N):
        raise UserError(
            f'{where} has no image with a class, so nothing can be classified. Ingest it with '
            '--label_column=COLUMN (for TFDS: --label=FIELD), the number of the class.'
        )
    return place_N


def embed_ensembles(
    embed: Callable[[list[str]], np.ndarray], prompts: Iterable[list[str]]
) -> np.ndarray:
    """Returns for each list of texts the mean of their unit vectors, of norm 1: float32 [M, D].

    A mean of 0 has no direction and becomes NaN, which `rank_queries` refuses with a UserError.
    """
    parts = []
    for chunk in _split_into_chunks(prompts):
        vector_TD = embed([text for texts in chunk for text in texts]).astype(np.float64)
        # Lists may have different lengths: `reduceat` sums each from its first text on.
        first_M = np.cumsum([0] + [len(texts) for texts in chunk[:-1]])
        sum_MD = np.add.reduceat(vector_TD, first_M)
        with np.errstate(invalid='ignore'):
            sum_MD /= np.linalg.norm(sum_MD, axis=1, keepdims=True)
        parts.append(sum_MD.astype(np.float32))
    return np.concatenate(parts)


def _split_into_chunks(prompts: Iterable[list[str]]) -> Iterator[list[list[str]]]:
    """Yields the lists in groups of about CHUNK_TEXTS texts; a list is never divided."""
    chunk: list[list[str]] = []
    size = 0
    for texts in prompts:
        if chunk and size + len(texts) > CHUNK_TEXTS:
            yield chunk
            chunk, size = [], 0
        chunk.append(texts)
        size += len(texts)
    if chunk:
        yield chunk
