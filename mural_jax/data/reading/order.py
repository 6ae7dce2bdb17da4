"""The order of a stream, computed: position -> (source, record).

Here a source is whatever the mixture draws from: one language of a data set, for example.

Positions are cut into blocks. Each source has a fixed quota of slots in a block, so its share is
exact; an index shuffle permutes the slots of a block, and the records of an epoch. Nothing is
stored: the order at any position can be computed at any time, in any process.

Weights may change during a run. A segment of the order begins at the position where they change,
and stores how far each source had come, so that its epochs continue.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

BLOCK = 2**18  # positions; a source with a smaller share than one in a block still gets one
FEW = 64  # records that are shuffled by sorting


@dataclasses.dataclass(frozen=True)
class Segment:
    """The order from position `start` on.

    quota_S: slots of each source in a block. before_S: draws of each source before `start`.
    """

    start: int
    quota_S: np.ndarray
    before_S: np.ndarray


class Mixture:
    """Which source, and which of its records, is at a position."""

    def __init__(
        self,
        sizes: np.ndarray,
        weights: np.ndarray,
        seed: int,
        history: Sequence[Mapping] = (),
        position: int = 0,
    ):
        """`sizes` and `weights` of S sources: number of records, and how often each is drawn.

        `history` is what `state` returned earlier in the run. Where its weights differ from
        `weights`, these apply from `position` on, and `changed` is true.
        """
        self.sizes = np.asarray(sizes, np.int64)
        assert (self.sizes > 0).all() and (np.asarray(weights) >= 0).all()
        self._seed = seed
        self._blocks: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._segments = [
            Segment(int(s['start']), *(np.array(s[key], np.int64) for key in ('quotas', 'before')))
            for s in history
        ]
        quota_S = split_quotas(weights, BLOCK)
        if not self._segments:
            self._segments = [Segment(0, quota_S, np.zeros_like(quota_S))]
        self.changed = not np.array_equal(self._segments[-1].quota_S, quota_S)
        if self.changed:
            self._segments.append(Segment(position, quota_S, self._count_draws(position)))

    @property
    def state(self) -> list[dict[str, Any]]:
        """The segments as JSON, for a checkpoint."""
        return [
            {'start': s.start, 'quotas': s.quota_S.tolist(), 'before': s.before_S.tolist()}
            for s in self._segments
        ]

    def locate(self, position_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(source, draw) at each position, both int64 [B]; a source's draws count up from 0."""
        position_B = np.asarray(position_B, np.int64)
        source_B, draw_B = np.zeros_like(position_B), np.zeros_like(position_B)
        ends = [*(segment.start for segment in self._segments[1:]), np.iinfo(np.int64).max]
        for number, end in enumerate(ends):
            segment = self._segments[number]
            block_B, slot_B = np.divmod(position_B - segment.start, BLOCK)
            here_B = (position_B >= segment.start) & (position_B < end)
            # Most batches lie in one block, and few in two that follow each other.
            for block in np.unique(block_B[here_B]):
                b = here_B & (block_B == block)
                source_N, rank_N = self._order_block(number, int(block))
                source = source_B[b] = source_N[slot_B[b]]
                before_B = segment.before_S[source] + block * segment.quota_S[source]
                draw_B[b] = before_B + rank_N[slot_B[b]]
        return source_B, draw_B

    def record(self, source_B: np.ndarray, draw_B: np.ndarray) -> np.ndarray:
        """The record of each draw of a source, int64 [B].

        An epoch draws each record once, and each epoch has an order of its own.
        """
        epoch_B, record_B = np.divmod(draw_B, self.sizes[source_B])
        # Epochs of different sources must not share a permutation.
        stir_B = (source_B + 1) * 1_000_003 + epoch_B
        size_B = self.sizes[source_B]
        few_B = size_B <= FEW
        shuffled_B = np.empty_like(record_B)
        for here_B, shuffle in ((few_B, _shuffle_few), (~few_B, index_shuffle)):
            if here_B.any():
                shuffled_B[here_B] = shuffle(
                    record_B[here_B], size_B[here_B], self._seed, stir_B[here_B]
                )
        return shuffled_B

    def _order_block(self, number: int, block: int) -> tuple[np.ndarray, np.ndarray]:
        """(source of each slot, how many earlier slots in the block have the same source)."""
        if (number, block) not in self._blocks:
            quota_S = self._segments[number].quota_S
            slot_N = np.arange(BLOCK)
            key_N = np.full(BLOCK, block)
            if len(quota_S) > 1:
                slot_N = index_shuffle(slot_N, np.full(BLOCK, BLOCK), self._seed, key_N)
            edge_S = np.cumsum(quota_S)
            source_N = np.searchsorted(edge_S, slot_N, side='right').astype(np.int32)
            # Sorted by source, equal ones in order: the rank among them is the place in the sorted
            # array, less the places of all sources before.
            rank_N = np.empty(BLOCK, np.int32)
            rank_N[np.argsort(source_N, kind='stable')] = np.arange(BLOCK)
            rank_N -= (edge_S - quota_S)[source_N].astype(np.int32)
            # Keeps the block before: batches that are read at the same time may be in both.
            while len(self._blocks) > 1:
                del self._blocks[next(iter(self._blocks))]
            self._blocks[number, block] = source_N, rank_N
        return self._blocks[number, block]

    def _count_draws(self, position: int) -> np.ndarray:
        """How often each source was drawn before a position of the last segment, int64 [S]."""
        segment = self._segments[-1]
        block, slot = divmod(position - segment.start, BLOCK)
        source_N, _ = self._order_block(len(self._segments) - 1, block)
        cut_S = np.bincount(source_N[:slot], minlength=len(segment.quota_S))
        return segment.before_S + block * segment.quota_S + cut_S


