"""Hidden words and regions predicted from the rest of a pair, and matching."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.evaluation.evaluators.base import Measured, Scored
from mural_jax.evaluation.split_data import Sources
from mural_jax.models.functional import Params, merge
from mural_jax.objectives import prediction
from mural_jax.objectives.prediction import Predicted
from mural_jax.types import Array, Batch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hidden(Measured):
    """How well what is hidden of pairs is predicted, with the other side and without it.

    stream: how words, regions and partners are hidden; its languages are those that are scored.
    """

    stream: str

    def needs(self) -> dict[str, str]:
        return {'streams': self.stream}

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        """All languages of the stream together, as `all`."""
        graphdef, params, statistics = sources.embedder.model
        found: dict[str, list[np.ndarray]] = {}
        wanted: list[np.ndarray] = []
        for batch, real_B in sources.batches(self.stream, self):
            inputs = {k: v for k, v in batch.items() if k not in ('ids', 'origin')}
            for name, value in _predicted(graphdef, params, statistics, inputs).items():
                found.setdefault(name, []).append(np.asarray(value)[:, real_B])
            wanted.append(batch['match'][real_B])
        predicted = {name: np.concatenate(parts, axis=1) for name, parts in found.items()}
        match_N = np.concatenate(wanted)
        scores_N = predicted.pop('match')[0]
        metrics = {
            name: float(100 * right_N.sum() / max(count_N.sum(), 1))
            for name, (right_N, count_N) in predicted.items()
        }
        metrics['match_auc'] = auc(scores_N[match_N == 1], scores_N[match_N == 0])
        return Scored({'all': metrics}, len(match_N))

    def protocol(self) -> dict[str, Any]:
        return self.about() | {
            'name': 'hidden parts of pairs',
            'stream': self.stream,
            'words, regions': 'percent of what is hidden whose most likely class is right',
            'words_without_picture, regions_without_text': 'likewise, the other side left out',
            'match_auc': 'chance that a pair that belongs together scores above one that does not',
        }


@partial(jax.jit, static_argnums=(0,))
def _predicted(graphdef: Any, params: Params, statistics: Params, batch: Batch) -> dict[str, Array]:
    """By metric (right, predicted) places of each example, float32 [2, B]; of `match`, scores."""
    model = merge(graphdef, params, statistics)
    text_BL, region_BRF = batch['text'], batch['regions']
    picture = (batch['tags'], region_BRF) if 'tags' in batch else region_BRF
    nothing = jax.tree.map(jnp.zeros_like, picture)
    both, without_picture, without_text = (
        model.encode('joint', given)
        for given in ((text_BL, picture), (text_BL, nothing), (0 * text_BL, picture))
    )

    def right(predicted: Predicted) -> Array:
        return jnp.stack([predicted.right_B, predicted.count_B])

    def words(encoding: Any) -> Array:
        logit_BMV = model.words(encoding, batch['word_place'])
        return right(prediction.classes(logit_BMV, batch['word_target']))

    def regions(encoding: Any) -> Array:
        logit_BMC = model.region_classes(encoding, batch['region_place'], region_BRF.shape[1])
        return right(prediction.classes(logit_BMC, batch['region_target']))

    return {
        'words': words(both), 'words_without_picture': words(without_picture),
        'regions': regions(both), 'regions_without_text': regions(without_text),
        'match': model.matches(both)[None],
    }  # fmt: skip


def auc(positive_N: np.ndarray, negative_M: np.ndarray) -> float:
    """P(a positive scores above a negative) + P(they tie) / 2, in [0, 1]; NaN without either."""
    if not len(positive_N) or not len(negative_M):
        return float('nan')
    from scipy import stats  # Only here: it takes a second to import.

    above = stats.mannwhitneyu(positive_N, negative_M).statistic
    return float(above / (len(positive_N) * len(negative_M)))
