"""Exact nearest neighbours beside faiss, paired, and the time to rank a retrieval test set.

    python benchmarks/evaluation_speed.py [--queries 4000] [--items 1000000] [--width 512]

faiss-cpu's IndexFlatIP and `mural_jax.similarity.nearest` search the same random unit vectors in
turn, on the same cores, three times each after a warm-up that is not counted. Prints medians, the
median ratio, the share of equal answers, and the peak of memory. Work is linear in queries.
Needs faiss-cpu, which the package does not.
"""

import argparse
import resource
import statistics
import time

import faiss
import numpy as np

from mural_jax.evaluation.metrics.recall import both_ways
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
    parser.add_argument('--pictures', type=int, default=5000)
    parser.add_argument('--texts', type=int, default=30_000)
    given = parser.parse_args()
    rng = np.random.default_rng(0)
    query_QD, item_ND = (units(rng, n, given.width) for n in (given.queries, given.items))
    place_QK = find_nearest(query_QD, item_ND, given.k)[1]
    print(f'peak with ours alone: {peak():.2f} GB, of them items {item_ND.nbytes / 1e9:.2f} GB')
    index = faiss.IndexFlatIP(given.width)
    index.add(item_ND)
    found_QK = index.search(query_QD, given.k)[1]
    ours, theirs = [], []
    for _ in range(RUNS):
        ours.append(seconds_of(lambda: find_nearest(query_QD, item_ND, given.k)))
        theirs.append(seconds_of(lambda: index.search(query_QD, given.k)))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs))
    print(
        f'top {given.k} of {given.items:,} items, {given.width} numbers each, for '
        f'{given.queries:,} queries: ours {statistics.median(ours):.1f} s, '
        f'faiss {statistics.median(theirs):.1f} s, ratio {ratio:.2f}, '
        f'the same items {same(place_QK, found_QK):.5f}'
    )
    image_ND = units(rng, given.pictures, given.width)
    owner_M = np.arange(given.texts) % given.pictures
    text_MD = image_ND[owner_M] + 3 * units(rng, given.texts, given.width)
    seconds = [
        seconds_of(lambda: both_ways(image_ND, text_MD, owner_M, 'image', 'text'))
        for _ in range(RUNS + 1)
    ]
    print(
        f'retrieval, {given.texts:,} texts and {given.pictures:,} pictures, both ways: '
        f'{statistics.median(seconds[1:]):.1f} s, the first time {seconds[0]:.1f} s'
    )


def seconds_of(work) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def units(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    rows = rng.standard_normal((count, width), np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def same(first_QK: np.ndarray, second_QK: np.ndarray) -> float:
    """The share of answers that both give, whatever their order."""
    return float(np.mean([len(set(a) & set(b)) / len(a) for a, b in zip(first_QK, second_QK)]))


def peak() -> float:
    """The most memory of this process so far, GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


if __name__ == '__main__':
    main()
