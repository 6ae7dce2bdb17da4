"""The places of languages in the plane, by the mean embedding of their texts.

MURAL shows that its text embeddings cluster by family and by area (Jain et al. 2021,
arXiv:2109.05125). This way of drawing it is ours: the mean over languages is subtracted text by
text, so that what the texts are about is gone, and what a language adds is left.
"""

from typing import NamedTuple

import numpy as np

NEARLY = 0.9  # share of the languages that must have a text of an image for it to count (ours)
LEAST = 8  # images that a map needs (ours)


class LanguageMap(NamedTuple):
    """L languages in the plane.

    xy_L2: their coordinates. share_2: the share of the variance on each axis, in [0, 1].
    image_count: number of images whose texts the means are over.
    """

    languages: list[str]
    xy_L2: np.ndarray
    share_2: np.ndarray
    image_count: int


def place_languages(vector_LND: np.ndarray, languages: list[str]) -> LanguageMap | None:
    """Returns the languages by PCA of their mean embeddings; None if too few texts are parallel.

    vector_LND: texts of N images in L languages, NaN where an image has no text in a language. An
    image counts if nearly all languages have a text of it, a language if it has texts of half of
    the images that count.
    """
    has_text_LN = np.isfinite(vector_LND).all(-1)
    # A language without any text must not raise the bar for images.
    used_L = has_text_LN.any(1)
    counts_N = has_text_LN.sum(0) >= NEARLY * used_L.sum()
    used_L = has_text_LN[:, counts_N].mean(1) >= 0.5 if counts_N.any() else used_L & False
    if counts_N.sum() < LEAST or used_L.sum() < 3:
        return None
    vector_LND = vector_LND[used_L][:, counts_N].astype(np.float64)
    # What is left of a text is how its language differs from the others.
    apart_LND = vector_LND - np.nanmean(vector_LND, axis=0, keepdims=True)
    mean_LD = np.nanmean(apart_LND, axis=1)
    xy_L2, share_2 = principal_components(mean_LD)
    names = [language for language, used in zip(languages, used_L) if used]
    return LanguageMap(names, xy_L2, share_2, int(counts_N.sum()))


def principal_components(point_LD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns (the first two principal components [L, 2], their shares of the variance [2]).

    Computed from the singular values of the centred points. The largest coordinate of each axis is
    positive, so that drawings of the same model are equal.
    """
    # PCA without the covariance matrix, which loses precision.
    left_LK, value_K, _ = np.linalg.svd(point_LD - point_LD.mean(0), full_matrices=False)
    xy_L2 = (left_LK * value_K)[:, :2]
    largest_2 = np.take_along_axis(xy_L2, np.abs(xy_L2).argmax(0)[None], axis=0)
    total = max(float((value_K**2).sum()), 1e-30)
    return xy_L2 * np.where(largest_2 < 0, -1, 1), value_K[:2] ** 2 / total
