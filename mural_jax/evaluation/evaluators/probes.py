"""Classifiers of frozen image features, fitted on a training split."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.evaluation.evaluators.base import Evaluation, SplitEvaluator
from mural_jax.evaluation.evaluators.classification import NEAREST, TOP, select_labelled
from mural_jax.evaluation.metrics.bootstrap import QuerySamples, mean_metrics
from mural_jax.evaluation.metrics.ranking import (
    BLOCK_SCORES,
    Ranks,
    check_representations,
    rank_score_matrix,
)
from mural_jax.evaluation.split_data import SplitData
from mural_jax.types import Array, UserError

MAX_ITERATIONS = 1000  # CLIP's (Radford et al. 2021, arXiv:2103.00020, appendix A.3)
DECADES = 6  # C is searched from 1e-6 to 1e6, as CLIP's appendix does
COARSE, FINE = 2.0, 1 / 8  # decades between the first candidates for C, and the last (CLIP's)
FOLD = 5  # one in FOLD training examples of a class is held out to choose C (ours)
SEED = 0  # of the choice of held-out examples


class LabelledFeatures(NamedTuple):
    """The images of a split whose class is known.

    place_N: their places in the split. vector_ND: their embeddings. label_N: their classes.
    size: number of examples in the whole split.
    """

    place_N: np.ndarray
    vector_ND: np.ndarray
    label_N: np.ndarray
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(SplitEvaluator):
    """Classifies the images of `split` with what it learns from `train_split`, in no language.

    space: the space whose embeddings are the features.
    """

    headline: ClassVar[str] = 'top1'

    space: str
    train_split: str = 'train'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_split == self.split:
            raise UserError(
                f'train_split={self.train_split!r} is the split that is scored, so the probe would '
                'know the answers. Give two splits.'
            )

    def needs(self) -> dict[str, str]:
        return {'spaces': self.space}

    def base_protocol(self) -> dict[str, Any]:
        own = {
            'space': self.space,
            'train_split': self.train_split,
            'features': 'embeddings of images in the space, of norm 1',
        }
        return NEAREST | super().base_protocol() | own

    def _embed_both(self, data: SplitData) -> tuple[LabelledFeatures, LabelledFeatures]:
        """Returns (training, test) features. Raises UserError if training lacks classes."""
        train, test = (self._embed(data, split) for split in (self.train_split, self.split))
        check_representations(test.vector_ND, train.vector_ND)
        # A class without training images can never be right, and would lower the score silently.
        missing = np.setdiff1d(test.label_N, train.label_N)
        if len(missing):
            raise UserError(
                f'{self.dataset}:{self.train_split} has no image of {len(missing)} classes of '
                f'{self.split}, such as {missing[0]}: they cannot be learned. Give another '
                'train_split.'
            )
        if len(np.unique(train.label_N)) < 2:
            raise UserError(
                f'{self.dataset}:{self.train_split} has one class, so there is nothing to learn.'
            )
        return train, test

    def _embed(self, data: SplitData, split: str) -> LabelledFeatures:
        examples = data.read_examples(self.dataset, split, '', images=True)
        place_N = select_labelled(examples, f'{self.dataset}:{split}')
        vector_ND = data.embedder.embed_images(self.space, examples)[place_N]
        return LabelledFeatures(place_N, vector_ND, examples.label_N[place_N], len(examples.ids))


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe(Probe):
    """Multinomial logistic regression, as CLIP's (Radford et al. 2021, arXiv:2103.00020, A.3).

    Fitted with scikit-learn's L-BFGS. Its C, the inverse of the L2 regularisation, is chosen on a
    held-out part of the training split; then it is fitted on the whole training split.
    """

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        data.require_dense(self.space)
        # First, so that a missing scikit-learn is reported before an hour of embedding.
        regression = _import_regression()
        train, test = self._embed_both(data)
        held_N = hold_out_mask(train.label_N)
        if not held_N.any():
            raise UserError(
                f'{self.dataset}:{self.train_split} has fewer than {FOLD} images of each class, '
                'so none can be held out to choose the regularisation. Give more, or take knn.'
            )

        def fit(c: float, mask_N: np.ndarray) -> Any:
            return regression(c, train.vector_ND[mask_N], train.label_N[mask_N])

        def held_out_accuracy(c: float) -> float:
            model = fit(c, ~held_N)
            return float(model.score(train.vector_ND[held_N], train.label_N[held_N]))

        c = search_c(held_out_accuracy)
        model = fit(c, np.ones(len(held_N), bool))
        ranks = _rank_classes(lambda x_BD: _class_scores(model, x_BD), test, model.classes_)
        return _evaluate(test, ranks, TOP, {'c': c, 'iterations': float(np.max(model.n_iter_))})

    def protocol(self) -> dict[str, Any]:
        return self.base_protocol() | {
            'name': 'linear probe',
            'classifier': 'multinomial logistic regression with an L2 penalty, L-BFGS, '
            f'at most {MAX_ITERATIONS} iterations',
            'c': f'inverse of the penalty, in 1e-{DECADES} to 1e{DECADES}: the best on one in '
            f'{FOLD} training images of each class, then all are learned',
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class KnnProbe(Probe):
    """The k nearest training images vote with exp(cosine / temperature) for their class.

    Wu et al. 2018, arXiv:1805.01978, with their temperature; k is that of DINO (Caron et al. 2021,
    arXiv:2104.14294).
    """

    k: int = 20
    temperature: float = 0.07

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.k < 1 or self.temperature <= 0:
            raise UserError(
                f'k={self.k} and temperature={self.temperature} must be at least 1, and above 0.'
            )

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        data.require_dense(self.space)
        train, test = self._embed_both(data)
        if self.k > len(train.label_N):
            raise UserError(
                f'k={self.k} is more than the {len(train.label_N)} images with a class of '
                f'{self.dataset}:{self.train_split}. Make it smaller.'
            )
        # Classes as columns 0 ... C - 1, whatever their numbers are.
        number_C, class_N = np.unique(train.label_N, return_inverse=True)
        train_ND = jnp.asarray(train.vector_ND)

        def votes(query_BD: np.ndarray) -> np.ndarray:
            near_BK, place_BK = map(np.asarray, _find_nearest(self.k, query_BD, train_ND))
            # Relative to the nearest, so that exp cannot overflow at any temperature.
            weight_BK = np.exp((near_BK - near_BK[:, :1]).astype(np.float64) / self.temperature)
            vote_BC = np.zeros((len(query_BD), len(number_C)))
            # Unbuffered: several neighbours of a query may have the same class.
            np.add.at(vote_BC, (np.arange(len(query_BD))[:, None], class_N[place_BK]), weight_BK)
            return vote_BC

        return _evaluate(test, _rank_classes(votes, test, number_C, len(class_N)), TOP[:1], {})

    def protocol(self) -> dict[str, Any]:
        return self.base_protocol() | {
            'name': 'k nearest neighbours',
            'classifier': f'the {self.k} nearest training images by cosine, each votes for its '
            f'class with exp(cosine / {self.temperature:g})',
            'k': self.k,
            'temperature': self.temperature,
        }


def hold_out_mask(label_N: np.ndarray) -> np.ndarray:
    """Returns bool [N]: one in FOLD examples of each class, none of a class with fewer.

    The same examples every time, since the seed is fixed.
    """
    order_N = np.random.default_rng(SEED).permutation(len(label_N))
    # A random order within each class, class after class.
    order_N = order_N[np.argsort(label_N[order_N], kind='stable')]
    _, first_C, count_C = np.unique(label_N[order_N], return_index=True, return_counts=True)
    held_N = np.zeros(len(label_N), bool)
    held_N[order_N] = (np.arange(len(label_N)) - np.repeat(first_C, count_C)) % FOLD == FOLD - 1
    return held_N


def search_c(accuracy: Callable[[float], float]) -> float:
    """Returns the C with the best accuracy by CLIP's search, the smallest of equal ones (ours).

    Seven candidates from 1e-6 to 1e6; then, halving the distance each time, the two neighbours of
    the best, until they are an eighth of a decade apart.
    """
    # By exponent; the best so far stays a candidate.
    seen: dict[float, float] = {}

    def best(exponents: Sequence[float]) -> float:
        seen.update({x: accuracy(10.0**x) for x in exponents if abs(x) <= DECADES})
        return max(sorted(seen), key=lambda x: seen[x])

    step = COARSE
    # First every COARSE decades over the whole range.
    peak = best(np.arange(-DECADES, DECADES + step, step).tolist())
    while step > FINE:
        step /= 2
        peak = best([peak - step, peak + step])
    return 10.0**peak


def _import_regression() -> Callable[[float, np.ndarray, np.ndarray], Any]:
    """Returns (C, features, classes) -> a fitted model. Raises UserError without scikit-learn."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UserError(
            'A linear probe is fitted by scikit-learn, which is not installed. Run '
            "pip install 'mural-jax[evaluation]', or take kind='knn'."
        ) from error

    def fit(c: float, vector_ND: np.ndarray, label_N: np.ndarray) -> Any:
        with warnings.catch_warnings():
            # Large values of C seldom converge in time; `iterations` in the results tells.
            warnings.simplefilter('ignore', ConvergenceWarning)
            model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS)
            return model.fit(vector_ND.astype(np.float64), label_N)

    return fit


