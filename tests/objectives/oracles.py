"""Examples, and the equations of objectives one pair at a time in float64."""

import numpy as np


def make_unit_vectors(rng: np.random.Generator, *shape: int) -> np.ndarray:
    x = rng.normal(size=shape)
    return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


def make_example(size: int = 16, width: int = 8) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of queries and results, and ids of which some are shared near and far."""
    rng = np.random.default_rng(0)
    ids = np.arange(2 * size, dtype=np.int32).reshape(size, 2)
    ids[3, 0] = ids[9, 0]  # the same image twice
    ids[5, 1] = ids[-4, 1]  # the same text twice
    ids[7, 0] = ids[1, 1]  # one id in two columns
    return make_unit_vectors(rng, size, width), make_unit_vectors(rng, size, width), ids


def counting_pairs(ids, i: int) -> list[int]:
    """The results that are positive or negative for query i."""
    return [j for j in range(len(ids)) if j == i or not set(ids[i]) & set(ids[j])]


def softmax(x, y, ids, margin: float, smoothing: float, temperature: float) -> float:
    return softmax_of_scores(x.astype(np.float64) @ y.T, ids, margin, smoothing, temperature)


def softmax_of_scores(score_BB, ids, margin: float, smoothing: float, temperature: float) -> float:
    size, total = len(ids), 0.0
    for scores in (score_BB, score_BB.T):
        for i in range(size):
            counts = counting_pairs(ids, i)
            logit = {j: (scores[i, j] - margin * (i == j)) / temperature for j in counts}
            log_sum = np.log(sum(np.exp(value) for value in logit.values()))
            for j in counts:
                share = smoothing / len(counts) + (1 - smoothing) * (i == j)
                total -= share * (logit[j] - log_sum) / size
    return total


def softmax_with_hard_negatives(sides, hard, real, ids, margin: float, temperature: float) -> float:
    """`sides` and `hard` are (queries, results); `real` says which hard negatives count."""
    (x, y), (hard_x, hard_y), (real_x, real_y) = sides, hard, real
    size, total = len(x), 0.0
    for own, other, near, counts in ((x, y, hard_y, real_y), (y, x, hard_x, real_x)):
        own, other, near = (value.astype(np.float64) for value in (own, other, near))
        for i in range(size):
            logits = [
                (own[i] @ other[j] - margin * (i == j)) / temperature
                for j in counting_pairs(ids, i)
            ]
            logits += [own[i] @ near[j] / temperature for j in range(size) if counts[j]]
            right = (own[i] @ other[i] - margin) / temperature
            total += (np.log(np.exp(logits).sum()) - right) / size
    return total


def sigmoid(x, y, ids, temperature: float, bias: float) -> float:
    return sigmoid_of_scores(x.astype(np.float64) @ y.T, ids, temperature, bias)


def sigmoid_of_scores(score_BB, ids, temperature: float, bias: float) -> float:
    total = 0.0
    for i in range(len(ids)):
        for j in counting_pairs(ids, i):
            logit = float(score_BB[i, j]) / temperature + bias
            total += np.log1p(np.exp(-logit if i == j else logit)) / len(ids)
    return total


def late_interaction(left, left_mask, right, right_mask, pooling: str) -> np.ndarray:
    """float64 [Q, R] from token vectors, one token at a time."""
    score_QR = np.zeros((len(left), len(right)))
    for q in range(len(left)):
        for r in range(len(right)):
            ours, theirs = left[q][left_mask[q]], right[r][right_mask[r]]
            if not len(ours) or not len(theirs):
                continue
            cosine = ours.astype(np.float64) @ theirs.astype(np.float64).T
            by_right, by_left = cosine.max(0).sum(), cosine.max(1).sum()
            score_QR[q, r] = {
                'max_left_sum_right': by_right,
                'max_right_sum_left': by_left,
                'symmetric': by_right + by_left,
                'max_left_mean_right': by_right / len(theirs),
            }[pooling]
    return score_QR
