"""Applies filters: selects the texts and images of a data set that a stream may draw.

The config declares the filters. `mural prepare` applies them once to the whole split and stores
the selection beside the data, so the order of a stream stays a function of (seed, position).
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
    data_dir: Path, records: Any, filters: Filters, open_split: Callable[[str], Any]
) -> Path:
    """The folder in which `mural prepare` stores the selection that filters make of records.

    Args:
      data_dir: Folder of all data sets.
      records: The `Records` to filter.
      filters: Settings of the filters.
      open_split: Opens the `Records` of a `DATASET:SPLIT`, for the test sets to exclude.
    """
    # Any change of the data, the test sets or the settings leads to another folder.
    tests = [open_split(name).index.fingerprint for name in filters.exclude]
    about = [records.name, records.index.fingerprint, tests, dataclasses.asdict(filters)]
    words = json.dumps(about, sort_keys=True)
    return data_dir / 'selections' / hashlib.sha256(words.encode()).hexdigest()[:16]


def select_texts(
    records: Any, filters: Filters, open_split: Callable[[str], Any]
) -> tuple[np.ndarray, dict[str, int], list[dict[str, Any]]]:
    """Applies filters to the texts of records; `selection_path` describes the arguments.

    Returns:
      keep_T: Which texts of the index stay.
      counts: Number of texts or images that each filter dropped, by 'FILTER: texts' or
        'FILTER: pictures', and the totals.
      leaks: What training data shares with test sets: {test, what, index, in test, distance} for
        an image, {test, what, index, number} for a text.
    """
    index: SetIndex = records.index
    selection = _Selection(records, index, filters)
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
        step(selection)
    for name in filters.exclude:
        _drop_test_set(selection, name, open_split(name))
    counts = selection.counts | {
        'texts': len(index.record_T),
        'texts kept': int(selection.keep_T.sum()),
        'records': len(index.bad_R),
        'bad records': int(index.bad_R.sum()),
        'records kept': len(np.unique(index.record_T[selection.keep_T])),
    }
    return selection.keep_T, dict(counts), selection.leaks


def ensure_selection(
    records: Any, filters: Filters, data_dir: Path, open_split: Callable[[str], Any]
) -> dict[str, Any]:
    """Applies filters and stores the selection, if it is not there yet.

    Returns:
      {filters, of, counts, leaks}, where `of` is the name of the records.
    """
    path = selection_path(data_dir, records, filters, open_split)
    if not path.exists():
        keep_T, counts, leaks = select_texts(records, filters, open_split)
        about = {'filters': dataclasses.asdict(filters), 'of': records.name}
        about |= {'counts': counts, 'leaks': leaks}
        indices.save_arrays(path, {'keep_T': keep_T}, about)
    return json.loads((path / 'about.json').read_text(encoding='utf-8'))


class _Selection:
    """The texts that stay after the filters so far, what they dropped, and the leaks found."""

    def __init__(self, records: Any, index: SetIndex, filters: Filters):
        self.records, self.index, self.filters = records, index, filters
        self.keep_T = ~np.asarray(index.bad_R)[index.record_T]
        self.counts: Counter[str] = Counter()
        self.leaks: list[dict[str, Any]] = []

    @property
    def used_R(self) -> np.ndarray:
        """Which records still have a text."""
        used_R = np.zeros(len(self.index.bad_R), bool)
        used_R[self.index.record_T[self.keep_T]] = True
        return used_R

    def drop_texts(self, reason: str, drop_T: np.ndarray) -> None:
        """Drops texts, and counts those that no earlier filter dropped."""
        drop_T = drop_T & self.keep_T
        self.counts[f'{reason}: texts'] += int(drop_T.sum())
        self.keep_T &= ~drop_T

    def drop_records(self, reason: str, drop_R: np.ndarray) -> None:
        """Drops all texts of records, and counts the records that still had one."""
        drop_R = drop_R & self.used_R
        # 'pictures' is the word in stored selections.
        self.counts[f'{reason}: pictures'] += int(drop_R.sum())
        self.keep_T &= ~drop_R[self.index.record_T]

    def text_facts(self, name: str) -> np.ndarray:
        """One of the facts of `index.read_text_facts`, [T]."""
        return np.asarray(indices.read_text_facts(self.records, self.index)[name])


def _drop_languages(selection: _Selection) -> None:
    if selection.filters.languages:
        names = np.array(selection.index.languages)
        allowed_L = np.isin(names, selection.filters.languages)
        selection.drop_texts('languages', ~allowed_L[selection.index.language_T])


def _drop_sizes(selection: _Selection) -> None:
    filters, index = selection.filters, selection.index
    short_R = np.minimum(index.width_R, index.height_R)
    long_R = np.maximum(index.width_R, index.height_R)
    if filters.min_side and selection.records.has_image:
        selection.drop_records('min_side', short_R < filters.min_side)
    if filters.max_aspect:
        selection.drop_records('max_aspect', long_R > filters.max_aspect * short_R)
    if filters.max_texts_per_image:
        count_R = np.bincount(index.record_T, minlength=len(index.bad_R))
        selection.drop_records('max_texts_per_image', count_R > filters.max_texts_per_image)


def _drop_image_copies(selection: _Selection) -> None:
    if selection.filters.image_distance < 0 or not selection.records.has_image:
        return
    used = np.flatnonzero(selection.used_R)
    hashes = np.asarray(selection.index.hash_R)[used]
    drop_R = np.zeros(len(selection.index.bad_R), bool)
    # Dropped images are not compared: a copy of one of them is the first that stays.
    drop_R[used] = near.find_later_copies(hashes, selection.filters.image_distance)
    selection.drop_records('image_distance', drop_R)


def _drop_word_counts(selection: _Selection) -> None:
    filters = selection.filters
    if filters.min_words:
        selection.drop_texts('min_words', selection.text_facts('words') < filters.min_words)
    if filters.max_words:
        selection.drop_texts('max_words', selection.text_facts('words') > filters.max_words)


def _drop_shared_texts(selection: _Selection) -> None:
    if not selection.filters.max_images_per_text:
        return
    # A record that has a text in several languages or kinds counts only once for it.
    both_T2 = np.stack(
        [selection.text_facts('hash'), selection.index.record_T.astype(np.uint64)], axis=1
    )
    pairs_P2 = np.unique(both_T2[selection.keep_T], axis=0)
    hashes, counts = np.unique(pairs_P2[:, 0], return_counts=True)
    common = hashes[counts > selection.filters.max_images_per_text]
    selection.drop_texts('max_images_per_text', np.isin(selection.text_facts('hash'), common))


def _drop_rare_words(selection: _Selection) -> None:
    filters = selection.filters
    if filters.max_rare_share >= 1:
        return
    frequency: Counter[str] = Counter()
    for row, text in indices.read_texts(selection.records, selection.index):
        if selection.keep_T[row]:
            frequency.update(indices.split_words(text.casefold()))
    drop_T = np.zeros_like(selection.keep_T)
    for row, text in indices.read_texts(selection.records, selection.index):
        words = indices.split_words(text.casefold())
        rare = sum(frequency[word] < filters.rare_below for word in words)
        drop_T[row] = rare > filters.max_rare_share * len(words)
    selection.drop_texts('max_rare_share', drop_T)


def _drop_length_ratios(selection: _Selection) -> None:
    """Drops texts that are much longer or shorter than the others of their record.

    Two texts are compared with each other, more than two with their median.
    """
    if not selection.filters.max_length_ratio:
        return
    record_T, bytes_T = (
        np.asarray(selection.index.record_T),
        selection.text_facts('bytes').astype(np.float64),
    )
    # The remaining texts by record, then by length: a record's texts are count_R neighbours from
    # start_R on, and low_R and high_R are the middle ones, whose mean is the median.
    order = np.lexsort((bytes_T, record_T))
    order = order[selection.keep_T[order]]
    count_R = np.bincount(record_T[order], minlength=len(selection.index.bad_R))
    start_R = np.cumsum(count_R) - count_R
    low_R = start_R + np.maximum(count_R - 1, 0) // 2
    high_R = start_R + count_R // 2
    drop_T = np.zeros_like(selection.keep_T)
    sizes = bytes_T[order]
    row = record_T[order]
    # One of two texts is compared with the other one; one of several with the median.
    place = np.arange(len(order))
    other = np.where(count_R[row] == 2, start_R[row] + (1 - (place - start_R[row])), low_R[row])
    upper = np.where(count_R[row] == 2, other, np.minimum(high_R[row], len(order) - 1))
    middle = np.maximum((sizes[other] + sizes[upper]) / 2, 1)
    ratio = np.maximum(sizes / middle, middle / np.maximum(sizes, 1))
    drop_T[order] = ratio > selection.filters.max_length_ratio
    selection.drop_texts('max_length_ratio', drop_T)


def _drop_text_copies(selection: _Selection) -> None:
    distance = selection.filters.text_distance
    if distance < 0:
        return
    hash_T = (
        selection.text_facts('hash')
        if distance == 0
        else np.asarray(indices.read_sketches(selection.records, selection.index))
    )
    drop_T = np.zeros_like(selection.keep_T)
    # Texts of different languages are never copies of each other.
    for start, end in zip(selection.index.offset_L, selection.index.offset_L[1:]):
        rows = start + np.flatnonzero(selection.keep_T[start:end])
        if len(rows):
            drop_T[rows] = near.find_later_copies(hash_T[rows], distance)
    selection.drop_texts('text_distance', drop_T)


def _drop_test_set(selection: _Selection, name: str, test: Any) -> None:
    """Drops images and texts that a test set holds too, and lists them as leaks."""
    index, distance = selection.index, selection.filters.exclude_distance
    if selection.records.has_image and test.has_image:
        hashes, good = np.asarray(test.index.hash_R), np.flatnonzero(~np.asarray(test.index.bad_R))
        used = np.flatnonzero(selection.used_R)
        rows, tests = near.find_pairs(np.asarray(index.hash_R)[used], hashes[good], distance)
        drop_R = np.zeros(len(index.bad_R), bool)
        drop_R[used[rows]] = True
        for row, other in zip(used[rows].tolist(), good[tests].tolist()):
            bits = int(np.bitwise_count(index.hash_R[row] ^ hashes[other]))
            # 'picture' is the word in stored selections.
            leak = {'test': name, 'what': 'picture', 'index': row, 'in test': other}
            selection.leaks.append(leak | {'distance': bits})
        selection.drop_records(f'exclude {name}', drop_R)
    # Equal hashes of normalised texts mean equal texts.
    test_hashes = np.unique(np.asarray(indices.read_text_facts(test, test.index)['hash']))
    drop_T = np.isin(selection.text_facts('hash'), test_hashes)
    for row in np.flatnonzero(drop_T & selection.keep_T).tolist():
        leak = {'test': name, 'what': 'text', 'index': int(index.record_T[row])}
        selection.leaks.append(leak | {'number': int(index.number_T[row])})
    selection.drop_texts(f'exclude {name}', drop_T)
