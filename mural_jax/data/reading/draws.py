"""The draws of a stream: which records of each source and language, and which of their texts."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mural_jax.data.reading.order import language_shares
from mural_jax.data.sets.index import read_sketches
from mural_jax.data.sets.records import Records
from mural_jax.data.streams.base import Stream, StreamSource
from mural_jax.types import UserError


class LanguageTexts(NamedTuple):
    """The M records of a data set with texts in one language.

    Record record_M[m] has size_M[m] such texts; they follow each other in the pool's arrays of
    texts, from place first_M[m] on.
    """

    record_M: np.ndarray
    first_M: np.ndarray
    size_M: np.ndarray


class Draw(NamedTuple):
    """One language, or pair of languages, of one source: what a mixture draws from.

    label: SOURCE/LANGUAGE.
    name: SOURCE/LANGUAGE, or SOURCE/LANGUAGE-LANGUAGE for pairs.
    source: index of the source in the stream.
    weight: how often the draw is taken, relative to the others.
    record_M: the records of the draw.
    sides: the texts of each record, for each text of an example.
    """

    label: str
    name: str
    source: int
    weight: float
    record_M: np.ndarray
    sides: tuple[LanguageTexts, ...]


class DrawBuilder:
    """Makes the draws of a stream, one source after another, and collects their texts.

    texts: all texts that can be drawn.
    rows: by (source, language), the record and the number in it of each text that can be drawn.
    """

    def __init__(self, stream: Stream, kinds: list[str], languages: tuple[str, ...]):
        """`kinds` and `languages` are those of the pool, over all sources."""
        self._stream, self._kinds, self._languages = stream, kinds, languages
        self.texts = TextArrays()
        self.rows: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}

    def build(
        self, number: int, name: str, source: StreamSource, records: Records, keep_T: np.ndarray
    ) -> Iterator[Draw]:
        """The draws of source `number`; their weights add up to the source's.

        `keep_T` says which texts of its index may be drawn. Raises UserError where none is left.
        """
        stream = self._stream
        found = self._find_pairs(number, records, keep_T)
        if not found:
            raise UserError(
                f'{records.name} has nothing to draw in {stream.all_languages} as '
                'this stream is configured. Change its languages, its filters, its text or its '
                'pivots.'
            )
        # A record counts once for a language, however many pairs of languages it is in.
        sizes = [
            len(np.unique(np.concatenate([record_M for _, record_M, _ in pairs])))
            for pairs in found.values()
        ]
        shares = language_shares(np.array(sizes), stream.alpha, stream.cap)
        for (language, pairs), share in zip(found.items(), shares):
            # All pairs of a language are drawn equally often.
            weight = source.weight * share / len(pairs)
            for pair, record_M, sides in pairs:
                label = f'{name}/{language}'
                yield Draw(label, f'{name}/{pair}', number, weight, record_M, sides)

    def _find_pairs(
        self, number: int, records: Records, keep_T: np.ndarray
    ) -> dict[str, list[tuple[str, np.ndarray, tuple[LanguageTexts, ...]]]]:
        """By language of the first text: (name of the pair, records, texts of each side).

        A stream whose examples have one text gets one entry a language, named by it.
        """
        pivots = self._stream.pivots
        wanted = dict.fromkeys((*self._languages, *self._stream.all_languages))
        texts = {
            language: self._add_texts(number, records, language, keep_T)
            for language in wanted
            if language in records.languages
        }
        found: dict[str, list[tuple[str, np.ndarray, tuple[LanguageTexts, ...]]]] = {}
        for language in self._languages:
            mine = texts.get(language)
            if mine is None or not len(mine.record_M):
                continue
            if pivots is None:
                found[language] = [(language, mine.record_M, (mine,))]
                continue
            others = [x for x in pivots or self._languages if x != language and x in texts]
            pairs = [(f'{language}-{x}', *_intersect(mine, texts[x])) for x in others]
            found[language] = [pair for pair in pairs if len(pair[1])]
        return {language: pairs for language, pairs in found.items() if pairs}

    def _add_texts(
        self, number: int, records: Records, language: str, keep_T: np.ndarray
    ) -> LanguageTexts:
        """The texts of a source in one language that can be drawn; adds them to `texts`."""
        stream = self._stream
        index, column = records.index, records.languages.index(language)
        start, end = index.offset_L[column : column + 2]
        wanted = stream.text.kinds or [k for k in records.default_kinds if k != stream.tags]
        drawable = [
            place
            for place, kind in enumerate(records.kinds)
            if kind in wanted and stream.text.kinds.get(kind, 1.0)
        ]
        # The index is sorted by language, then by record: a record's texts follow each other.
        rows = start + np.flatnonzero(
            keep_T[start:end] & np.isin(index.kind_T[start:end], drawable)
        )
        # Data sets number their kinds each in its own way; the pool has one numbering.
        kind_of = np.array([self._kinds.index(kind) for kind in records.kinds], np.uint8)
        record_M, first_M, size_M = np.unique(
            index.record_T[rows], return_index=True, return_counts=True
        )
        self.rows[number, language] = index.record_T[rows], index.number_T[rows]
        sketch_T = read_sketches(records, index)[rows] if stream.candidates > 1 else None
        first = self.texts.add(index.number_T[rows], kind_of[index.kind_T[rows]], sketch_T)
        return LanguageTexts(record_M, first_M + first, size_M)


class TextArrays:
    """The texts that can be drawn, of all sources and languages, one after another.

    number_P, kind_P, sketch_P: of each text, its number in its record, its kind, and its sketch,
    if sketches are needed. Known once `join` has been called.
    """

    def __init__(self) -> None:
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray | None]] = []
        self._size = 0

    def add(self, number_T: np.ndarray, kind_T: np.ndarray, sketch_T: np.ndarray | None) -> int:
        """Adds texts, and returns the place of the first one."""
        self._parts.append((number_T, kind_T, sketch_T))
        self._size += len(number_T)
        return self._size - len(number_T)

    def join(self) -> None:
        """Makes the arrays. Appending to arrays all along would copy them again and again."""
        numbers, kinds, sketches = zip(*self._parts)
        self.number_P, self.kind_P = np.concatenate(numbers), np.concatenate(kinds)
        given = [sketch_T for sketch_T in sketches if sketch_T is not None]
        self.sketch_P = np.concatenate(given or [np.zeros(0, np.uint64)])
        self._parts.clear()


def _intersect(
    mine: LanguageTexts, other: LanguageTexts
) -> tuple[np.ndarray, tuple[LanguageTexts, ...]]:
    """The records that have texts in both languages, and those texts."""
    record_M, mine_M, other_M = np.intersect1d(
        mine.record_M, other.record_M, assume_unique=True, return_indices=True
    )
    sides = (
        LanguageTexts(record_M, texts.first_M[place_M], texts.size_M[place_M])
        for texts, place_M in ((mine, mine_M), (other, other_M))
    )
    return record_M, tuple(sides)
