"""Crisscrossed Captions: how well two captions, or a picture and a caption, go together."""

import dataclasses
import math
from collections.abc import Container, Iterator, Mapping, Sequence

from mural_jax.data.sources import layouts, named, tables
from mural_jax.data.sources.named import NamedPictures
from mural_jax.data.sources.reader import Example
from mural_jax.data.sources.tables import Row
from mural_jax.types import UserError

TEXTS = ('caption1', 'caption2')  # The columns of STS.
PICTURE = ('caption', 'image')  # The columns of SITS.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrissCrossed(NamedPictures):
    """Crisscrossed Captions' ratings from 0 to 5: Parekh et al. 2021, arXiv:2004.15020.

    sts_{val,test}.csv rates two captions, which become texts of the kinds "sentence1" and
    "sentence2" of an example without picture; sits_{val,test}.csv rates a picture with a caption,
    an example for each rating (github.com/google-research-datasets/Crisscrossed-Captions). The
    files name captions by number: the texts are those of Karpathy's dataset_coco.json.

    ratings: the CSV files, all STS or all SITS, or patterns of them.
    captions: dataset_coco.json.
    language: of the captions.
    """

    ratings: tuple[str, ...]
    captions: str
    language: str = 'en'

    @property
    def family(self) -> str:  # type: ignore[override]
        """Pairs of captions are texts alone: of captions/NAME each has a picture."""
        return 'captions' if self._pictured else 'translations'

    def splits(self) -> Mapping[str, Sequence[str]]:
        files = layouts.files(self.ratings, 'ratings')
        if len({_columns(file) for file in files}) > 1:
            raise UserError('Give --ratings of STS or of SITS: only these have pictures.')
        return layouts.by_split(files, '')

    def rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        texts = self._captions()
        for number, row in enumerate(tables.rows(part, (*_columns(part), 'agg_score')), 1):
            yield self._example(row, _columns(part), texts, f'{part}:{number}')

    def picture_parts(self) -> Sequence[str]:
        return super().picture_parts() if self._pictured else []

    def pictures(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        """(key, picture), a picture again for each of its ratings."""
        keys: dict[str, set[str]] = {}
        for ratings in self._parts():
            for row in tables.rows(ratings, PICTURE):
                keys.setdefault(named.base_name(row.get('image') or ''), set()).add(_key(row))
        for name, content in named.by_name(part, keys):
            for key in sorted(keys[name]):
                if wanted is None or key in wanted:
                    yield key, content

    @property
    def _pictured(self) -> bool:
        return any(_columns(part) == PICTURE for part in self._parts())

    def _parts(self) -> list[str]:
        return [part for parts in self.splits().values() for part in parts]

    def _captions(self) -> dict[str, str]:
        """The captions of COCO by their number."""
        return {
            str(sentence.get('sentid')): sentence['raw']
            for _, entry in layouts.entries(self.captions, 'images')
            for sentence in layouts.dicts(entry.get('sentences'))
            if isinstance(sentence.get('raw'), str)
        }

    def _example(
        self, row: Row, columns: tuple[str, str], captions: Mapping[str, str], where: str
    ) -> tuple[str, Example]:
        score = _score(row)
        pair = columns == TEXTS
        numbers = [_number(row.get(column)) for column in (columns if pair else columns[:1])]
        if not math.isfinite(score):
            return named.bad('no score', where)
        if any(number not in captions for number in numbers):
            return named.bad('no such caption in --captions', where)
        kinds = ('sentence1', 'sentence2') if pair else ('caption',)
        texts = [(self.language, kind, captions[number]) for kind, number in zip(kinds, numbers)]
        if pair:
            return where, Example(id='/'.join(numbers), texts=texts, score=score, where=where)
        _, example = named.row(row.get('image'), texts, where)
        return _key(row), dataclasses.replace(example, score=score)


def _columns(file: str) -> tuple[str, str]:
    """The columns of what a file rates, PICTURE or TEXTS."""
    names = tables.names(file)
    for columns in (TEXTS, PICTURE):
        if set(columns) <= set(names):
            return columns
    if 'image1' in names:
        raise UserError(
            f'{file} rates pairs of pictures (SIS). An example has one picture: these ratings '
            'belong to the evaluation of pairs of pictures, not to a data set.'
        )
    raise UserError(f'{file} has the columns {names}; it should be sts_*.csv or sits_*.csv.')


def _score(row: Row) -> float:
    try:
        return float(row.get('agg_score') or 'nan')
    except ValueError:
        return math.nan


def _number(value: object) -> str:
    """42 of COCO_val2014:sentid:42."""
    return str(value).rpartition(':')[2]


def _key(row: Row) -> str:
    """What joins a rating to its picture: both may be in many ratings."""
    return f'{named.base_name(row.get("image") or "")}#{_number(row.get("caption"))}'
