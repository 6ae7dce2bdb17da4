"""All that a stream can draw, and how its members are chosen, compared and read."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np

from mural_jax.data.fields.text_choice import choose_texts
from mural_jax.data.reading.draws import Draw, DrawBuilder
from mural_jax.data.reading.selection import read_keep_mask
from mural_jax.data.sets.hashes import BITS
from mural_jax.data.sets.records import Records
from mural_jax.data.streams.base import Stream
from mural_jax.types import UserError


class Pool:
    """All that a stream draws from. Its members are the records of all draws, one after another.

    records: the opened split of each source.
    kinds, languages: the kinds of texts of all sources, and the languages that are drawn.
    draws, sizes, weights: the draws, how many members each has, and their weights.
    base_S: number of each draw's first member.
    record_G, source_G: the record and the source of each member.
    rows: by (source, language), the record and the number in it of each text that can be drawn.

    Raises UserError where the data is not prepared, or lacks what the stream asks for.
    """

    def __init__(self, stream: Stream, data_dir: Path):
        self._stream = stream
        self.records = [
            Records(source.dataset, source.split, data_dir) for source in stream.sources.values()
        ]
        self.kinds = sorted({kind for records in self.records for kind in records.kinds})
        held = _languages_with_texts(self.records)
        self.languages = stream.languages or tuple(sorted(held))
        self._check_contents(held)
        builder = DrawBuilder(stream, self.kinds, self.languages)
        self.draws: list[Draw] = []
        for number, (name, source) in enumerate(stream.sources.items()):
            keep_T = read_keep_mask(self.records[number], source, data_dir)
            self.draws += builder.build(number, name, source, self.records[number], keep_T)
        self._check_languages_drawn()
        self.rows, self._texts = builder.rows, builder.texts
        self.sizes = np.array([len(draw.record_M) for draw in self.draws])
        self.weights = np.array([draw.weight for draw in self.draws])
        self.base_S = np.cumsum(self.sizes) - self.sizes
        self.record_G = np.concatenate([draw.record_M for draw in self.draws])
        self.source_G = np.repeat([draw.source for draw in self.draws], self.sizes)
        sides = range(stream.num_texts)
        self._first_NG = [np.concatenate([d.sides[n].first_M for d in self.draws]) for n in sides]
        self._size_NG = [np.concatenate([d.sides[n].size_M for d in self.draws]) for n in sides]
        self._texts.join()
        # Only with tags: for large data sets the arrays take a lot of memory.
        self._tag_SR = (
            [_number_tags(records, stream.tags) for records in self.records] if stream.tags else []
        )
        self._weight_K = stream.text.kind_weights(self.kinds)
        self._most_K = stream.text.most_joined(self.kinds)

    @property
    def fingerprint(self) -> str:
        """A name of what fixes the order of a stream: its data sets, and what filters kept."""
        # Filters change the sizes, languages the number of draws.
        parts = [records.index.fingerprint for records in self.records]
        return f'{zlib.crc32(repr((parts, self.sizes.tolist())).encode()):08x}'

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels SOURCE/LANGUAGE of all draws, each once."""
        return tuple(dict.fromkeys(draw.label for draw in self.draws))

    @property
    def num_joined(self) -> int:
        """Largest number of stored texts that are joined to one text of an example."""
        return int(self._most_K.max())

    def choose_texts(self, member_B: np.ndarray, side: int, random_B3: np.ndarray) -> np.ndarray:
        """Numbers of the stored texts that become one text of each member, int64 [B, J].

        -1 fills rows where fewer are joined. `side` says which text of an example it is.
        """
        first_B, size_B = self._first_NG[side][member_B], self._size_NG[side][member_B]
        # The places of all texts of these members, one member after another.
        within = np.arange(size_B.sum()) - np.repeat(np.cumsum(size_B) - size_B, size_B)
        kind_T = self._texts.kind_P[np.repeat(first_B, size_B) + within]
        place_BJ = choose_texts(kind_T, size_B, self._weight_K, self._most_K, random_B3)
        number_BJ = self._texts.number_P[first_B[:, None] + np.maximum(place_BJ, 0)]
        number_BJ = number_BJ.astype(np.int64)
        return np.where(place_BJ < 0, -1, number_BJ)

    def find_tags(self, member_B: np.ndarray) -> np.ndarray:
        """Number of the stored text that names what is in each image, int64 [B, J]; -1 for none.

        Only the first column is used; the shape is that of `choose_texts`.
        """
        number_BJ = np.full((len(member_B), self.num_joined), -1)
        source_B, record_B = self.source_G[member_B], self.record_G[member_B]
        for source in np.unique(source_B):
            here = source_B == source
            number_BJ[here, 0] = self._tag_SR[source][record_B[here]]
        return number_BJ

    def choose_most_similar(self, member_B: np.ndarray, other_BC: np.ndarray) -> np.ndarray:
        """The one of C other members whose text is most similar to a member's own, int64 [B].

        Texts are compared by their sketches (`hashes.text_sketch`). A text with the very same
        sketch is taken last: it is probably the same text.
        """
        if other_BC.shape[1] == 1:
            # There is nothing to compare, and the pool then has no sketches.
            return other_BC[:, 0]
        first_G, sketch_P = self._first_NG[0], self._texts.sketch_P
        own_B1, sketch_BC = sketch_P[first_G[member_B[:, None]]], sketch_P[first_G[other_BC]]
        distance_BC = np.bitwise_count(own_B1 ^ sketch_BC).astype(int)
        best_B = np.where(distance_BC == 0, BITS + 1, distance_BC).argmin(axis=1)
        return other_BC[np.arange(len(other_BC)), best_B]

    def read(self, member_B: np.ndarray) -> np.ndarray:
        """Serialized examples of members, an object array [B] of bytes."""
        # Source by source, since each reads its records of a batch at once.
        source_B, record_B = self.source_G[member_B], self.record_G[member_B]
        serialized_B = np.empty(len(member_B), object)
        for source in np.unique(source_B):
            here = source_B == source
            serialized_B[here] = self.records[source].read(record_B[here])
        return serialized_B

    def locate(self, member: int) -> dict[str, Any]:
        """{dataset, shard, index} of a member, for messages."""
        records = self.records[self.source_G[member]]
        return {'dataset': records.name, **records.locate(int(self.record_G[member]))}

    @property
    def _names(self) -> str:
        return ', '.join(records.name for records in self.records)

    def _check_contents(self, held: set[str]) -> None:
        """Raises UserError where the sources have not what the config names, `held` languages."""
        stream = self._stream
        # One source may lack a language or a kind, but not all of them.
        missing = [language for language in stream.all_languages if language not in held]
        if missing:
            raise UserError(
                f'{self._names}: no texts in {missing}. There are texts in: '
                f'{" ".join(sorted(held))}'
            )
        unknown = [
            kind for kind in {**stream.text.kinds, **stream.text.joined} if kind not in self.kinds
        ]
        if unknown:
            raise UserError(
                f'{self._names}: no texts of the kind {unknown}; there are {self.kinds}. '
                'Change text.kinds and text.joined of the stream.'
            )
        if stream.images and not all(records.has_image for records in self.records):
            raise UserError(
                f'{self._names}: not all of these data sets have images, which captions need.'
            )

    def _check_languages_drawn(self) -> None:
        """Raises UserError where a language of the config has nothing left to draw."""
        drawn = {draw.label.split('/')[1] for draw in self.draws}
        lost = [language for language in self._stream.languages if language not in drawn]
        if lost:
            raise UserError(
                f'{self._names}: nothing is left to draw in {lost}. Pairs need a text in another '
                'language of the same row; filters and text.kinds may have taken everything.'
            )


def _languages_with_texts(opened: list[Records]) -> set[str]:
    return {
        language
        for records in opened
        for language, count in zip(records.languages, np.diff(records.index.offset_L))
        if count
    }


def _number_tags(records: Records, kind: str) -> np.ndarray:
    """The number of each record's first text of a kind, int64 [R], -1 for none.

    Raises UserError where the data set has no such texts.
    """
    if kind not in records.kinds:
        raise UserError(
            f'{records.name}: no texts of the kind {kind!r}, which tags names; there are '
            f'{sorted(records.kinds)}.'
        )
    index, number_R = records.index, np.full(len(records), -1)
    rows = np.flatnonzero(index.kind_T == records.kinds.index(kind))
    # Backwards, so that the first text of a record is written last.
    number_R[index.record_T[rows][::-1]] = index.number_T[rows][::-1]
    return number_R
