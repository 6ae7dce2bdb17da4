"""Examples, and the equations of the objectives one pair at a time in float64."""

import numpy as np


def unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def example(size: int = 16, width: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of queries and results, and ids of which some are shared near and far."""
    rng = np.random.default_rng(0)
    ids = np.arange(2 * size, dtype=np.int32).reshape(size, 2)
    ids[3, 0] = ids[9, 0]  # the same picture twice
    ids[5, 1] = ids[-4, 1]  # the same text twice
    ids[7, 0] = ids[1, 1]  # one id in two columns
    return unit(rng, size, width), unit(rng, size, width), ids


def softmax(x, y, ids, margin: float, smoothing: float, temperature: float) -> float:
    x, y = x.astype(np.float64), y.astype(np.float64)
    size, total = len(x), 0.0
    for a, b in ((x, y), (y, x)):
        for i in range(size):
            kept = [j for j in range(size) if j == i or not set(ids[i]) & set(ids[j])]
            score = {j: (a[i] @ b[j] - margin * (i == j)) / temperature for j in kept}
            norm = np.log(sum(np.exp(value) for value in score.values()))
            for j in kept:
                share = smoothing / len(kept) + (1 - smoothing) * (i == j)
                total -= share * (score[j] - norm) / size
    return total


def sigmoid(x, y, ids, temperature: float, bias: float) -> float:
    total = 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j and set(ids[i]) & set(ids[j]):
                continue
            logit = float(x[i].astype(np.float64) @ y[j]) / temperature + bias
            total += np.log1p(np.exp(-logit if i == j else logit)) / len(x)
    return total
