"""Makes the scores that `metrics/test_agreement.py` compares with, by CLIP_benchmark and MTEB.

    pip install clip-benchmark mteb 'numpy<2.4'    # CLIP_benchmark's accuracy fails on later ones
    cd tests; python -m evaluation.agreement --workdir=RUN --data_dir=DATA

RUN is a trained quickstart: `agreement.npz` keeps its embeddings of held-out images and their
names, `agreement.json` the scores.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

ARRAYS = Path(__file__).with_suffix('.npz')
SCORES = Path(__file__).with_suffix('.json')
EVERY = 3  # One in EVERY held-out images, to keep the file small.
LANGUAGES = ['en', 'de', 'ru', 'sw', 'ga']  # Names in these languages are the captions of an image.
RANKS = (1, 5, 10)
Arrays = dict[str, np.ndarray]  # image [N, D], text [M, D], owner [M]: the image of a text


def make_sets() -> dict[str, Arrays]:
    """Random embeddings and those of a model, float32 of length 1."""
    with np.load(ARRAYS) as kept:
        real = dict(kept)
    for side in ('image', 'text'):
        real[side] = normalize(real[side].astype(np.float32))
    return {'random': make_random(), 'real': real}


def make_random() -> Arrays:
    """80 images with one to six texts each, in no order."""
    rng = np.random.default_rng(0)
    image_ND = normalize(rng.normal(size=(80, 16)).astype(np.float32))
    owner_M = rng.permutation(np.repeat(np.arange(80), rng.integers(1, 7, 80)))
    noise_MD = rng.normal(size=(len(owner_M), 16)).astype(np.float32)
    return dict(image=image_ND, text=normalize(image_ND[owner_M] + 0.3 * noise_MD), owner=owner_M)


def split_pairs(arrays: Arrays) -> tuple[np.ndarray, np.ndarray]:
    """Two sides of a bitext: the first and the second text of each image that has two."""
    own = [np.flatnonzero(arrays['owner'] == i) for i in range(len(arrays['image']))]
    first, second = zip(*(numbers[:2] for numbers in own if len(numbers) > 1))
    return arrays['text'][list(first)], arrays['text'][list(second)]


def normalize(vector_ND: np.ndarray) -> np.ndarray:
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


def embed_quickstart(workdir: Path, data_dir: Path) -> Arrays:
    """Held-out emoji and their names in several languages, float16."""
    from mural_jax.runs.restore import restore, restored_split_data

    data = restored_split_data(restore(workdir), data_dir)
    examples = data.read_examples('emoji_cldr/pictures', 'test', 'name', images=True)
    rows = examples.first_texts[::EVERY]
    names = [(i, row[x]) for i, row in enumerate(rows) for x in LANGUAGES if x in row]
    owner, texts = zip(*names)
    image_ND = data.embedder.embed_images('image_text', examples)[::EVERY]
    text_MD = data.embedder.embed_texts('image_text', list(texts))
    return dict(
        image=image_ND.astype(np.float16), text=text_MD.astype(np.float16), owner=np.array(owner)
    )


def score_with_clip_benchmark(arrays: Arrays) -> dict[str, float]:
    """Scores of its own loop, for a model whose images and texts are already embeddings."""
    import torch
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    class Model:
        encode_image = encode_text = staticmethod(lambda x: x)

    images = torch.from_numpy(arrays['image'])
    own = [np.flatnonzero(arrays['owner'] == i).tolist() for i in range(len(images))]
    loader = [(images[i : i + 16], own[i : i + 16]) for i in range(0, len(images), 16)]
    found = zeroshot_retrieval.evaluate(
        Model(),
        loader,
        lambda numbers: torch.from_numpy(arrays['text'][numbers]),
        'cpu',
        amp=False,
        recall_k_list=list(RANKS),
    )
    # The texts act as images, and the images as the names of their classes.
    scores = torch.from_numpy(arrays['text'] @ arrays['image'].T)
    top1, top5 = zeroshot_classification.accuracy(
        scores, torch.from_numpy(arrays['owner']), topk=(1, 5)
    )
    return {name.replace('@', '_'): value for name, value in found.items()} | dict(
        top1=top1, top5=top5
    )


def score_with_mteb(arrays: Arrays) -> dict[str, float]:
    """Scores of its bitext mining, and of its retrieval with several right texts."""
    import torch
    from mteb._evaluators.retrieval_metrics import calculate_retrieval_scores
    from mteb._evaluators.text.bitext_mining_evaluator import BitextMiningEvaluator as Bitext
    from mteb.abstasks import AbsTaskBitextMining

    class Cosine:
        similarity = staticmethod(lambda a, b: torch.as_tensor(a) @ torch.as_tensor(b).T)

    one, other = map(torch.from_numpy, split_pairs(arrays))
    gold = [(i, i) for i in range(len(one))]
    search: Any = Bitext.__new__(Bitext)
    found = {}
    for name, a, b in (('there', one, other), ('back', other, one)):
        nearest = search._similarity_search(a, b, Cosine())
        found[name] = AbsTaskBitextMining._compute_metrics(None, nearest, gold)['accuracy']
    right = arrays['owner'][None] == np.arange(len(arrays['image']))[:, None]
    score_NM = arrays['image'] @ arrays['text'].T
    for name, score, own in (('texts', score_NM, right), ('images', score_NM.T, right.T)):
        ranked = calculate_retrieval_scores(
            {str(q): {str(i): float(s) for i, s in enumerate(row)} for q, row in enumerate(score)},
            {str(q): {str(i): 1 for i in np.flatnonzero(row)} for q, row in enumerate(own)},
            list(RANKS),
        )
        found |= {f'{name}_{key}': float(value) for key, value in ranked.hit_rate.items()}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--workdir', type=Path, required=True)
    parser.add_argument('--data_dir', type=Path, required=True)
    given = parser.parse_args()
    np.savez_compressed(ARRAYS, **embed_quickstart(given.workdir, given.data_dir))
    scores = {
        'versions': {name: version(name) for name in ('clip-benchmark', 'mteb', 'torch')},
        'scores': {
            name: {
                'clip_benchmark': score_with_clip_benchmark(arrays),
                'mteb': score_with_mteb(arrays),
            }
            for name, arrays in make_sets().items()
        },
    }
    SCORES.write_text(json.dumps(scores, indent=1) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
