"""Seconds of exact nearest neighbours, against faiss, and of ranking a retrieval test set.

    python benchmarks/evaluation_speed.py [--queries 4000] [--items 1000000] [--width 512]

`mural_jax.similarity.nearest` and IndexFlatIP of faiss-cpu search the same random unit vectors on
the same cores. They take turns, three times each after an uncounted warm-up. Prints medians, the
median ratio, the share of equal answers, and the peak memory. The work is linear in the number of
queries. Needs faiss-cpu, which is no dependency of the package.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import faiss
import numpy as np

from mural_jax.evaluation.metrics.recall import recall_both_ways
from mural_jax.similarity.nearest import find_nearest

RUNS = 3


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--queries', type=int, default=4000)
    parser.add_argument('--items', type=int, default=1_000_000)
    parser.add_argument('--width', type=int, default=512)
    parser.add_argument('--k', type=int, default=10)
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--texts', type=int, default=30_000)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    query_QD, item_ND = (
        draw_unit_vectors(rng, n, arguments.width) for n in (arguments.queries, arguments.items)
    )
    our_place_QK = find_nearest(query_QD, item_ND, arguments.k)[1]
    print(f'peak before faiss: {peak_memory():.2f} GB; items: {item_ND.nbytes / 1e9:.2f} GB')
    index = faiss.IndexFlatIP(arguments.width)
    index.add(item_ND)
    faiss_place_QK = index.search(query_QD, arguments.k)[1]
    ours, theirs = [], []
    for _ in range(RUNS):
        ours.append(time_call(lambda: find_nearest(query_QD, item_ND, arguments.k)))
        theirs.append(time_call(lambda: index.search(query_QD, arguments.k)))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs))
    print(
        f'top {arguments.k} of {arguments.items:,} items, {arguments.width} numbers each, for '
        f'{arguments.queries:,} queries: ours {statistics.median(ours):.1f} s, '
        f'faiss {statistics.median(theirs):.1f} s, ratio {ratio:.2f}, '
        f'the same items {share_equal(our_place_QK, faiss_place_QK):.5f}'
    )
    image_ND = draw_unit_vectors(rng, arguments.images, arguments.width)
    owner_M = np.arange(arguments.texts) % arguments.images
    text_MD = image_ND[owner_M] + 3 * draw_unit_vectors(rng, arguments.texts, arguments.width)
    seconds = [
        time_call(lambda: recall_both_ways(image_ND, text_MD, owner_M, 'image', 'text'))
        for _ in range(RUNS + 1)
    ]
    print(
        f'retrieval, {arguments.texts:,} texts and {arguments.images:,} images, both ways: '
        f'{statistics.median(seconds[1:]):.1f} s, the first time {seconds[0]:.1f} s'
    )


def time_call(call: Callable) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def draw_unit_vectors(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    rows = rng.standard_normal((count, width), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def share_equal(first_QK: np.ndarray, second_QK: np.ndarray) -> float:
    """The share of answers that both have, in any order."""
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(first_QK, second_QK)]))


def peak_memory() -> float:
    """The peak memory of this process so far, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == '__main__':
    main()
