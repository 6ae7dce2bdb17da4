"""What a stream can draw: of each source and language, which records and which of their texts."""

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mural_jax.data.fields import text_choice
from mural_jax.data.reading.order import shares
from mural_jax.data.sets import filters
from mural_jax.data.sets.hashes import BITS
from mural_jax.data.sets.index import read_sketches
from mural_jax.data.sets.records import Records, open_split
from mural_jax.data.streams.base import Stream, StreamSource
from mural_jax.types import UserError


class Texts(NamedTuple):
    """The M records of a data set with texts in a language, and where those stand in the pool."""

    record_M: np.ndarray
    first_M: np.ndarray
    size_M: np.ndarray


class Draw(NamedTuple):
    """One language, or pair of languages, of one source: what a mixture draws from."""

    label: str  # SOURCE/LANGUAGE
    name: str  # SOURCE/LANGUAGE, of pairs SOURCE/LANGUAGE-LANGUAGE
    source: int
    weight: float
    record_M: np.ndarray
    sides: tuple[Texts, ...]  # of each text of an example, rows alike


class Pool:
    """All that a stream draws from. Members are numbered through all draws.

    base_S: the number of a draw's first member. record_G, source_G: where a member is read.
    """

    def __init__(self, spec: Stream, data_dir: Path):
        self._spec = spec
        self.records = [
            Records(source.dataset, source.split, data_dir) for source in spec.sources.values()
        ]
        self._check()
        self.kinds = sorted({kind for records in self.records for kind in records.kinds})
        self._number_T: list[np.ndarray] = []
        self._kind_T: list[np.ndarray] = []
        self._sketch_T: list[np.ndarray] = []
        self._size = 0
        # By (source, language): the record and the number of each text that can be drawn.
        self.rows: dict[tuple[int, str], tuple[np.ndarray, np.ndarray]] = {}
        draws: list[Draw] = []
        for number, (name, source) in enumerate(spec.sources.items()):
            keep_T = kept(self.records[number], source, data_dir)
            draws += self._draws(number, name, source, keep_T)
        self.draws = draws
        drawn = {draw.label.split('/')[1] for draw in draws}
        lost = [language for language in spec.languages if language not in drawn]
        if lost:
            names = ', '.join(records.name for records in self.records)
            raise UserError(
                f'{names}: nothing is left to draw in {lost}. Pairs need a text in another '
                'language of the same row; filters and text.kinds may have taken everything.'
            )
        sizes = np.array([len(draw.record_M) for draw in self.draws])
        self.sizes, self.weights = sizes, np.array([draw.weight for draw in self.draws])
        self.base_S = np.cumsum(sizes) - sizes
        self.record_G = np.concatenate([draw.record_M for draw in self.draws])
        self.source_G = np.repeat([draw.source for draw in self.draws], sizes)
        self._first_NG, self._size_NG = (
            [
                np.concatenate([draw.sides[n][place] for draw in self.draws])
                for n in range(spec.num_texts)
            ]
            for place in (1, 2)
        )
        self._number_P, self._kind_P = (
            np.concatenate(parts) for parts in (self._number_T, self._kind_T)
        )
        self._sketch_P = np.concatenate(self._sketch_T or [np.zeros(0, np.uint64)])
        self._tags_SR = [_first(records, spec.tags) for records in self.records if spec.tags]
        self._weight_K = spec.text.weights(self.kinds)
        self._most_K = spec.text.most(self.kinds)

    @property
    def fingerprint(self) -> str:
        """Names what the order of a stream rests on: the data sets and what filters kept."""
        parts = [records.index.fingerprint for records in self.records]
        return f'{zlib.crc32(repr((parts, self.sizes.tolist())).encode()):08x}'

    @property
    def labels(self) -> tuple[str, ...]:
        """SOURCE/LANGUAGE, sorted out of all draws, each once."""
        return tuple(dict.fromkeys(draw.label for draw in self.draws))

    def choose(self, member_B: np.ndarray, side: int, random_B3: np.ndarray) -> np.ndarray:
        """Which stored texts are taken for one text of each example, int64 [B, J], -1 for none."""
        first_B, size_B = self._first_NG[side][member_B], self._size_NG[side][member_B]
        within = np.arange(size_B.sum()) - np.repeat(np.cumsum(size_B) - size_B, size_B)
        kind_T = self._kind_P[np.repeat(first_B, size_B) + within]
        place_BJ = text_choice.choose_texts(kind_T, size_B, self._weight_K, self._most_K, random_B3)
        number_BJ = self._number_P[first_B[:, None] + np.maximum(place_BJ, 0)].astype(np.int64)
        return np.where(place_BJ < 0, -1, number_BJ)

    def tags(self, member_B: np.ndarray, width: int) -> np.ndarray:
        """Which stored text names what is in each picture, int64 [B, width], -1 for none."""
        number_BJ = np.full((len(member_B), width), -1)
        source_B, record_B = self.source_G[member_B], self.record_G[member_B]
        for source in np.unique(source_B):
            here = source_B == source
            number_BJ[here, 0] = self._tags_SR[source][record_B[here]]
        return number_BJ

    def most_alike(self, member_B: np.ndarray, other_BC: np.ndarray) -> np.ndarray:
        """Of C others of each member the one whose text is nearest to its own, int64 [B].

        Texts are compared by their sketches (`near.text_sketch`); one that has the very same
        sketch comes last.
        """
        if other_BC.shape[1] == 1:
            return other_BC[:, 0]
        own_B1, sketch_BC = (
            self._sketch_P[self._first_NG[0][x]] for x in (member_B[:, None], other_BC)
        )
        distance_BC = np.bitwise_count(own_B1 ^ sketch_BC).astype(int)
        best_B = np.where(distance_BC == 0, BITS + 1, distance_BC).argmin(axis=1)
        return other_BC[np.arange(len(other_BC)), best_B]

    def read(self, member_B: np.ndarray) -> np.ndarray:
        """Serialized examples, an object array [B] of bytes."""
        source_B, record_B = self.source_G[member_B], self.record_G[member_B]
        serialized_B = np.empty(len(member_B), object)
        for source in np.unique(source_B):
            here = source_B == source
            serialized_B[here] = self.records[source].read(record_B[here])
        return serialized_B

    def place(self, member: int) -> dict:
        """{dataset, shard, index} of a member, for people."""
        records = self.records[self.source_G[member]]
        return {'dataset': records.name, **records.place(int(self.record_G[member]))}

    def _check(self) -> None:
        """Languages and kinds that the config names are in one of the sources at least."""
        held = {
            language
            for records in self.records
            for language, count in zip(records.languages, np.diff(records.index.offset_L))
            if count
        }
        names = ', '.join(records.name for records in self.records)
        self.languages = self._spec.languages or tuple(sorted(held))
        missing = [language for language in self._spec.all_languages if language not in held]
        if missing:
            raise UserError(
                f'{names}: no texts in {missing}. There are texts in: {" ".join(sorted(held))}'
            )
        kinds = {kind for records in self.records for kind in records.kinds}
        strange = [
            kind
            for kind in {**self._spec.text.kinds, **self._spec.text.joined}
            if kind not in kinds
        ]
        if strange:
            raise UserError(
                f'{names}: no texts of the kind {strange}; there are {sorted(kinds)}. '
                'Change text.kinds and text.joined of the stream.'
            )
        if self._spec.has_image and not all(records.has_image for records in self.records):
            raise UserError(f'{names}: not all of these have pictures, which captions need.')

    def _draws(self, number: int, name: str, source: StreamSource, keep_T: np.ndarray) -> Iterable[Draw]:
        """The draws of one source, their weights summing to the source's."""
        records, spec = self.records[number], self._spec
        wanted = dict.fromkeys((*self.languages, *spec.all_languages))
        held = [x for x in wanted if x in records.languages]
        texts = {language: self._of(number, language, keep_T) for language in held}
        languages = [x for x in self.languages if x in texts and len(texts[x].record_M)]
        pivots = getattr(spec, 'pivots', None)
        found: dict[str, list[tuple[str, np.ndarray, tuple[Texts, ...]]]] = {}
        for language in languages:
            mine = texts[language]
            if pivots is None:
                found[language] = [(language, mine.record_M, (mine,))]
                continue
            others = [x for x in pivots or self.languages if x != language and x in texts]
            pairs = [(f'{language}-{x}', *_both(mine, texts[x])) for x in others]
            found[language] = [pair for pair in pairs if len(pair[1])]
        found = {language: pairs for language, pairs in found.items() if pairs}
        if not found:
            raise UserError(
                f'{records.name} has nothing to draw in {spec.all_languages} as this stream is '
                'configured. Change its languages, its filters, its text or its pivots.'
            )
        sizes = np.array(
            [
                len(np.unique(np.concatenate([record_M for _, record_M, _ in pairs])))
                for pairs in found.values()
            ]
        )
        share = shares(sizes, spec.alpha, spec.cap)
        for (language, pairs), part in zip(found.items(), share):
            weight = source.weight * part / len(pairs)
            for pair, record_M, sides in pairs:
                label = f'{name}/{language}'
                yield Draw(label, f'{name}/{pair}', number, weight, record_M, sides)

    def _of(self, number: int, language: str, keep_T: np.ndarray) -> Texts:
        """The records of a data set with usable texts in a language; puts those into the pool."""
        records = self.records[number]
        index, column = records.index, records.languages.index(language)
        start, end = index.offset_L[column : column + 2]
        spec = self._spec
        wanted = spec.text.kinds or [k for k in records.default_kinds if k != spec.tags]
        of_kind = np.isin(
            index.kind_T[start:end],
            [
                k
                for k, kind in enumerate(records.kinds)
                if kind in wanted and spec.text.kinds.get(kind, 1.0)
            ],
        )
        rows = start + np.flatnonzero(keep_T[start:end] & of_kind)
        ours = np.array([self.kinds.index(kind) for kind in records.kinds], np.uint8)
        record_M, first_M, size_M = np.unique(
            index.record_T[rows], return_index=True, return_counts=True
        )
        self.rows[number, language] = index.record_T[rows], index.number_T[rows]
        self._number_T.append(index.number_T[rows])
        self._kind_T.append(ours[index.kind_T[rows]])
        if spec.candidates > 1:
            self._sketch_T.append(read_sketches(records, index)[rows])
        first_M = first_M + self._size
        self._size += len(rows)
        return Texts(record_M, first_M, size_M)


