"""Texts that a vocabulary is trained on, balanced over languages, and how well it splits each."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from mural_jax.data.reading.order import language_shares
from mural_jax.data.reading.pool import Pool
from mural_jax.data.sets.index import split_words
from mural_jax.data.sets.records import Records, read_texts
from mural_jax.data.tokenizer import Tokenizer

CHUNK = 4096  # records read at a time
REPORTED = 2000  # texts of a language that the report tokenises


class VocabularyCut(NamedTuple):
    """How a vocabulary splits the texts of a language.

    texts: number of sampled texts. tokens_per_word: mean over the reported ones. unknown_share:
    share of tokens that are unknown, or a byte of a character without a piece.
    """

    texts: int
    tokens_per_word: float
    unknown_share: float


def sample_texts(pools: Iterable[Pool], count: int, alpha: float) -> dict[str, list[str]]:
    """About `count` of the texts that the pools can draw, by language; the same ones each time.

    n texts of a language are sampled in proportion to n^alpha. All texts are taken where there are
    no more than `count`, or where `count` is 0.
    """
    groups = defaultdict(list)
    for pool in pools:
        for (source, language), rows in pool.rows.items():
            groups[language].append((pool.records[source], *rows))
    sizes = np.array([sum(len(rows[1]) for rows in held) for held in groups.values()])
    wanted = sizes
    if count and sizes.sum() > count:
        wanted = np.minimum(sizes, np.ceil(language_shares(sizes, alpha, 1.0) * count)).astype(int)
    # A fixed seed: the same data always gives the same vocabulary.
    random = np.random.default_rng(0)
    sampled = {}
    for (language, held), size, most in zip(groups.items(), sizes, wanted):
        chosen = np.arange(size) if most == size else random.choice(size, most, replace=False)
        # In order, so that each part of the data set is read once.
        chosen.sort()
        texts, start = [], 0
        for records, record_T, number_T in held:
            here = chosen[(chosen >= start) & (chosen < start + len(record_T))] - start
            texts += _read_numbered_texts(records, record_T[here], number_T[here])
            start += len(record_T)
        sampled[language] = texts
    return sampled


def measure_cuts(tokenizer: Tokenizer, texts: Mapping[str, list[str]]) -> dict[str, VocabularyCut]:
    """How the vocabulary splits each language, measured on up to REPORTED of its texts."""
    cuts = {}
    for language, held in texts.items():
        # Spread over the whole sample: its first texts may all be of one data set.
        some = held[:: max(1, len(held) // REPORTED)][:REPORTED]
        ids = tokenizer.encode(some, 2**16)
        tokens = sum(map(len, ids))
        unknown = sum(tokenizer.is_unknown(token) for row in ids for token in row)
        num_words = max(sum(len(split_words(text)) for text in some), 1)
        cuts[language] = VocabularyCut(len(held), tokens / num_words, unknown / max(tokens, 1))
    return cuts


def _read_numbered_texts(records: Records, record_T: np.ndarray, number_T: np.ndarray) -> list[str]:
    """The texts with numbers `number_T` in the records `record_T`, which ascend."""
    found = []
    for start in range(0, len(record_T), CHUNK):
        part_T = record_T[start : start + CHUNK]
        unique, back_T = np.unique(part_T, return_inverse=True)
        text = read_texts(records, unique)
        place_T = text.row_starts().numpy()[back_T] + number_T[start : start + CHUNK]
        found += [one.decode(errors='replace') for one in text.values.numpy()[place_T]]
    return found
