"""Nearly equal pictures and texts: hashes of 64 bits whose distance says how near.

Search is by bands: hashes that differ in at most d bits agree in one of d + 1 bands of bits
wholly (pigeonhole), so nothing within the distance is missed.
"""

import hashlib

import numpy as np
from PIL import Image

BITS = 64
SIDE, LOWEST = 32, 8  # A picture of 32 x 32 grey values, of its frequencies the lowest 8 x 8.
MAX_PAIRS = 2**24  # candidate pairs that are compared at a time

_FREQUENCY = np.arange(LOWEST)[:, None] * (2 * np.arange(SIDE)[None] + 1) * np.pi / (2 * SIDE)
_COSINES = np.cos(_FREQUENCY)  # the rows of a type-II cosine transform


def image_hash(image_HWC: np.ndarray) -> int:
    """The perceptual hash of a picture, uint8 [H, W, 3], as an unsigned number of 64 bits.

    The signs of its low frequencies about their median (pHash, Zauner 2010): resizing, recoding
    and slight recolouring change few bits.
    """
    grey = Image.fromarray(image_HWC).convert('L')
    # Not by boxes: where sides do not divide they alias, and a copy of half the size gets far.
    grey_SS = np.asarray(grey.resize((SIDE, SIDE), Image.Resampling.BILINEAR), np.float64)
    low_KK = _COSINES @ grey_SS @ _COSINES.T
    # A flat picture has only the mean, the first frequency: rounding must not decide the rest.
    low_KK = np.where(np.abs(low_KK) < 1e-6 * SIDE * SIDE, 0.0, low_KK)
    bits = low_KK.ravel() > np.median(low_KK)
    return int.from_bytes(np.packbits(bits).tobytes(), 'big')


def text_hash(text: str) -> int:
    """A 64-bit hash of a text; equal texts only share one."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'big')


def text_sketch(text: str, size: int = 4) -> int:
    """The SimHash (Charikar 2002) of a text's runs of `size` characters, 64 bits unsigned."""
    grams = {text[i : i + size] for i in range(max(1, len(text) - size + 1))}
    digests = b''.join(hashlib.blake2b(gram.encode(), digest_size=8).digest() for gram in grams)
    bits = np.unpackbits(np.frombuffer(digests, np.uint8).reshape(len(grams), 8), axis=1)
    return int.from_bytes(np.packbits(bits.mean(0) > 0.5).tobytes(), 'big')


def find_pairs(
    query_N: np.ndarray, table_M: np.ndarray, distance: int
) -> tuple[np.ndarray, np.ndarray]:
    """All (query, row) at most `distance` bits apart, two int64 [P] sorted by query, then row."""
    found = [np.zeros((2, 0), np.int64)]
    for shift, width in _split_bands(distance + 1):
        mask = np.uint64((1 << width) - 1)
        query_band_N, table_band_M = ((x >> np.uint64(shift)) & mask for x in (query_N, table_M))
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
            found.append(np.stack([query[near], row[near]]))
    both = np.unique(np.concatenate(found, axis=1), axis=1)
    return both[0], both[1]


def find_later_copies(hash_N: np.ndarray, distance: int) -> np.ndarray:
    """bool [N]: what has an earlier one, itself kept, at most `distance` bits away."""
    unique_U, first_U, back_N = np.unique(hash_N, return_index=True, return_inverse=True)
    copy_N = first_U[back_N] != np.arange(len(hash_N))
    if distance == 0:
        return copy_N
    order_U = np.argsort(first_U)  # the hashes in the order of their first one
    left, right = find_pairs(unique_U[order_U], unique_U[order_U], distance)
    dropped_U = np.zeros(len(unique_U), bool)
    for later, earlier in zip(left.tolist(), right.tolist()):
        if earlier < later and not dropped_U[earlier]:
            dropped_U[later] = True
    dropped_by_hash_U = np.empty_like(dropped_U)
    dropped_by_hash_U[order_U] = dropped_U
    return copy_N | dropped_by_hash_U[back_N]


def _split_bands(count: int) -> list[tuple[int, int]]:
    """(shift, width) of `count` bands that cover all bits."""
    edges = np.linspace(0, BITS, count + 1).astype(int).tolist()
    return [(low, high - low) for low, high in zip(edges, edges[1:])]


def _split_chunks(count_N: np.ndarray) -> list[slice]:
    """Slices of the queries with at most MAX_PAIRS candidates each, or one query."""
    ends = np.cumsum(count_N)
    slices, start = [], 0
    while start < len(count_N):
        before = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, before + MAX_PAIRS, 'right')), start + 1)
        slices.append(slice(start, stop))
        start = stop
    return slices