def _class_scores(model: Any, vector_BD: np.ndarray) -> np.ndarray:
    """Returns the score of every class, [B, C].

    With two classes scikit-learn gives only the score of the second, [B].
    """
    score = model.decision_function(vector_BD.astype(np.float64))
    return score if score.ndim == 2 else np.stack([-score, score], axis=1)


@partial(jax.jit, static_argnums=0)
def _find_nearest(k: int, query_BD: Array, item_ND: Array) -> tuple[Array, Array]:
    """Returns (cosines, places) of the k nearest items, the nearest first, [B, K] each."""
    return jax.lax.top_k(jnp.matmul(query_BD, item_ND.T, precision='highest'), k)


def _rank_classes(
    scores: Callable[[np.ndarray], np.ndarray],
    test: LabelledFeatures,
    number_C: np.ndarray,
    width: int = 0,
) -> Ranks:
    """Returns the rank of the class of each test image, computed in blocks to bound memory.

    scores: features [B, D] -> scores of the classes `number_C`, [B, C]. width: number of values
    that `scores` computes for an image, if that is more than the classes.
    """
    # The column of each image's class; number_C is sorted.
    right_Q = np.searchsorted(number_C, test.label_N)
    size = max(1, BLOCK_SCORES // max(width, len(number_C)))
    parts = [
        rank_score_matrix(
            scores(test.vector_ND[start : start + size]), list(right_Q[start : start + size, None])
        )
        for start in range(0, len(right_Q), size)
    ]
    return Ranks(*(np.concatenate(column) for column in zip(*parts)))


def _evaluate(
    test: LabelledFeatures, ranks: Ranks, top: Sequence[int], more: dict[str, float]
) -> Evaluation:
    """Returns the hits in the top K as results, with `more` metrics beside them."""
    hits = {f'top{k}': (100 * ranks.hit_rate(k)).astype(np.float32) for k in top}
    samples = [QuerySamples(test.place_N.astype(np.int32), hits)]
    return Evaluation({'all': mean_metrics(samples) | more}, test.size, None, {'all': samples})
