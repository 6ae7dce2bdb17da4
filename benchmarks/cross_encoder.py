"""Seconds of a full retrieval: one joint pass per pair, against encoding each side alone.

    python benchmarks/cross_encoder.py --joint=WORKDIR --decomposed=WORKDIR --data_dir=DIR
        --dataset=captions/scenes --split=test [--sizes 100 300 1000] [--coco 5000 25000]

Both models retrieve among the same N texts and N images of a split, after everything is compiled.
For the decomposed model the seconds are the median of RUNS runs.

The last row is the COCO protocol, extrapolated from the seconds of a pass at the largest N. Only
its scoring is measured, on random vectors at the full size.
"""

import argparse
import dataclasses
import statistics
import time
from pathlib import Path

import numpy as np

from mural_jax.evaluation.embed import ModelEmbedder
from mural_jax.evaluation.evaluators.base import select_with_text
from mural_jax.evaluation.evaluators.cross_encoder import CrossEncoder
from mural_jax.evaluation.metrics.ranking import rank_queries
from mural_jax.evaluation.metrics.recall import group_by_owner, recall_both_ways
from mural_jax.runs.restore import restore, restored_split_data

RUNS = 5


def main() -> None:
    arguments = parse_arguments()
    joint, decomposed = (
        restored_split_data(restore(workdir), arguments.data_dir)
        for workdir in (arguments.joint, arguments.decomposed)
    )
    language = arguments.language
    evaluator = CrossEncoder(dataset=arguments.dataset, split=arguments.split)
    examples = decomposed.read_examples(
        arguments.dataset, arguments.split, evaluator.text, images=True
    )
    places = select_with_text(examples, [language], evaluator)
    texts = [examples.first_texts[i][language] for i in places]
    visual = examples.decode(0, len(examples.ids))[places]

    def score_all_pairs(size: int) -> dict[str, float]:
        smaller = dataclasses.replace(evaluator, gallery=size)
        return smaller(joint, [language]).results[language]

    score_all_pairs(12)  # compiles
    print('| N | joint passes | joint s | passes alone | encode s | score s | times faster |')
    print('| ---: | ---: | ---: | ---: | ---: | ---: | ---: |')
    for size in arguments.sizes:
        row = score_all_pairs(size)
        encode, score = time_retrieval(decomposed.embedder, texts[:size], visual[:size])
        ratio = row['seconds_to_score'] / (encode + score)
        print(
            f'| {size:,} | {row["passes"]:,} | {row["seconds_to_score"]:.2f} | {2 * size:,} | '
            f'{encode:.3f} | {score:.3f} | {ratio:,.0f} |',
            flush=True,
        )
    images, captions = arguments.coco
    pairs, passes = images * captions, images + captions
    joint_seconds = pairs * row['seconds_to_score'] / row['passes']
    encode *= passes / (2 * size)
    width = decomposed.embedder.embed_texts('image_text', texts[:1]).shape[1]
    score = time_scoring(images, captions, width)
    print(
        f'| {images:,} x {captions:,}, extrapolated | {pairs:,} | {joint_seconds:,.0f} | '
        f'{passes:,} | {encode:.2f} | {score:.2f} | {joint_seconds / (encode + score):,.0f} |'
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--joint', type=Path, required=True, help='Workdir of the joint model.')
    parser.add_argument(
        '--decomposed', type=Path, required=True, help='Workdir of the decomposed model.'
    )
    parser.add_argument('--data_dir', type=Path, required=True)
    parser.add_argument('--dataset', default='captions/scenes')
    parser.add_argument('--split', default='test')
    parser.add_argument('--language', default='en')
    parser.add_argument('--sizes', type=int, nargs='+', default=[100, 300, 1000])
    parser.add_argument('--coco', type=int, nargs=2, default=[5000, 25000])
    return parser.parse_args()


def time_retrieval(
    embedder: ModelEmbedder, texts: list[str], visual: np.ndarray
) -> tuple[float, float]:
    """Median seconds (to encode N texts and N images, to score and rank them both ways)."""
    times = []
    for _ in range(RUNS + 1):  # The first run compiles.
        started = time.perf_counter()
        image_ND = embedder.embed_decoded('image_text', visual)
        text_ND = embedder.embed_texts('image_text', texts)
        encoded = time.perf_counter()
        recall_both_ways(image_ND, text_ND, np.arange(len(text_ND)), 'image', 'text')
        times.append((encoded - started, time.perf_counter() - encoded))
    encode, score = zip(*times[1:])
    return statistics.median(encode), statistics.median(score)


def time_scoring(images: int, captions: int, width: int) -> float:
    """Median seconds to score and rank random vectors of `images` and `captions`, both ways."""
    rng = np.random.default_rng(0)
    image_ND, text_MD = (rng.normal(size=(n, width)).astype(np.float32) for n in (images, captions))
    image_of_text_M = np.arange(captions) % images
    times = []
    for _ in range(3):
        started = time.perf_counter()
        rank_queries(text_MD, image_ND, list(image_of_text_M[:, None]))
        rank_queries(image_ND, text_MD, group_by_owner(image_of_text_M, images))
        times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == '__main__':
    main()
