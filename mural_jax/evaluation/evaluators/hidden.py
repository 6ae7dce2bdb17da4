"""Prediction of hidden words and regions from the rest of a pair, and matching of pairs."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from mural_jax.evaluation.evaluators.base import Evaluation, SplitEvaluator
from mural_jax.evaluation.split_data import SplitData


@dataclasses.dataclass(frozen=True, kw_only=True)
class HiddenParts(SplitEvaluator):
    """Accuracy of predicting the hidden parts of pairs, with and without the other side.

    stream: the stream of the run whose settings say how words, regions and partners are hidden;
    its languages are the ones scored.
    """

    headline: ClassVar[str] = 'match_auc'
    joint: ClassVar[bool] = True

    stream: str

    def needs(self) -> dict[str, str]:
        return {'streams': self.stream}

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        """Scores all languages of the stream together, as `all`."""
        counts: dict[str, list[np.ndarray]] = {}
        matches: list[np.ndarray] = []
        for batch, real_B in data.batches(self.stream, self):
            for name, count_RB in data.embedder.hidden_counts(batch).items():
                counts.setdefault(name, []).append(count_RB[:, real_B])
            # The stream gives some examples a wrong partner; `match` is 1 for true pairs.
            matches.append(batch['match'][real_B])
        by_metric = {name: np.concatenate(parts, axis=1) for name, parts in counts.items()}
        match_N = np.concatenate(matches)
        score_N = by_metric.pop('match')[0]
        metrics = {
            # Over all hidden places at once: examples have different numbers of them.
            name: float(100 * right_N.sum() / max(count_N.sum(), 1))
            for name, (right_N, count_N) in by_metric.items()
        }
        metrics['match_auc'] = auc(score_N[match_N == 1], score_N[match_N == 0])
        return Evaluation({'all': metrics}, len(match_N))

    def protocol(self) -> dict[str, Any]:
        return self.base_protocol() | {
            'name': 'hidden parts of pairs',
            'stream': self.stream,
            'words, regions': 'percent of hidden places whose most likely class is right',
            'words_without_picture, regions_without_text': 'the same, with the other side left out',
            'match_auc': 'chance that a true pair scores above a false one',
        }


def auc(positive_N: np.ndarray, negative_M: np.ndarray) -> float:
    """Returns P(a positive scores above a negative) + P(they tie) / 2, in [0, 1].

    This is the area under the ROC curve; NaN if either side is empty.
    """
    if not len(positive_N) or not len(negative_M):
        return float('nan')
    from scipy import stats  # Imported here because it takes a second.

    # The U statistic counts the pairs in which the positive scores higher, ties by half.
    above = stats.mannwhitneyu(positive_N, negative_M).statistic
    return float(above / (len(positive_N) * len(negative_M)))
