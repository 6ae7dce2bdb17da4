"""The order of a stream, by arithmetic: position -> (source, record).

Positions are cut into blocks. In a block each source has a fixed quota of slots, so the mixture
is exact; the slots of a block and the records of an epoch are permuted by an index shuffle. No
state is kept: any position can be asked for at any time, on any host.
"""

import numpy as np
import tensorflow as tf

BLOCK = 4096  # Positions in a block; a source with a share below 1/4096 is rounded to none or one.


class Mixture:
    """Which source and which of its records stands at a position."""

    def __init__(self, sizes: np.ndarray, weights: np.ndarray, seed: int):
        """`sizes` and `weights` of the sources: records in each, and how often each is drawn."""
        assert (sizes > 0).all() and (weights >= 0).all()
        self.sizes = np.asarray(sizes, np.int64)
        self.quotas = quotas(weights, BLOCK)
        self._starts = np.concatenate([[0], np.cumsum(self.quotas)])
        self._seed = seed

    def locate(self, position_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, record) at each position, two int64 [B]."""
        block_B, slot_B = np.divmod(position_B, BLOCK)
        slot_B = index_shuffle(slot_B, np.full_like(slot_B, BLOCK), self._seed, block_B)
        source_B = np.searchsorted(self._starts, slot_B, side='right') - 1
        drawn_B = block_B * self.quotas[source_B] + slot_B - self._starts[source_B]
        epoch_B, record_B = np.divmod(drawn_B, self.sizes[source_B])
        # Epochs of different sources must not share a permutation.
        stir_B = (source_B + 1) * 1_000_003 + epoch_B
        return source_B, index_shuffle(record_B, self.sizes[source_B], self._seed, stir_B)


def quotas(weights: np.ndarray, slots: int) -> np.ndarray:
    """Shares `slots` by weight with the largest remainder method, int64, summing to `slots`."""
    exact = np.asarray(weights, np.float64) / np.sum(weights) * slots
    shares = np.floor(exact).astype(np.int64)
    order = np.argsort(shares - exact, kind='stable')
    shares[order[: slots - shares.sum()]] += 1
    return shares


def index_shuffle(
    index_B: np.ndarray, size_B: np.ndarray, seed: int, stir_B: np.ndarray
) -> np.ndarray:
    """The place of each index in a permutation of range(size) named by (seed, stir), int64 [B]."""
    key_B3 = np.stack([np.full_like(stir_B, seed), stir_B, stir_B >> 32], axis=1) & 0xFFFFFFFF
    with tf.device('cpu'):
        shuffled_B = tf.raw_ops.RandomIndexShuffle(
            index=index_B.astype(np.int64), seed=key_B3.astype(np.uint32),
            max_index=size_B.astype(np.int64) - 1, rounds=4,
        )  # fmt: skip
    return shuffled_B.numpy()


def uniform(seed: int, position_B: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers in [0, 1) for each position, float32 [B, count], the same on every host.

    The finaliser of SplitMix64 (Steele et al. 2014) over (seed, position, number).
    """
    with np.errstate(over='ignore'):
        x = position_B.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
        x = x + np.arange(count, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
        x = x + np.uint64(seed) * np.uint64(0xBF58476D1CE4E5B9)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x = x ^ (x >> np.uint64(31))
    return ((x >> np.uint64(40)).astype(np.float32)) / np.float32(2**24)
