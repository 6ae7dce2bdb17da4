"""Frozen features of pictures, classified by what is learned from a training split."""

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.evaluation.evaluators.base import Measured, Scored
from mural_jax.evaluation.evaluators.classification import NEAREST, TOP, labelled
from mural_jax.evaluation.metrics.bootstrap import Samples, means
from mural_jax.evaluation.metrics.ranking import SCORES, Ranks, check_pair, ranks_of_scores
from mural_jax.evaluation.split_data import Sources
from mural_jax.types import Array, UserError

MAX_ITERATIONS = 1000  # CLIP's (Radford et al. 2021, arXiv:2103.00020, appendix A.3)
DECADES = 6  # C is looked for in 1e-6 to 1e6, as there
COARSE, FINE = 2.0, 1 / 8  # decades between the first C that are tried, and the last; as there
FOLD = 5  # one in so many training examples of a class chooses C; ours
SEED = 0  # of which ones


class Features(NamedTuple):
    """Pictures of a split whose class is known: their places in it, embeddings and classes.

    size: of the split.
    """

    place_N: np.ndarray
    vector_ND: np.ndarray
    label_N: np.ndarray
    size: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Probe(Measured):
    """Pictures of `split` by what is learned from those of `train_split`, in no language.

    task: the space whose embeddings are the features.
    """

    task: str
    train_split: str = 'train'

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.train_split == self.split:
            raise UserError(
                f'train_split={self.train_split!r} is what is scored: a probe would know the '
                'answers. Give two splits.'
            )

    def needs(self) -> dict[str, str]:
        return {'tasks': self.task}

    def _features(self, sources: Sources, split: str) -> Features:
        items = sources.items(self.dataset, split, '', images=True)
        place_N = labelled(items, f'{self.dataset}:{split}')
        vector_ND = sources.embedder.images(self.task, items)[place_N]
        return Features(place_N, vector_ND, items.label_N[place_N], len(items.ids))

    def _both(self, sources: Sources) -> tuple[Features, Features]:
        """(training, test). Raises UserError where training lacks classes."""
        train, test = (self._features(sources, x) for x in (self.train_split, self.split))
        check_pair(test.vector_ND, train.vector_ND)
        missing = np.setdiff1d(test.label_N, train.label_N)
        if len(missing):
            raise UserError(
                f'{self.dataset}:{self.train_split} has no picture of {len(missing)} classes of '
                f'{self.split}, such as {missing[0]}: they cannot be learned. Give another '
                'train_split.'
            )
        if len(np.unique(train.label_N)) < 2:
            raise UserError(f'{self.dataset}:{self.train_split} has one class: nothing to tell.')
        return train, test

    def about(self) -> dict[str, Any]:
        return NEAREST | super().about() | {
            'head': self.task,
            'train_split': self.train_split,
            'features': 'embeddings of pictures in the space of the head, of norm 1',
        }  # fmt: skip


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearProbe(Probe):
    """Multinomial logistic regression, as CLIP's (Radford et al. 2021, arXiv:2103.00020, A.3).

    By L-BFGS of scikit-learn. Its C, the inverse of the L2 regularisation, is what is best on a
    part of the training split that is held out; then all of it is learned.
    """

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        regression = _regression()  # Says what is missing before an hour of embedding.
        train, test = self._both(sources)
        held_N = held_out(train.label_N)
        if not held_N.any():
            raise UserError(
                f'{self.dataset}:{self.train_split} has fewer than {FOLD} pictures of each class, '
                'so none can be held out to choose the regularisation. Give more, or take knn.'
            )

        def fitted(c: float, chosen_N: np.ndarray) -> Any:
            return regression(c, train.vector_ND[chosen_N], train.label_N[chosen_N])

        def accuracy(c: float) -> float:
            model = fitted(c, ~held_N)
            return float(model.score(train.vector_ND[held_N], train.label_N[held_N]))

        c = best_c(accuracy)
        model = fitted(c, np.ones(len(held_N), bool))
        ranked = _ranked(lambda x_BD: _scores(model, x_BD), test, model.classes_)
        found = {'c': c, 'iterations': float(np.max(model.n_iter_))}
        return _scored(test, ranked, TOP, found)

    def protocol(self) -> dict[str, Any]:
        return self.about() | {
            'name': 'linear probe',
            'classifier': 'multinomial logistic regression with an L2 penalty, L-BFGS, '
            f'at most {MAX_ITERATIONS} iterations',
            'c': f'inverse of the penalty, in 1e-{DECADES} to 1e{DECADES}: the best on one in '
            f'{FOLD} training pictures of each class, then all are learned',
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Knn(Probe):
    """The k nearest training pictures vote by exp(cos / temperature) for their class.

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

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        train, test = self._both(sources)
        if self.k > len(train.label_N):
            raise UserError(
                f'k={self.k} is more than the {len(train.label_N)} pictures with a class of '
                f'{self.dataset}:{self.train_split}. Make it smaller.'
            )
        number_C, class_N = np.unique(train.label_N, return_inverse=True)
        train_ND = jnp.asarray(train.vector_ND)

        def votes(query_BD: np.ndarray) -> np.ndarray:
            near_BK, place_BK = map(np.asarray, _nearest(self.k, query_BD, train_ND))
            # Of differences to the nearest: no temperature is too small for a float.
            weight_BK = np.exp((near_BK - near_BK[:, :1]).astype(np.float64) / self.temperature)
            vote_BC = np.zeros((len(query_BD), len(number_C)))
            np.add.at(vote_BC, (np.arange(len(query_BD))[:, None], class_N[place_BK]), weight_BK)
            return vote_BC

        return _scored(test, _ranked(votes, test, number_C, len(class_N)), TOP[:1], {})

    def protocol(self) -> dict[str, Any]:
        return self.about() | {
            'name': 'k nearest neighbours',
            'classifier': f'the {self.k} nearest training pictures by cosine, each votes for its '
            f'class with exp(cosine / {self.temperature:g})',
            'k': self.k,
            'temperature': self.temperature,
        }


def held_out(label_N: np.ndarray) -> np.ndarray:
    """One in FOLD examples of each class, drawn once, bool [N]; none of a class with fewer."""
    order_N = np.random.default_rng(SEED).permutation(len(label_N))
    order_N = order_N[np.argsort(label_N[order_N], kind='stable')]
    _, first_C, count_C = np.unique(label_N[order_N], return_index=True, return_counts=True)
    held_N = np.zeros(len(label_N), bool)
    held_N[order_N] = (np.arange(len(label_N)) - np.repeat(first_C, count_C)) % FOLD == FOLD - 1
    return held_N


def best_c(accuracy: Callable[[float], float]) -> float:
    """The C with the best accuracy, the smallest of equal ones, by CLIP's search.

    Seven from 1e-6 to 1e6; then, with half the distance each time, the two beside the best, until
    they are an eighth of a decade apart. Choosing the smallest is ours.
    """
    seen: dict[float, float] = {}

    def best(exponents: Sequence[float]) -> float:
        seen.update({x: accuracy(10.0**x) for x in exponents if abs(x) <= DECADES})
        return max(sorted(seen), key=lambda x: seen[x])

    step = COARSE
    peak = best(np.arange(-DECADES, DECADES + step, step).tolist())
    while step > FINE:
        step /= 2
        peak = best([peak - step, peak + step])
    return 10.0**peak


def _regression() -> Callable[[float, np.ndarray, np.ndarray], Any]:
    """(C, features, classes) -> what scikit-learn learned. Raises UserError without it."""
    try:
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise UserError(
            'A linear probe is learned by scikit-learn, which is not installed. Run '
            "pip install 'mural-jax[evaluation]', or take kind='knn'."
        ) from error

    def fit(c: float, vector_ND: np.ndarray, label_N: np.ndarray) -> Any:
        with warnings.catch_warnings():
            # Large C of the search seldom end in time; `iterations` of the result tells.
            warnings.simplefilter('ignore', ConvergenceWarning)
            model = LogisticRegression(C=c, max_iter=MAX_ITERATIONS)
            return model.fit(vector_ND.astype(np.float64), label_N)

    return fit


def _scores(model: Any, vector_BD: np.ndarray) -> np.ndarray:
    """A score of every class, [B, C]; of two classes scikit-learn gives that of the second."""
    score = model.decision_function(vector_BD.astype(np.float64))
    return score if score.ndim == 2 else np.stack([-score, score], axis=1)


@partial(jax.jit, static_argnums=0)
def _nearest(k: int, query_BD: Array, item_ND: Array) -> tuple[Array, Array]:
    """(cosines, places) of the k nearest, the nearest first, [B, K]."""
    return jax.lax.top_k(jnp.matmul(query_BD, item_ND.T, precision='highest'), k)


def _ranked(
    scores: Callable[[np.ndarray], np.ndarray], test: Features, number_C: np.ndarray, width: int = 0
) -> Ranks:
    """Where the class of each test picture ranks, in blocks of little memory.

    width: what a picture is compared with where that is more than the classes.
    """
    right_Q = np.searchsorted(number_C, test.label_N)
    size = max(1, SCORES // max(width, len(number_C)))
    parts = [
        ranks_of_scores(
            scores(test.vector_ND[start : start + size]),
            list(right_Q[start : start + size, None]),
        )
        for start in range(0, len(right_Q), size)
    ]
    return Ranks(*(np.concatenate(column) for column in zip(*parts)))


def _scored(test: Features, ranked: Ranks, top: Sequence[int], found: dict[str, float]) -> Scored:
    hits = {f'top{k}': (100 * ranked.found(k)).astype(np.float32) for k in top}
    samples = [Samples(test.place_N.astype(np.int32), hits)]
    return Scored({'all': means(samples) | found}, test.size, None, {'all': samples})
