"""What every evaluator is: it scores a model in several languages on one prepared split.

Results are {language: {metric: value}}; recalls and accuracies are in percent.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np

from mural_jax.evaluation.metrics.bootstrap import QuerySamples, mean_metrics
from mural_jax.evaluation.metrics.recall import (
    RANKS,
    add_mean_recall,
    mean_over_languages,
    median_ranks,
)
from mural_jax.evaluation.split_data import SplitData, SplitExamples
from mural_jax.types import UserError

Results = dict[str, dict[str, float]]
MEAN = 'mean_'  # Results hold the mean over a group as a language with this prefix.
ALL = '*'  # in `languages`: every language of the data


class EmbeddedGallery(NamedTuple):
    """Images that an evaluator embedded, which a search index can reuse.

    image_ND: float32 unit vectors in the space `space`, one for each of the examples.
    """

    examples: SplitExamples
    image_ND: np.ndarray
    dataset: str
    split: str
    space: str


class Evaluation(NamedTuple):
    """What an evaluator returns.

    size: number of examples in the split.
    samples: by language, the values per query whose means the results are, from which confidence
    intervals are drawn; empty if the results are not means over queries.
    """

    results: Results
    size: int
    gallery: EmbeddedGallery | None = None
    # Empty for metrics of a whole set, such as a correlation, which have no values per query.
    samples: Mapping[str, Sequence[QuerySamples]] = {}


class Evaluator(Protocol):
    """Scores a model in some languages, and states the protocol by which it does so.

    It reads embeddings and scores through `SplitData` and never touches the model itself.

    headline: the metric that a report shows first.
    joint: whether it needs a `JointEmbedder`, which a model of another library is not.
    languages: the languages to score, empty for those of the config, '*' for all of the data.
    every: score every so many steps during training, 0 for never.
    """

    @property
    def headline(self) -> str: ...

    @property
    def joint(self) -> bool: ...

    @property
    def dataset(self) -> str: ...

    @property
    def split(self) -> str: ...

    @property
    def languages(self) -> tuple[str, ...]: ...

    @property
    def every(self) -> int: ...

    def needs(self) -> dict[str, str]:
        """Returns what the evaluator names of its run, such as {'spaces': 'image_text'}."""
        ...

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        """Scores `languages`, or the evaluator's own if it has some."""
        ...

    def protocol(self) -> dict[str, Any]:
        """Returns in words what the scores mean; scores compare if their protocols are equal."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class SplitEvaluator:
    """The fields that all evaluators have, see `Evaluator`.

    dataset, split: the examples to score.
    """

    # Properties of the kind, not fields of a config.
    headline: ClassVar[str]
    joint: ClassVar[bool] = False

    dataset: str
    split: str
    languages: tuple[str, ...] = ()
    every: int = 0

    def __post_init__(self) -> None:
        if self.every < 0:
            raise UserError(f'every={self.every} must be a number of steps, or 0 for never.')

    @property
    def where(self) -> str:
        """The split as messages name it."""
        return f'{self.dataset}:{self.split}'

    def base_protocol(self) -> dict[str, Any]:
        """Returns the entries that every protocol has."""
        return {'dataset': self.dataset, 'split': self.split}


def retrieval_metrics(samples: Mapping[str, Sequence[QuerySamples]]) -> Results:
    """Returns the retrieval metrics of each language."""
    return {
        language: add_mean_recall(mean_metrics(own)) | median_ranks(own)
        for language, own in samples.items()
    }


def choose_languages(
    evaluator: SplitEvaluator, languages: Sequence[str], examples: SplitExamples, at_least: int = 1
) -> Sequence[str]:
    """Returns the languages to score: the evaluator's own, or else `languages` of the config.

    '*' stands for the languages of the data in which `at_least` examples have a text. Raises
    UserError if the evaluator names a language that the data lacks.
    """
    if ALL in evaluator.languages:
        # Languages with fewer texts would fail in `require_gallery_size`.
        counts = Counter(language for texts in examples.texts for language in texts)
        return [language for language in examples.languages if counts[language] >= at_least]
    # Languages of the config may be missing, since one list serves many data sets; a language that
    # this evaluator names itself is a mistake.
    missing = [language for language in evaluator.languages if language not in examples.languages]
    if missing:
        raise UserError(
            f'{evaluator.where} has no text in {", ".join(missing)}; it has '
            f"{', '.join(examples.languages[:40])}. Correct the evaluator's languages."
        )
    return evaluator.languages or languages


def select_with_text(
    examples: SplitExamples, languages: Sequence[str], evaluator: Any
) -> list[int]:
    """Returns the examples with a text in all of the languages. Raises UserError if none has."""
    places = [i for i, texts in enumerate(examples.texts) if all(texts.get(x) for x in languages)]
    if not places:
        raise UserError(
            f'{evaluator.where} has no {evaluator.text} in {" and ".join(languages)}, so there is '
            'nothing to score. Remove the language from config.languages.'
        )
    return places


def require_gallery_size(count: int, evaluator: SplitEvaluator, language: str) -> None:
    """Raises UserError if a gallery of `count` items is smaller than the largest K of R@K."""
    # Such a score would look perfect and mean nothing.
    if count < max(RANKS):
        raise UserError(
            f'{evaluator.where.rstrip(":")} has a gallery of {count} in {language}, for which '
            f'R@{max(RANKS)} is 100 whatever the model does. Make it larger (gallery, fold, more '
            'data), or leave the language out.'
        )


def add_group_means(results: Results, groups: Mapping[str, Sequence[str]]) -> Results:
    """Returns the results and the mean over each group, as a language `mean_GROUP`.

    A group's mean is over its languages that have results; a group without any has no mean.
    """
    means = {MEAN + name: mean_over_languages(results, members) for name, members in groups.items()}
    return results | {name: mean for name, mean in means.items() if mean}
