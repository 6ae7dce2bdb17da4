"""What the sources of a stream hold and lose, by language and kind; counted in their indices."""

import dataclasses
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mural_jax.data.reading.draws import Pool
from mural_jax.data.sets import filters as selection
from mural_jax.data.sets.filter_settings import Filters
from mural_jax.data.sets.records import Records, open_split
from mural_jax.data.streams.base import Stream, StreamSource

EXAMPLES = 3  # places of bad records that are named for each reason


class ContentsRow(NamedTuple):
    """A language of a data set: what there is of it and how often the stream draws it.

    drawable: records that the stream can draw in the language. before, share: how often it does,
    of all that the stream draws, without and with alpha and cap.
    """

    language: str
    records: int
    texts: dict[str, int]  # by kind
    drawable: int
    before: float
    share: float

    @property
    def all_texts(self) -> int:
        return sum(self.texts.values())


class SourceContents(NamedTuple):
    """A source of a stream: what its split holds, the most frequent languages first."""

    name: str
    of: str
    weight: float
    share: float
    records: int
    bad: int
    kinds: list[str]
    languages: list[ContentsRow]


class DroppedCounts(NamedTuple):
    """What a source leaves out: by filters, (reason, what, count, share), and as bad records."""

    name: str
    filters: dict[str, Any]
    counts: dict[str, int]
    dropped: list[tuple[str, str, int, float]]
    bad: list[tuple[str, int, list[str]]]


def describe_sources(spec: Stream, pool: Pool) -> list[SourceContents]:
    """What each source of a stream holds, and what is drawn of it."""
    total = pool.weights.sum()
    weights = sum(source.weight for source in spec.sources.values())
    found = []
    for number, (name, source) in enumerate(spec.sources.items()):
        records = pool.records[number]
        drawn = _collect_draws(pool, number)
        most = sum(size for size, _ in drawn.values())
        rows = []
        for language, num_records, texts in _count_languages(records):
            size, weight = drawn.get(language, (0, 0.0))
            before = source.weight / weights * size / most
            rows.append(ContentsRow(language, num_records, texts, size, before, weight / total))
        rows.sort(key=lambda row: (-row.all_texts, row.language))
        bad = int(np.count_nonzero(records.index.bad_R))
        kinds = [kind for kind in records.kinds if any(row.texts[kind] for row in rows)]
        found.append(
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
    return found


def describe_drops(spec: Stream, data_dir: Path) -> list[DroppedCounts]:
    """What filters of each source dropped, and which of its records are bad."""
    found = []
    for name, source in spec.sources.items():
        records = Records(source.dataset, source.split, data_dir)
        counts = _read_filter_counts(records, source, data_dir) if source.filters.active else {}
        dropped = []
        for reason, count in counts.items():
            filter_, colon, what = reason.rpartition(': ')
            if colon and count:
                all_of = counts['texts'] if what == 'texts' else counts['records']
                dropped.append((filter_, what, count, count / max(all_of, 1)))
        filters = {
            field.name: getattr(source.filters, field.name)
            for field in dataclasses.fields(Filters)
            if getattr(source.filters, field.name) != field.default
        }
        found.append(DroppedCounts(name, filters, counts, dropped, _list_bad_records(records)))
    return found


def _count_languages(records: Records) -> list[tuple[str, int, dict[str, int]]]:
    """(language, records, texts by kind) of what is not bad; of languages that there are."""
    index, found = records.index, []
    bad_R = np.asarray(index.bad_R)
    for number, language in enumerate(records.languages):
        rows = slice(*index.offset_L[number : number + 2])
        record_T = np.asarray(index.record_T[rows])
        good_T = ~bad_R[record_T]
        record_T = record_T[good_T]
        count_K = np.bincount(index.kind_T[rows][good_T], minlength=len(records.kinds))
        if len(record_T):
            # Sorted by record within a language.
            num_records = 1 + int(np.count_nonzero(np.diff(record_T)))
            found.append((language, num_records, dict(zip(records.kinds, count_K.tolist()))))
    return found


def _collect_draws(pool: Pool, source: int) -> dict[str, tuple[int, float]]:
    """By language: the records of a source that can be drawn, and the weight of the language."""
    members: dict[str, list[np.ndarray]] = {}
    weights: dict[str, float] = {}
    for draw in pool.draws:
        if draw.source == source:
            language = draw.label.partition('/')[2]
            members.setdefault(language, []).append(draw.record_M)
            weights[language] = weights.get(language, 0.0) + draw.weight
    return {
        language: (len(np.unique(np.concatenate(parts))), weights[language])
        for language, parts in members.items()
    }


def _read_filter_counts(records: Records, source: StreamSource, data_dir: Path) -> dict[str, int]:
    """What `mural prepare` counted when it worked out the filters of a source."""
    path = selection.selection_path(
        data_dir, records, source.filters, lambda test: open_split(test, data_dir)
    )
    return json.loads((path / 'about.json').read_text(encoding='utf-8'))['counts']


def _list_bad_records(records: Records) -> list[tuple[str, int, list[str]]]:
    """(reason, records, where some of them come from), the most frequent first."""
    reasons: Counter[str] = Counter()
    places: dict[str, list[str]] = {}
    for item in records.ensure_index():
        reasons[item['reason']] += 1
        known = places.setdefault(item['reason'], [])
        if len(known) < EXAMPLES:
            known.append(item['where'])
    return [(reason, count, places[reason]) for reason, count in reasons.most_common()]
