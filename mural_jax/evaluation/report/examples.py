"""What a model finds, as examples: queries in many languages, and where it fails."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from mural_jax.evaluation.split_data import Embedder

FOUND = 6  # pictures for each query
QUERIES = 12  # rows of the grid of each group of languages, at most
FAILURES = 4  # of each group
TEXTS = 8192  # that are embedded for failures and the map of languages, about
ITEMS = 256  # in how many pictures' names, at most

Groups = Mapping[str, Sequence[str]]


class Pictures(Protocol):
    """An index of N pictures: see `serving.index.Index`."""

    @property
    def image_ND(self) -> np.ndarray: ...

    @property
    def names(self) -> list[dict[str, str]]: ...

    @property
    def splits(self) -> list[str]: ...

    @property
    def pngs(self) -> list[bytes]: ...

    @property
    def task(self) -> str: ...


class Shown(NamedTuple):
    """A picture on the page."""

    name: str
    png: bytes
    right: bool


class Example(NamedTuple):
    """What was asked, what was meant, what was found, and the rank of what was meant, from 1."""

    language: str
    query: str
    wanted: Shown
    found: list[Shown]
    rank: int


class Named(NamedTuple):
    """Names of N pictures in L languages, vector_LND; NaN where a picture has none in one."""

    items: list[int]
    languages: list[str]
    vector_LND: np.ndarray


def grid(index: Pictures, embedder: Embedder, groups: Groups) -> list[Example]:
    """A query in each language, of the first of each group, against all pictures."""
    chosen = list(choose_queries(index.names, index.splits, groups))
    if not chosen:
        return []
    queries = [index.names[item][language] for language, item in chosen]
    query_QD = embedder.texts(index.task, queries)
    everything = np.arange(len(index.names))
    return [
        _example(index, language, item, query_D, everything)
        for (language, item), query_D in zip(chosen, query_QD)
    ]


def choose_queries(
    names: list[dict[str, str]], splits: list[str], groups: Groups
) -> Iterator[tuple[str, int]]:
    """Yields (language, item) for the grid: held-out items in the order of a hash.

    Nobody picks them, so good and bad ones show as they come.
    """
    order = sorted(held_out(splits), key=lambda item: _hash(names[item]))
    items = itertools.cycle(order)
    for group in groups.values():
        for language in list(group)[:QUERIES]:
            item = next(
                (i for i in itertools.islice(items, len(order)) if language in names[i]), -1
            )
            if item >= 0:
                yield language, item


def held_out(splits: Sequence[str]) -> list[int]:
    """The pictures of the split `test`; all where there is none."""
    return [i for i, split in enumerate(splits) if split == 'test'] or list(range(len(splits)))


def embed_names(index: Pictures, embedder: Embedder, languages: Sequence[str]) -> Named:
    """Held-out pictures by their names, those with names in the most languages first.

    Among equals the order is of a hash; there are about TEXTS names in all.
    """
    languages = list(dict.fromkeys(languages))

    def order(item: int) -> tuple[int, bytes]:
        return -sum(x in index.names[item] for x in languages), _hash(index.names[item])

    few = max(16, min(ITEMS, TEXTS // max(len(languages), 1)))
    items = sorted(held_out(index.splits), key=order)[:few]
    places = [
        (row, column)
        for row, language in enumerate(languages)
        for column, item in enumerate(items) if language in index.names[item]
    ]  # fmt: skip
    dim = index.image_ND.shape[1]
    vector_LND = np.full((len(languages), len(items), dim), np.nan, np.float32)
    if places:
        texts = [index.names[items[column]][languages[row]] for row, column in places]
        vector_LND[tuple(np.array(places).T)] = embedder.texts(index.task, texts)
    return Named(items, languages, vector_LND)


def failures(index: Pictures, named: Named, groups: Groups) -> dict[str, list[Example]]:
    """By group, the queries whose picture ranks last among the held-out pictures.

    Each picture and each language is shown once in a group at most, the worst first.
    """
    gallery = np.array(held_out(index.splits))
    rank_LN = _ranks(index, named, gallery)
    return {group: _worst(index, named, members, rank_LN, gallery)
            for group, members in groups.items()}  # fmt: skip


def _worst(
    index: Pictures, named: Named, members: Sequence[str], rank_LN: np.ndarray, gallery: np.ndarray
) -> list[Example]:
    rows = [row for row, language in enumerate(named.languages) if language in members]
    asked = [(rank_LN[row, n], row, n) for row in rows for n in range(len(named.items))]
    worst: list[Example] = []
    used: set[tuple[str, int]] = set()
    for rank, row, n in sorted(asked, key=lambda one: -one[0]):
        if len(worst) == FAILURES or rank <= 1:
            break
        if used & {('row', row), ('item', n)}:
            continue
        used |= {('row', row), ('item', n)}
        query_D = named.vector_LND[row, n]
        worst.append(_example(index, named.languages[row], named.items[n], query_D, gallery))
    return worst


def _ranks(index: Pictures, named: Named, gallery: np.ndarray) -> np.ndarray:
    """The rank of the right picture, int64 [L, N]; 0 where there is no query."""
    image_MD = index.image_ND[gallery]
    own_ND = index.image_ND[named.items]
    ranks = []
    for query_ND in named.vector_LND:
        right_N = (query_ND * own_ND).sum(1)
        # The same product in another order of sums: what is nearer than its rounding is a tie.
        above_N = (query_ND @ image_MD.T > right_N[:, None] + 1e-5).sum(1)
        ranks.append(np.where(np.isfinite(right_N), above_N + 1, 0))
    return np.stack(ranks) if ranks else np.zeros((0, len(named.items)), np.int64)


def _example(
    index: Pictures, language: str, item: int, query_D: np.ndarray, gallery: np.ndarray
) -> Example:
    score_M = index.image_ND[gallery] @ query_D
    best = gallery[np.argsort(-score_M, kind='stable')[:FOUND]]
    right = float(score_M[np.flatnonzero(gallery == item)[0]])
    return Example(
        language, index.names[item][language], _shown(index, item, item),
        [_shown(index, int(i), item) for i in best], int((score_M > right).sum()) + 1,
    )  # fmt: skip


def _shown(index: Pictures, item: int, wanted: int) -> Shown:
    return Shown(index.names[item].get('en', ''), index.pngs[item], item == wanted)


def _hash(names: Mapping[str, str]) -> bytes:
    return hashlib.sha256(str(sorted(names.items())).encode()).digest()
