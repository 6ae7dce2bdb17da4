"""Batches of pairs of regions and texts, in the shapes that a run's streams give."""

import numpy as np
from training.batches import VOCABULARY_SIZE

from mural_jax.runs.run import Run


def make_batch(run: Run, stream: str = 'pairs') -> dict[str, np.ndarray]:
    """Pairs with two, three or four regions; where a match is asked, every second pair is none."""
    rng = np.random.default_rng(0)
    shapes = run.batch_shapes()[stream]
    batch = {name: np.zeros(x.shape, x.dtype) for name, x in shapes.items() if name != 'index'}
    size, length = shapes['text'].shape
    batch['text'] = rng.integers(4, VOCABULARY_SIZE, (size, length)).astype(np.int32)
    batch['text'][:, 12:] = 0
    batch['regions'] = rng.uniform(0, 1, shapes['regions'].shape).astype(np.float32)
    batch['regions'][..., -5:] = [0.1, 0.1, 0.4, 0.4, 0.09]
    for row in range(size):
        batch['regions'][row, 2 + row % 3 :] = 0
    batch['ids'] = rng.integers(0, 2**31 - 1, shapes['ids'].shape).astype(np.int32)
    if 'match' not in batch:
        for field in ('regions', 'text') if 'regions_negative' in batch else ():
            batch[f'{field}_negative'] = np.roll(batch[field], 1, axis=0)
            # Three negatives came out as the examples themselves: they do not count.
            batch[f'{field}_negative'][:3] = batch[field][:3]
        return batch
    matched = np.arange(size) % 2
    batch['match'] = matched.astype(np.int32)
    for name, classes in (('word', VOCABULARY_SIZE), ('region', 100)):
        places = rng.integers(0, 2, shapes[f'{name}_place'].shape)
        batch[f'{name}_place'] = places.astype(np.int32)
        target = rng.integers(0, classes, places.shape)
        batch[f'{name}_target'] = np.where(matched[:, None], target, -1).astype(np.int32)
    return batch
