"""Prediction: what was hidden of a pair is predicted from the rest of it."""

import dataclasses

from mural_jax.models.layers import choose
from mural_jax.models.one_stream import OneStream
from mural_jax.objectives import prediction
from mural_jax.objectives.prediction import Predicted
from mural_jax.tasks.base import Encode
from mural_jax.types import Array, Batch, Encoding

PREDICTED = {
    'words': 'words that are hidden in the text',
    'regions': 'classes of regions that are hidden in the picture',
    'match': 'whether text and picture belong together',
}


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What was hidden of a pair is predicted from the rest of it (Unicoder-VL, arXiv:1908.06066).

    stream: one that hides words and regions. predict: of PREDICTED. weight: of its loss. encode:
    ((text, picture), 'joint'), a picture being its regions, or tags and regions.
    """

    stream: str
    predict: str
    weight: float = 1.0
    encode: Encode = ((('text', 'regions'), 'joint'),)

    def __post_init__(self) -> None:
        choose('predict', self.predict, PREDICTED)

    def outputs(
        self, name: str, model: OneStream, encodings: list[Encoding], batch: Batch, key_B: Array
    ) -> Predicted:
        (joint,) = encodings
        if self.predict == 'match':
            return prediction.yes_or_no(model.matches(joint), batch['match'])
        if self.predict == 'words':
            logit_BMV = model.words(joint, batch['word_place'])
            return prediction.classes(logit_BMV, batch['word_target'])
        count = batch['regions'].shape[1]
        logit_BMC = model.region_classes(joint, batch['region_place'], count)
        return prediction.classes(logit_BMC, batch['region_target'])

    def loss(
        self, name: str, model: OneStream, outputs: Predicted, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        return prediction.mean(outputs)
