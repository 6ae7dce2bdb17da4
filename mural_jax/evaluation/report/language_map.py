"""Where the mean text embedding of each language lies, in two dimensions.

MURAL shows that its text embeddings cluster by family and by area (Jain et al. 2021,
arXiv:2109.05125). How this is drawn is ours: the mean over languages is subtracted text by text,
so that only what a language adds is left, and not what the texts are about.
"""

from typing import NamedTuple

import numpy as np

NEARLY = 0.9  # of the languages have a text of an item that counts; ours
LEAST = 8  # items, or there is no map; ours


class Map(NamedTuple):
    """Languages in the plane: codes, xy_L2, how much of the variance each axis holds, in [0, 1],
    and of how many items the means are."""

    languages: list[str]
    xy_L2: np.ndarray
    share_2: np.ndarray
    items: int


def place(vector_LND: np.ndarray, languages: list[str]) -> Map | None:
    """The languages by PCA of their mean embeddings; None where too few texts are parallel.

    vector_LND: N items in L languages, NaN where an item has no text in one. An item counts where
    nearly all languages have it, a language where it has half of the items that count.
    """
    there_LN = np.isfinite(vector_LND).all(-1)
    kept_L = there_LN.any(1)
    counts_N = there_LN.sum(0) >= NEARLY * kept_L.sum()
    kept_L = there_LN[:, counts_N].mean(1) >= 0.5 if counts_N.any() else kept_L & False
    if counts_N.sum() < LEAST or kept_L.sum() < 3:
        return None
    vector_LND = vector_LND[kept_L][:, counts_N].astype(np.float64)
    apart_LND = vector_LND - np.nanmean(vector_LND, axis=0, keepdims=True)
    mean_LD = np.nanmean(apart_LND, axis=1)
    xy_L2, share_2 = principal(mean_LD)
    names = [language for language, kept in zip(languages, kept_L) if kept]
    return Map(names, xy_L2, share_2, int(counts_N.sum()))


def principal(point_LD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(the first two principal components [L, 2], their shares of the variance [2]).

    By singular values of the centred points; the largest coordinate of an axis is positive, so
    that pictures of the same model are the same.
    """
    left_LK, value_K, _ = np.linalg.svd(point_LD - point_LD.mean(0), full_matrices=False)
    xy_L2 = (left_LK * value_K)[:, :2]
    largest_2 = np.take_along_axis(xy_L2, np.abs(xy_L2).argmax(0)[None], axis=0)
    total = max(float((value_K**2).sum()), 1e-30)
    return xy_L2 * np.where(largest_2 < 0, -1, 1), value_K[:2] ** 2 / total
