"""Finds nearly equal images and texts by hashes of 64 bits, which then differ in few bits.

The search is exact. Hashes that differ in at most d bits are equal in at least one of d + 1 bands
of bits (pigeonhole principle), so only hashes that share a band are compared.
"""

import hashlib

import numpy as np
from PIL import Image

BITS = 64
SIDE, LOWEST = 32, 8  # Image hash: 32 x 32 grey values, and their 8 x 8 lowest frequencies.
MAX_PAIRS = 2**24  # Candidate pairs that are compared at a time.

_FREQUENCY = np.arange(LOWEST)[:, None] * (2 * np.arange(SIDE)[None] + 1) * np.pi / (2 * SIDE)
_COSINES = np.cos(_FREQUENCY)  # The rows of a type-II discrete cosine transform.


def image_hash(image_HWC: np.ndarray) -> int:
    """The perceptual hash of an image, uint8 [H, W, 3], as an unsigned integer of 64 bits.

    Each bit says whether a low frequency is above the median of the low frequencies (pHash, Zauner
    2010). Resizing, recoding and slight recolouring change few bits.
    """
    grey = Image.fromarray(image_HWC).convert('L')
    # Bilinear: a box filter would alias unless the sides divide, and the hash of a copy of half
    # the size would differ in many bits.
    grey_SS = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float64)
    low_KK = _COSINES @ grey_SS @ _COSINES.T
    # A flat image has only the first frequency, its mean. The others must be exactly zero, or
    # rounding errors would decide their bits.
    low_KK = np.where(np.abs(low_KK) < 1e-6 * SIDE * SIDE, 0.0, low_KK)
    bits = low_KK.ravel() > np.median(low_KK)
    return int.from_bytes(np.packbits(bits).tobytes(), 'big')


def text_hash(text: str) -> int:
    """A 64-bit hash of a text; different texts have different hashes, but for rare accidents."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'big')


def text_sketch(text: str, size: int = 4) -> int:
    """The SimHash of a text, 64 bits unsigned (Charikar 2002).

    Each bit is the majority of that bit in the hashes of the text's runs of `size` characters.
    """
    grams = {text[i : i + size] for i in range(max(1, len(text) - size + 1))}
    digests = b''.join(hashlib.blake2b(gram.encode(), digest_size=8).digest() for gram in grams)
    bits = np.unpackbits(np.frombuffer(digests, np.uint8).reshape(len(grams), 8), axis=1)
    return int.from_bytes(np.packbits(bits.mean(0) > 0.5).tobytes(), 'big')


def find_pairs(
    query_N: np.ndarray, table_M: np.ndarray, distance: int
) -> tuple[np.ndarray, np.ndarray]:
    """All pairs of hashes that differ in at most `distance` bits.

    Args:
      query_N: Hashes, uint64.
      table_M: Hashes, uint64.
      distance: Largest number of bits.

    Returns:
      (places in query_N, places in table_M), each int64 [P], sorted by query, then by table.
    """
    pairs = [np.zeros((2, 0), np.int64)]
    for shift, width in _split_bands(distance + 1):
        mask = np.uint64((1 << width) - 1)
        query_band_N, table_band_M = ((x >> np.uint64(shift)) & mask for x in (query_N, table_M))
        # In the sorted table all rows with the band of a query are neighbours.
        order_M = np.argsort(table_band_M, kind='stable')
        sorted_M = table_band_M[order_M]
        first_N = np.searchsorted(sorted_M, query_band_N, 'left')
        count_N = np.searchsorted(sorted_M, query_band_N, 'right') - first_N
        for part in _split_chunks(count_N):
            query = np.repeat(np.arange(part.start, part.stop), count_N[part])
            within = np.arange(len(query)) - np.repeat(
                np.cumsum(count_N[part]) - count_N[part], count_N[part]
            )
            row = order_M[np.repeat(first_N[part], count_N[part]) + within]
            near = np.bitwise_count(query_N[query] ^ table_M[row]) <= distance
            pairs.append(np.stack([query[near], row[near]]))
    # A pair that shares several bands was found several times.
    both = np.unique(np.concatenate(pairs, axis=1), axis=1)
    return both[0], both[1]


def find_later_copies(hash_N: np.ndarray, distance: int) -> np.ndarray:
    """Which hashes are copies: bool [N], True if an earlier one is at most `distance` bits away.

    The earlier one must not be a copy itself, so a chain of near hashes does not drop them all.
    """
    unique_U, first_U, back_N = np.unique(hash_N, return_index=True, return_inverse=True)
    copy_N = first_U[back_N] != np.arange(len(hash_N))
    if distance == 0:
        return copy_N
    order_U = np.argsort(first_U)  # Different hashes, in the order of their first occurrence.
    left, right = find_pairs(unique_U[order_U], unique_U[order_U], distance)
    dropped_U = np.zeros(len(unique_U), bool)
    # Pairs are sorted by the later hash, so it is known by then whether the earlier one is dropped.
    for later, earlier in zip(left.tolist(), right.tolist()):
        if earlier < later and not dropped_U[earlier]:
            dropped_U[later] = True
    dropped_by_hash_U = np.empty_like(dropped_U)
    dropped_by_hash_U[order_U] = dropped_U
    return copy_N | dropped_by_hash_U[back_N]


def _split_bands(count: int) -> list[tuple[int, int]]:
    """(shift, width) of `count` bands that together cover all bits."""
    edges = np.linspace(0, BITS, count + 1).astype(int).tolist()
    return [(low, high - low) for low, high in zip(edges, edges[1:])]


def _split_chunks(count_N: np.ndarray) -> list[slice]:
    """Slices of the queries, each with at most MAX_PAIRS candidates or with a single query."""
    ends = np.cumsum(count_N)
    slices, start = [], 0
    while start < len(count_N):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + MAX_PAIRS, 'right')), start + 1)
        slices.append(slice(start, stop))
        start = stop
    return slices