def split_quotas(weights: np.ndarray, slots: int) -> np.ndarray:
    """Numbers of slots in proportion to weights, int64, that add up to `slots`.

    The largest remainder method; whatever has a weight above 0 gets at least one slot.
    """
    weights = np.asarray(weights, np.float64)
    assert 0 < np.count_nonzero(weights) <= slots
    exact = weights / weights.sum() * slots
    quotas = np.maximum(np.floor(exact).astype(np.int64), weights > 0)
    left = slots - quotas.sum()
    order = np.argsort(quotas - exact, kind='stable')
    if left >= 0:
        quotas[order[:left]] += 1
    # Small weights that got a whole slot can make the sum too large: whoever is furthest above
    # its share gives a slot back.
    for _ in range(-left):
        quotas[np.argmax(np.where(quotas > 1, quotas - exact, -np.inf))] -= 1
    return quotas


def language_shares(sizes: np.ndarray, alpha: float, cap: float) -> np.ndarray:
    """The share of each language, proportional to n^alpha, float64.

    No share is above `cap` as long as other languages can take more.
    """
    weights = np.where(sizes > 0, np.asarray(sizes, np.float64) ** alpha, 0.0)
    share, capped = weights / weights.sum(), np.zeros(len(weights), bool)
    # Each round caps the shares that are too large, which raises the others.
    while cap * np.count_nonzero(weights) > 1 and (share > cap * (1 + 1e-9)).any():
        capped |= share > cap
        share[capped] = cap
        rest = weights[~capped].sum()
        share[~capped] = weights[~capped] / rest * (1 - cap * capped.sum())
    if cap * np.count_nonzero(weights) <= 1:
        share = (weights > 0) / np.count_nonzero(weights)
    return share


def index_shuffle(
    index_B: np.ndarray, size_B: np.ndarray, seed: int, stir_B: np.ndarray
) -> np.ndarray:
    """Where a permutation of range(size) puts each index, int64 [B].

    (seed, stir) names the permutation. It is computed index by index, without making the whole.
    """
    key_B3 = np.stack([np.full_like(stir_B, seed), stir_B, stir_B >> 32], axis=1) & 0xFFFFFFFF
    with tf.device('cpu'):
        shuffled_B = tf.raw_ops.RandomIndexShuffle(
            index=index_B.astype(np.int64),
            seed=key_B3.astype(np.uint32),
            max_index=size_B.astype(np.int64) - 1,
            rounds=4,
        )
    return shuffled_B.numpy()


def _shuffle_few(
    index_B: np.ndarray, size_B: np.ndarray, seed: int, stir_B: np.ndarray
) -> np.ndarray:
    """What `index_shuffle` returns, for sizes of at most FEW: by sorting random keys.

    `index_shuffle` is slow for such small sizes.
    """
    key_BF = uniform(seed, stir_B, FEW)
    key_BF[np.arange(FEW)[None] >= size_B[:, None]] = 1.0
    return np.take_along_axis(np.argsort(key_BF, axis=1), index_B[:, None], axis=1)[:, 0]


def uniform(seed: int, position_B: np.ndarray, count: int) -> np.ndarray:
    """`count` random numbers in [0, 1) for each position, float32 [B, count].

    They depend on (seed, position, number) alone, by the finaliser of SplitMix64 (Steele et al.
    2014), so every process computes the same ones.
    """
    with np.errstate(over='ignore'):
        x = position_B.astype(np.uint64)[:, None] * np.uint64(0x9E3779B97F4A7C15)
        x = x + np.arange(count, dtype=np.uint64) * np.uint64(0xD1B54A32D192ED03)
        x = x + np.uint64(seed) * np.uint64(0xBF58476D1CE4E5B9)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
        x = x ^ (x >> np.uint64(31))
    # The upper 24 bits are what a float32 below 1 can hold.
    return ((x >> np.uint64(40)).astype(np.float32)) / np.float32(2**24)
