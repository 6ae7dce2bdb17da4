"""Filters: which texts and pictures of a data set a stream may draw, and why not the others.

A filter is declared in the config, worked out once by `mural prepare` for the whole split, and
stored beside the data; so the order of a stream stays a function of (seed, position).
"""

import dataclasses
import hashlib
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mural_jax.data.sets import hashes as near
from mural_jax.data.sets import index as indices
from mural_jax.data.sets.filter_settings import Filters
from mural_jax.data.sets.index import SetIndex


def selection_path(
    data_dir: Path, records: Any, filters: Filters, others: Callable[[str], Any]
) -> Path:
    """Where `mural prepare` stores what these filters keep of records."""
    tests = [others(name).index.fingerprint for name in filters.exclude]
    about = [records.name, records.index.fingerprint, tests, dataclasses.asdict(filters)]
    words = json.dumps(about, sort_keys=True)
    return data_dir / 'selections' / hashlib.sha256(words.encode()).hexdigest()[:16]


def select_texts(
    records: Any, filters: Filters, others: Callable[[str], Any]
) -> tuple[np.ndarray, dict[str, int], list[dict[str, Any]]]:
    """(keep_T, counts, leaks): which texts of the index stay, what was dropped, by reason.

    `others` opens the records of a `DATASET:SPLIT`. Reasons name a filter and pictures or texts;
    a leak is {test, index, what, distance}.
    """
    index: SetIndex = records.index
    work = _Selection(records, index, filters)
    for step in (
        _drop_languages,
        _drop_sizes,
        _drop_image_copies,
        _drop_word_counts,
        _drop_shared_texts,
        _drop_rare_words,
        _drop_length_ratios,
        _drop_text_copies,
    ):
        step(work)
    for name in filters.exclude:
        _drop_test_set(work, name, others(name))
    counts = work.counts | {
        'texts': len(index.record_T),
        'texts kept': int(work.keep_T.sum()),
        'records': len(index.bad_R),
        'bad records': int(index.bad_R.sum()),
        'records kept': len(np.unique(index.record_T[work.keep_T])),
    }
    return work.keep_T, dict(counts), work.leaks


def ensure_selection(
    records: Any, filters: Filters, data_dir: Path, others: Callable[[str], Any]
) -> dict[str, Any]:
    """Works out filters and stores what they keep, if that is not there; {counts, leaks}."""
    path = selection_path(data_dir, records, filters, others)
    if not path.exists():
        keep_T, counts, leaks = select_texts(records, filters, others)
        about = {'filters': dataclasses.asdict(filters), 'of': records.name}
        about |= {'counts': counts, 'leaks': leaks}
        indices.save_arrays(path, {'keep_T': keep_T}, about)
    return json.loads((path / 'about.json').read_text(encoding='utf-8'))


class _Selection:
    """A selection that is being made."""

    def __init__(self, records: Any, index: SetIndex, filters: Filters):
        self.records, self.index, self.filters = records, index, filters
        self.keep_T = ~np.asarray(index.bad_R)[index.record_T]
        self.counts: Counter[str] = Counter()
        self.leaks: list[dict[str, Any]] = []

    @property
    def live_R(self) -> np.ndarray:
        """Which records still have a text."""
        live_R = np.zeros(len(self.index.bad_R), bool)
        live_R[self.index.record_T[self.keep_T]] = True
        return live_R

    def drop_texts(self, reason: str, drop_T: np.ndarray) -> None:
        drop_T = drop_T & self.keep_T
        self.counts[f'{reason}: texts'] += int(drop_T.sum())
        self.keep_T &= ~drop_T

    def drop_records(self, reason: str, drop_R: np.ndarray) -> None:
        drop_R = drop_R & self.live_R
        self.counts[f'{reason}: pictures'] += int(drop_R.sum())
        self.keep_T &= ~drop_R[self.index.record_T]

    def words(self, name: str) -> np.ndarray:
        return np.asarray(indices.read_text_facts(self.records, self.index)[name])


def _drop_languages(work: _Selection) -> None:
    if work.filters.languages:
        names = np.array(work.index.languages)
        allowed_L = np.isin(names, work.filters.languages)
        work.drop_texts('languages', ~allowed_L[work.index.language_T])


def _drop_sizes(work: _Selection) -> None:
    filters, index = work.filters, work.index
    short_R = np.minimum(index.width_R, index.height_R)
    long_R = np.maximum(index.width_R, index.height_R)
    if filters.min_side and work.records.has_image:
        work.drop_records('min_side', short_R < filters.min_side)
    if filters.max_aspect:
        work.drop_records('max_aspect', long_R > filters.max_aspect * short_R)
    if filters.max_texts_per_image:
        count_R = np.bincount(index.record_T, minlength=len(index.bad_R))
        work.drop_records('max_texts_per_image', count_R > filters.max_texts_per_image)


