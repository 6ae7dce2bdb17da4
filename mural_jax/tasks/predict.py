"""Prediction: hidden words and regions, and whether a pair belongs together."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from mural_jax.config.build import check_known
from mural_jax.objectives import prediction
from mural_jax.objectives.prediction import Predicted
from mural_jax.tasks.base import Encode, Pass, Setup, check_views
from mural_jax.types import Array, Batch, Encoding, UserError


class Predictable(NamedTuple):
    """Something that is predicted.

    fields: Fields of the batch that hold places and targets.
    predict: The head and the objective.
    size: Key of config.model that says how many classes the head knows, '' for a fixed number.
    """

    fields: tuple[str, ...]
    predict: Callable[[Any, Encoding, Batch], Predicted]
    size: str = ''


def _predict_words(model: Any, joint: Encoding, batch: Batch) -> Predicted:
    logit_BMV = model.words(joint, batch['word_place'])
    return prediction.classify(logit_BMV, batch['word_target'])


def _predict_regions(model: Any, joint: Encoding, batch: Batch) -> Predicted:
    logit_BMC = model.region_classes(joint, batch['region_place'], batch['regions'].shape[1])
    return prediction.classify(logit_BMC, batch['region_target'])


def _predict_match(model: Any, joint: Encoding, batch: Batch) -> Predicted:
    return prediction.classify_binary(model.matches(joint), batch['match'])


PREDICTED = {
    'words': Predictable(('word_place', 'word_target'), _predict_words),
    'regions': Predictable(('region_place', 'region_target'), _predict_regions, 'num_classes'),
    'match': Predictable(('match',), _predict_match),
}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """Predicts what was hidden of a pair from the rest of it (Unicoder-VL, arXiv:1908.06066).

    stream: One that hides words and regions.
    predict: 'words' that are hidden in the text, classes of 'regions' that are hidden in the
    image, or 'match', whether text and image belong together.
    weight: Factor of its loss in the sum.
    encode: ((text, image), 'joint'); the image is its regions, or (tags, regions).
    Raises UserError for another prediction.
    """

    stream: str
    predict: str
    weight: float = 1.0
    encode: Encode = ((('text', 'regions'), 'joint'),)

    def __post_init__(self) -> None:
        if self.predict not in PREDICTED:
            raise UserError(
                f'predict={self.predict!r} of a prediction must be one of {", ".join(PREDICTED)}.'
            )

    def outputs(self, given: Pass) -> Predicted:
        """See `Task`."""
        (joint,) = given.encodings
        return PREDICTED[self.predict].predict(given.model, joint, given.batch)

    def loss(self, given: Pass, outputs: Predicted) -> tuple[Array, dict[str, Array]]:
        """See `Task`."""
        return prediction.average(outputs)

    def trained_spaces(self) -> dict[str, tuple[str, ...]]:
        """See `Task`."""
        return {}

    def check(self, setup: Setup, where: str) -> None:
        """See `Task`."""
        check_views(self, setup, where)
        fields, predicted = setup.streams[self.stream].fields(), PREDICTED[self.predict]
        for name in predicted.fields:
            check_known(name, fields, f'{where}.predict={self.predict!r}')
            count = fields[name].num_classes
            if count == 0:
                raise UserError(
                    f'config.{where} predicts classes, and the regions of {self.stream} have none. '
                    'Set regions.codebook to a number of visual words, and model.num_classes to '
                    'the same.'
                )
            if count and predicted.size and count != setup.model[predicted.size]:
                raise UserError(
                    f'The regions of config.streams.{self.stream} have {count} classes: '
                    f'regions.codebook={count} must be config.model.{predicted.size}='
                    f'{setup.model[predicted.size]}.'
                )

    def check_classes(self, counts: Mapping[str, int], setup: Setup, where: str) -> None:
        """See `Task`."""
        predicted = PREDICTED[self.predict]
        for name in predicted.fields:
            if predicted.size and counts.get(name, 0) > setup.model[predicted.size]:
                known = setup.model[predicted.size]
                raise UserError(
                    f'The regions of the stream {self.stream} have classes up to '
                    f'{counts[name] - 1}, and config.model.{predicted.size}={known} is for those '
                    f'below {known}. Set it to {counts[name]} or more.'
                )

    def num_negatives(self, batch_size: int) -> int:
        """See `Task`."""
        return 0
