"""Seconds of full retrieval: every pair passed jointly, against each side encoded alone.

    python benchmarks/cross_encoder.py --joint=WORKDIR --decomposed=WORKDIR --data_dir=DIR
        --dataset=captions/scenes --split=test [--sizes 100 300 1000] [--coco 5000 25000]

Both models on the same texts and pictures of a split, N of each, everything compiled before. Of
the decomposed one the median of RUNS. Then the COCO protocol, extrapolated from the seconds of a
pass that the largest N took; the scores of its embeddings are computed in that size.
"""

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import numpy as np

from mural_jax.evaluation.evaluators.base import named
from mural_jax.evaluation.evaluators.cross_encoder import CrossEncoder
from mural_jax.evaluation.metrics.ranking import ranks
from mural_jax.evaluation.metrics.recall import both_ways, owned
from mural_jax.runs.restore import restore, sources

RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--joint', type=Path, required=True)
    parser.add_argument('--decomposed', type=Path, required=True)
    parser.add_argument('--data_dir', type=Path, required=True)
    parser.add_argument('--dataset', default='captions/scenes')
    parser.add_argument('--split', default='test')
    parser.add_argument('--language', default='en')
    parser.add_argument('--sizes', type=int, nargs='+', default=[100, 300, 1000])
    parser.add_argument('--coco', type=int, nargs=2, default=[5000, 25000])
    given = parser.parse_args()
    joint, alone = (
        sources(restore(workdir), given.data_dir) for workdir in (given.joint, given.decomposed)
    )
    evaluator = CrossEncoder(dataset=given.dataset, split=given.split)
    items = alone.items(given.dataset, given.split, evaluator.text, images=True)
    found = named(items, [given.language], evaluator)
    texts = [items.names[i][given.language] for i in found]
    visual = items.decode(0, len(items.ids))[found]

    def all_pairs(size: int) -> dict[str, float]:
        few = dataclasses.replace(evaluator, gallery=size)
        return few(joint, [given.language]).results[given.language]

    all_pairs(12)  # Compiles.
    print('| N | joint passes | joint s | passes alone | encode s | score s | times faster |')
    print('| ---: | ---: | ---: | ---: | ---: | ---: | ---: |')
    for size in given.sizes:
        row = all_pairs(size)
        encode, score = retrieval(alone.embedder, texts[:size], visual[:size])
        ratio = row['seconds_to_score'] / (encode + score)
        print(
            f'| {size:,} | {row["passes"]:,} | {row["seconds_to_score"]:.2f} | {2 * size:,} | '
            f'{encode:.3f} | {score:.3f} | {ratio:,.0f} |',
            flush=True,
        )
    images, captions = given.coco
    pairs, passes = images * captions, images + captions
    slow = pairs * row['seconds_to_score'] / row['passes']
    encode *= passes / (2 * size)
    score = scores(images, captions, alone.embedder.texts('image_text', texts[:1]).shape[1])
    print(
        f'| {images:,} x {captions:,}, extrapolated | {pairs:,} | {slow:,.0f} | {passes:,} | '
        f'{encode:.2f} | {score:.2f} | {slow / (encode + score):,.0f} |'
    )


def retrieval(embedder, texts: list[str], visual: np.ndarray) -> tuple[float, float]:
    """Median seconds to encode N texts and N pictures, and to score and rank them both ways."""
    times = []
    for _ in range(RUNS + 1):  # The first one compiles.
        started = time.perf_counter()
        image_ND = embedder.visual('image_text', visual)
        text_ND = embedder.texts('image_text', texts)
        encoded = time.perf_counter()
        both_ways(image_ND, text_ND, np.arange(len(text_ND)), 'image', 'text')
        times.append((encoded - started, time.perf_counter() - encoded))
    encode, score = zip(*times[1:])
    return statistics.median(encode), statistics.median(score)


def scores(images: int, captions: int, width: int) -> float:
    """Median seconds to score and rank so many vectors, both ways."""
    rng = np.random.default_rng(0)
    image_ND, text_MD = (rng.normal(size=(n, width)).astype(np.float32) for n in (images, captions))
    right_M = np.arange(captions) % images
    times = []
    for _ in range(3):
        started = time.perf_counter()
        ranks(text_MD, image_ND, list(right_M[:, None]))
        ranks(image_ND, text_MD, owned(right_M, images))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == '__main__':
    main()