def _drop_image_copies(work: _Selection) -> None:
    if work.filters.image_distance < 0 or not work.records.has_image:
        return
    live = np.flatnonzero(work.live_R)
    hashes = np.asarray(work.index.hash_R)[live]
    drop_R = np.zeros(len(work.index.bad_R), bool)
    drop_R[live] = near.find_later_copies(hashes, work.filters.image_distance)
    work.drop_records('image_distance', drop_R)


def _drop_word_counts(work: _Selection) -> None:
    filters = work.filters
    if filters.min_words:
        work.drop_texts('min_words', work.words('words') < filters.min_words)
    if filters.max_words:
        work.drop_texts('max_words', work.words('words') > filters.max_words)


def _drop_shared_texts(work: _Selection) -> None:
    if not work.filters.max_images_per_text:
        return
    # A record counts once for a text, whatever languages and kinds it stands under.
    both_T2 = np.stack([work.words('hash'), work.index.record_T.astype(np.uint64)], axis=1)
    pairs_P2 = np.unique(both_T2[work.keep_T], axis=0)
    hashes, counts = np.unique(pairs_P2[:, 0], return_counts=True)
    common = hashes[counts > work.filters.max_images_per_text]
    work.drop_texts('max_images_per_text', np.isin(work.words('hash'), common))


def _drop_rare_words(work: _Selection) -> None:
    filters = work.filters
    if filters.max_rare_share >= 1:
        return
    seen: Counter[str] = Counter()
    for row, text in indices.read_texts(work.records, work.index):
        if work.keep_T[row]:
            seen.update(indices.split_words(text.casefold()))
    drop_T = np.zeros_like(work.keep_T)
    for row, text in indices.read_texts(work.records, work.index):
        found = indices.split_words(text.casefold())
        rare = sum(seen[word] < filters.rare_below for word in found)
        drop_T[row] = rare > filters.max_rare_share * len(found)
    work.drop_texts('max_rare_share', drop_T)


def _drop_length_ratios(work: _Selection) -> None:
    """Each text against the median of its record's texts, of two against each other."""
    if not work.filters.max_length_ratio:
        return
    record_T, bytes_T = np.asarray(work.index.record_T), work.words('bytes').astype(np.float64)
    order = np.lexsort((bytes_T, record_T))
    order = order[work.keep_T[order]]
    count_R = np.bincount(record_T[order], minlength=len(work.index.bad_R))
    start_R = np.cumsum(count_R) - count_R
    low_R = start_R + np.maximum(count_R - 1, 0) // 2
    high_R = start_R + count_R // 2
    drop_T = np.zeros_like(work.keep_T)
    sizes = bytes_T[order]
    row = record_T[order]
    # Of two texts the one's yardstick is the other; of more, the median.
    place = np.arange(len(order))
    other = np.where(count_R[row] == 2, start_R[row] + (1 - (place - start_R[row])), low_R[row])
    upper = np.where(count_R[row] == 2, other, np.minimum(high_R[row], len(order) - 1))
    middle = np.maximum((sizes[other] + sizes[upper]) / 2, 1)
    ratio = np.maximum(sizes / middle, middle / np.maximum(sizes, 1))
    drop_T[order] = ratio > work.filters.max_length_ratio
    work.drop_texts('max_length_ratio', drop_T)


def _drop_text_copies(work: _Selection) -> None:
    distance = work.filters.text_distance
    if distance < 0:
        return
    hash_T = (
        work.words('hash')
        if distance == 0
        else np.asarray(indices.read_sketches(work.records, work.index))
    )
    drop_T = np.zeros_like(work.keep_T)
    for start, end in zip(work.index.offset_L, work.index.offset_L[1:]):
        rows = start + np.flatnonzero(work.keep_T[start:end])
        if len(rows):
            drop_T[rows] = near.find_later_copies(hash_T[rows], distance)
    work.drop_texts('text_distance', drop_T)


def _drop_test_set(work: _Selection, name: str, test: Any) -> None:
    """Drops what stands in a test set, and lists it."""
    index, distance = work.index, work.filters.exclude_distance
    if work.records.has_image and test.has_image:
        hashes, good = np.asarray(test.index.hash_R), np.flatnonzero(~np.asarray(test.index.bad_R))
        live = np.flatnonzero(work.live_R)
        rows, tests = near.find_pairs(np.asarray(index.hash_R)[live], hashes[good], distance)
        drop_R = np.zeros(len(index.bad_R), bool)
        drop_R[live[rows]] = True
        for row, other in zip(live[rows].tolist(), good[tests].tolist()):
            bits = int(np.bitwise_count(index.hash_R[row] ^ hashes[other]))
            leak = {'test': name, 'what': 'picture', 'index': row, 'in test': other}
            work.leaks.append(leak | {'distance': bits})
        work.drop_records(f'exclude {name}', drop_R)
    known = np.unique(np.asarray(indices.read_text_facts(test, test.index)['hash']))
    drop_T = np.isin(work.words('hash'), known)
    for row in np.flatnonzero(drop_T & work.keep_T).tolist():
        leak = {'test': name, 'what': 'text', 'index': int(index.record_T[row])}
        work.leaks.append(leak | {'number': int(index.number_T[row])})
    work.drop_texts(f'exclude {name}', drop_T)