def kept(records: Records, source: StreamSource, data_dir: Path) -> np.ndarray:
    """Which texts of the index a source may use, bool [T]: not bad, and let through by filters."""
    if not source.filters.active:
        return ~np.asarray(records.index.bad_R)[records.index.record_T]
    path = filters.selection_path(data_dir, records, source.filters, lambda test: open_split(test, data_dir))
    try:
        return np.load(path / 'keep_T.npy', mmap_mode='r')
    except FileNotFoundError as error:
        raise UserError(
            f'The filters of {records.name} have not been worked out yet. '
            'Run `mural prepare` with the same --config and --data_dir first.'
        ) from error


def _first(records: Records, kind: str) -> np.ndarray:
    """The number of each record's first text of a kind, int64 [R], -1 for none."""
    if kind not in records.kinds:
        raise UserError(
            f'{records.name}: no texts of the kind {kind!r}, which tags names; there are '
            f'{sorted(records.kinds)}.'
        )
    index, number_R = records.index, np.full(len(records), -1)
    rows = np.flatnonzero(index.kind_T == records.kinds.index(kind))
    # Backwards, so that the first one is written last.
    number_R[index.record_T[rows][::-1]] = index.number_T[rows][::-1]
    return number_R


def _both(mine: Texts, other: Texts) -> tuple[np.ndarray, tuple[Texts, ...]]:
    """The records that have both, and their texts."""
    record_M, a, b = np.intersect1d(
        mine.record_M, other.record_M, assume_unique=True, return_indices=True
    )
    sides = [Texts(record_M, x.first_M[i], x.size_M[i]) for x, i in ((mine, a), (other, b))]
    return record_M, tuple(sides)
