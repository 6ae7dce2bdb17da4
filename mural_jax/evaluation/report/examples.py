"""Examples of what a model finds: queries in many languages, and its worst failures."""

import hashlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from mural_jax.evaluation.scores import Groups
from mural_jax.evaluation.split_data import Embedder

RESULTS = 6  # images shown for each query
QUERIES = 12  # languages of each group that have a query, at most
FAILURES = 4  # failures shown for each group
TEXTS = 8192  # names that are embedded for failures and the language map, about
IMAGES = 256  # images whose names are embedded, at most


class IndexedImages(Protocol):
    """An index of N images, see `search.store.ImageIndex`."""

    @property
    def image_ND(self) -> np.ndarray: ...

    @property
    def names(self) -> list[Mapping[str, str]]: ...

    @property
    def splits(self) -> list[str]: ...

    @property
    def space(self) -> str: ...

    def read_image(self, number: int) -> bytes: ...


class ShownImage(NamedTuple):
    """An image on the page. right: whether it is the image that the query names."""

    name: str
    png: bytes
    right: bool


class QueryExample(NamedTuple):
    """A query, the image that it names, the best results, and the rank of that image from 1."""

    language: str
    query: str
    target: ShownImage
    results: list[ShownImage]
    rank: int


class EmbeddedNames(NamedTuple):
    """The embedded names of N images in L languages.

    places: the images' numbers in the index. vector_LND: NaN where an image has no name in a
    language.
    """

    places: list[int]
    languages: list[str]
    vector_LND: np.ndarray


def query_examples(index: IndexedImages, embedder: Embedder, groups: Groups) -> list[QueryExample]:
    """Returns a query in each of the first languages of each group, against all images."""
    chosen = list(choose_queries(index.names, index.splits, groups))
    if not chosen:
        return []
    queries = [index.names[place][language] for language, place in chosen]
    query_QD = embedder.embed_texts(index.space, queries)
    gallery_N = np.arange(len(index.names))
    return [
        _make_example(index, language, place, query_D, gallery_N)
        for (language, place), query_D in zip(chosen, query_QD)
    ]


def choose_queries(
    names: Sequence[Mapping[str, str]], splits: Sequence[str], groups: Groups
) -> Iterator[tuple[str, int]]:
    """Yields (language, image): held-out images in the order of a hash.

    Nobody picks them, so good and bad results appear as they come.
    """
    order = sorted(held_out_images(splits), key=lambda place: _hash_names(names[place]))
    # One endless round: each query goes on where the one before stopped.
    places = itertools.cycle(order)
    for group in groups.values():
        for language in list(group)[:QUERIES]:
            place = next(
                (i for i in itertools.islice(places, len(order)) if language in names[i]), -1
            )
            if place >= 0:
                yield language, place


def held_out_images(splits: Sequence[str]) -> list[int]:
    """Returns the images of the split `test`, or all images if there is no such split."""
    return [i for i, split in enumerate(splits) if split == 'test'] or list(range(len(splits)))


def embed_names(
    index: IndexedImages, embedder: Embedder, languages: Sequence[str]
) -> EmbeddedNames:
    """Embeds about TEXTS names of held-out images.

    Images with names in the most languages come first, those with equally many in the order of a
    hash.
    """
    languages = list(dict.fromkeys(languages))

    def order(place: int) -> tuple[int, bytes]:
        names = index.names[place]
        # Many languages first: the map needs parallel texts.
        return -sum(x in names for x in languages), _hash_names(names)

    # Fewer images for more languages, so that the number of texts stays about the same.
    count = max(16, min(IMAGES, TEXTS // max(len(languages), 1)))
    places = sorted(held_out_images(index.splits), key=order)[:count]
    cells = [
        (row, column)
        for row, language in enumerate(languages)
        for column, place in enumerate(places)
        if language in index.names[place]
    ]
    dim = index.image_ND.shape[1]
    vector_LND = np.full((len(languages), len(places), dim), np.nan, np.float32)
    if cells:
        texts = [index.names[places[column]][languages[row]] for row, column in cells]
        vector_LND[tuple(np.array(cells).T)] = embedder.embed_texts(index.space, texts)
    return EmbeddedNames(places, languages, vector_LND)


def worst_failures(
    index: IndexedImages, names: EmbeddedNames, groups: Groups
) -> dict[str, list[QueryExample]]:
    """Returns, by group, the queries whose image ranks last among the held-out images.

    The worst come first; a group shows each image and each language at most once.
    """
    gallery_M = np.array(held_out_images(index.splits))
    rank_LN = _rank_targets(index, names, gallery_M)
    return {
        group: _find_worst(index, names, members, rank_LN, gallery_M)
        for group, members in groups.items()
    }


def _find_worst(
    index: IndexedImages,
    names: EmbeddedNames,
    members: Sequence[str],
    rank_LN: np.ndarray,
    gallery_M: np.ndarray,
) -> list[QueryExample]:
    rows = [row for row, language in enumerate(names.languages) if language in members]
    queries = [(rank_LN[row, n], row, n) for row in rows for n in range(len(names.places))]
    worst: list[QueryExample] = []
    used_rows: set[int] = set()
    used_columns: set[int] = set()
    for rank, row, n in sorted(queries, key=lambda query: -query[0]):
        # Rank 1 is no failure, and rank 0 is a missing name.
        if len(worst) == FAILURES or rank <= 1:
            break
        if row in used_rows or n in used_columns:
            continue
        used_rows.add(row)
        used_columns.add(n)
        query_D = names.vector_LND[row, n]
        worst.append(
            _make_example(index, names.languages[row], names.places[n], query_D, gallery_M)
        )
    return worst


def _rank_targets(index: IndexedImages, names: EmbeddedNames, gallery_M: np.ndarray) -> np.ndarray:
    """Returns the rank of the image that each name names, int64 [L, N]; 0 for a missing name."""
    image_MD = index.image_ND[gallery_M]
    own_ND = index.image_ND[names.places]
    ranks = []
    for query_ND in names.vector_LND:
        right_N = (query_ND * own_ND).sum(1)
        # The matrix product sums in another order: scores closer than its rounding are ties.
        above_N = (query_ND @ image_MD.T > right_N[:, None] + 1e-5).sum(1)
        ranks.append(np.where(np.isfinite(right_N), above_N + 1, 0))
    return np.stack(ranks) if ranks else np.zeros((0, len(names.places)), np.int64)


def _make_example(
    index: IndexedImages, language: str, place: int, query_D: np.ndarray, gallery_M: np.ndarray
) -> QueryExample:
    # In NumPy: a few queries need no accelerator.
    score_M = index.image_ND[gallery_M] @ query_D
    best = gallery_M[np.argsort(-score_M, kind='stable')[:RESULTS]]
    right = float(score_M[np.flatnonzero(gallery_M == place)[0]])
    return QueryExample(
        language,
        index.names[place][language],
        _show_image(index, place, place),
        [_show_image(index, int(i), place) for i in best],
        int((score_M > right).sum()) + 1,
    )


def _show_image(index: IndexedImages, place: int, target: int) -> ShownImage:
    return ShownImage(index.names[place].get('en', ''), index.read_image(place), place == target)


def _hash_names(names: Mapping[str, str]) -> bytes:
    return hashlib.sha256(str(sorted(names.items())).encode()).digest()
