"""Counts what the sources of a stream hold and drop, by language and kind, from their indices."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mural_jax.data.reading.pool import Pool
from mural_jax.data.sets import filters as selection
from mural_jax.data.sets.filter_settings import Filters
from mural_jax.data.sets.records import Records, open_split
from mural_jax.data.streams.base import Stream, StreamSource

EXAMPLES = 3  # Bad records that are listed for each reason.


class ContentsRow(NamedTuple):
    """The counts of one language in a source.

    language: The language.
    records: Number of records with a text in it.
    texts: Number of its texts, by kind.
    drawable: Number of records that the stream can draw in it.
    before: Its share of the stream's examples without alpha and cap.
    share: Its share of the stream's examples.
    """

    language: str
    records: int
    texts: dict[str, int]
    drawable: int
    before: float
    share: float

    @property
    def all_texts(self) -> int:
        return sum(self.texts.values())


class SourceContents(NamedTuple):
    """The content of one source of a stream.

    name: Name of the source.
    dataset: Its data set and split.
    weight: Its weight.
    share: Its share of the stream's examples.
    records: Number of its good records.
    bad: Number of its bad records.
    kinds: Kinds of its texts.
    languages: Counts by language, the most frequent language first.
    """

    name: str
    dataset: str
    weight: float
    share: float
    records: int
    bad: int
    kinds: list[str]
    languages: list[ContentsRow]


class DroppedCounts(NamedTuple):
    """What one source leaves out.

    name: Name of the source.
    filters: Settings of its filters that differ from the default.
    counts: Counts of the selection, see `filters.select_texts`; empty without filters.
    dropped: (filter, 'texts' or 'images', count, share) of each filter that drops something.
    bad: (reason, number of records, some of their places).
    """

    name: str
    filters: dict[str, Any]
    counts: dict[str, int]
    dropped: list[tuple[str, str, int, float]]
    bad: list[tuple[str, int, list[str]]]


def describe_sources(spec: Stream, pool: Pool) -> list[SourceContents]:
    """The content of each source of a stream."""
    total = pool.weights.sum()
    weights = sum(source.weight for source in spec.sources.values())
    contents = []
    for number, (name, source) in enumerate(spec.sources.items()):
        records = pool.records[number]
        drawn = _collect_draws(pool, number)
        # In proportion to records alone, a language would have the share size / most of the source.
        most = sum(size for size, _ in drawn.values())
        rows = []
        for language, num_records, texts in _count_languages(records):
            size, weight = drawn.get(language, (0, 0.0))
            before = source.weight / weights * size / most
            rows.append(ContentsRow(language, num_records, texts, size, before, weight / total))
        rows.sort(key=lambda row: (-row.all_texts, row.language))
        bad = int(np.count_nonzero(records.index.bad_R))
        kinds = [kind for kind in records.kinds if any(row.texts[kind] for row in rows)]
        contents.append(
            SourceContents(
                name,
                records.name,
                source.weight,
                source.weight / weights,
                len(records) - bad,
                bad,
                kinds,
                rows,
            )
        )
    return contents


def describe_drops(spec: Stream, data_dir: Path) -> list[DroppedCounts]:
    """What the filters of each source drop, and its bad records."""
    drops = []
    for name, source in spec.sources.items():
        records = Records(source.dataset, source.split, data_dir)
        counts = _read_filter_counts(records, source, data_dir) if source.filters.active else {}
        dropped = []
        for reason, count in counts.items():
            filter_, colon, what = reason.rpartition(': ')
            # Totals have no colon in their key.
            if colon and count:
                all_of = counts['texts'] if what == 'texts' else counts['records']
                # Stored selections call images pictures.
                what = 'images' if what == 'pictures' else what
                dropped.append((filter_, what, count, count / max(all_of, 1)))
        filters = {
            field.name: getattr(source.filters, field.name)
            for field in dataclasses.fields(Filters)
            if getattr(source.filters, field.name) != field.default
        }
        drops.append(DroppedCounts(name, filters, counts, dropped, _list_bad_records(records)))
    return drops


def _count_languages(records: Records) -> list[tuple[str, int, dict[str, int]]]:
    """(language, number of records, number of texts by kind) of the languages of good records."""
    index, counts = records.index, []
    bad_R = np.asarray(index.bad_R)
    for number, language in enumerate(records.languages):
        rows = slice(*index.offset_L[number : number + 2])
        record_T = np.asarray(index.record_T[rows])
        good_T = ~bad_R[record_T]
        record_T = record_T[good_T]
        count_K = np.bincount(index.kind_T[rows][good_T], minlength=len(records.kinds))
        if len(record_T):
            # The texts of a language are sorted by record.
            num_records = 1 + int(np.count_nonzero(np.diff(record_T)))
            counts.append((language, num_records, dict(zip(records.kinds, count_K.tolist()))))
    return counts


def _collect_draws(pool: Pool, source: int) -> dict[str, tuple[int, float]]:
    """Language -> (number of records that the stream can draw, weight) of a source."""
    members: dict[str, list[np.ndarray]] = {}
    weights: dict[str, float] = {}
    for draw in pool.draws:
        if draw.source == source:
            language = draw.label.partition('/')[2]
            # In a stream of pairs a language has one draw for each partner language.
            members.setdefault(language, []).append(draw.record_M)
            weights[language] = weights.get(language, 0.0) + draw.weight
    return {
        language: (len(np.unique(np.concatenate(parts))), weights[language])
        for language, parts in members.items()
    }


def _read_filter_counts(records: Records, source: StreamSource, data_dir: Path) -> dict[str, int]:
    """The counts that `mural prepare` stored with the selection of a source."""
    path = selection.selection_path(
        data_dir, records, source.filters, lambda test: open_split(test, data_dir)
    )
    return json.loads((path / 'about.json').read_text(encoding='utf-8'))['counts']


def _list_bad_records(records: Records) -> list[tuple[str, int, list[str]]]:
    """(reason, number of records, some of their places), the most frequent reason first."""
    reasons: Counter[str] = Counter()
    places: dict[str, list[str]] = {}
    for item in records.ensure_index():
        reasons[item['reason']] += 1
        known = places.setdefault(item['reason'], [])
        if len(known) < EXAMPLES:
            known.append(item['where'])
    return [(reason, count, places[reason]) for reason, count in reasons.most_common()]
