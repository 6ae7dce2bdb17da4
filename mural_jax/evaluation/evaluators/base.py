"""What is measured: each evaluator scores languages on one prepared split.

Results are {language: {metric: value}}, recalls and accuracies in percent.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from mural_jax.evaluation.metrics.bootstrap import Samples, means
from mural_jax.evaluation.metrics.recall import (
    RANKS,
    combined,
    mean_over,
    medians,
)
from mural_jax.evaluation.split_data import Items, Sources
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


def with_means(results: Results, groups: Mapping[str, Sequence[str]]) -> Results:
    """The results and the mean over each group of languages, as a language `mean_GROUP`."""
    means_of = {MEAN + name: mean_over(results, group) for name, group in groups.items()}
    return results | {name: mean for name, mean in means_of.items() if mean}
