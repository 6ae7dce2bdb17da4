"""Crisscrossed Captions: how well two captions, or a picture and a caption, go together."""

import dataclasses
import math
from collections.abc import Container, Iterator, Mapping, Sequence

from mural_jax.data.sources import layouts, named_images, tables
from mural_jax.data.sources.named_images import NamedImages
from mural_jax.data.sources.reader import Example
from mural_jax.data.sources.tables import Row
from mural_jax.types import UserError

TEXT_COLUMNS = ('caption1', 'caption2')  # The columns of STS.
IMAGE_COLUMNS = ('caption', 'image')  # The columns of SITS.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrissCrossed(NamedImages):
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
        files = layouts.find_files(self.ratings, 'ratings')
        if len({_rated_columns(file) for file in files}) > 1:
            raise UserError('Give --ratings of STS or of SITS: only these have pictures.')
        return layouts.group_by_split(files, '')

    def read_rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        texts = self._captions()
        for number, row in enumerate(
            tables.read_rows(part, (*_rated_columns(part), 'agg_score')), 1
        ):
            yield self._example(row, _rated_columns(part), texts, f'{part}:{number}')

    def image_parts(self) -> Sequence[str]:
        return super().image_parts() if self._pictured else []

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        """(key, picture), a picture again for each of its ratings."""
        keys: dict[str, set[str]] = {}
        for ratings in self._parts():
            for row in tables.read_rows(ratings, IMAGE_COLUMNS):
                keys.setdefault(named_images.base_name(row.get('image') or ''), set()).add(
                    _rating_key(row)
                )
        for name, content in named_images.read_named_images(part, keys):
            for key in sorted(keys[name]):
                if wanted is None or key in wanted:
                    yield key, content

    @property
    def _pictured(self) -> bool:
        return any(_rated_columns(part) == IMAGE_COLUMNS for part in self._parts())

    def _parts(self) -> list[str]:
        return [part for parts in self.splits().values() for part in parts]

    def _captions(self) -> dict[str, str]:
        """The captions of COCO by their number."""
        return {
            str(sentence.get('sentid')): sentence['raw']
            for _, entry in layouts.read_entries(self.captions, 'images')
            for sentence in layouts.select_dicts(entry.get('sentences'))
            if isinstance(sentence.get('raw'), str)
        }

    def _example(
        self, row: Row, columns: tuple[str, str], captions: Mapping[str, str], where: str
    ) -> tuple[str, Example]:
        score = _parse_score(row)
        pair = columns == TEXT_COLUMNS
        numbers = [
            _caption_number(row.get(column)) for column in (columns if pair else columns[:1])
        ]
        if not math.isfinite(score):
            return named_images.make_bad_row('no score', where)
        if any(number not in captions for number in numbers):
            return named_images.make_bad_row('no such caption in --captions', where)
        kinds = ('sentence1', 'sentence2') if pair else ('caption',)
        texts = [(self.language, kind, captions[number]) for kind, number in zip(kinds, numbers)]
        if pair:
            return where, Example(id='/'.join(numbers), texts=texts, score=score, where=where)
        _, example = named_images.make_row(row.get('image'), texts, where)
        return _rating_key(row), dataclasses.replace(example, score=score)


def _rated_columns(file: str) -> tuple[str, str]:
    """The columns of what a file rates, PICTURE or TEXTS."""
    names = tables.list_text_columns(file)
    for columns in (TEXT_COLUMNS, IMAGE_COLUMNS):
        if set(columns) <= set(names):
            return columns
    if 'image1' in names:
        raise UserError(
            f'{file} rates pairs of pictures (SIS). An example has one picture: these ratings '
            'belong to the evaluation of pairs of pictures, not to a data set.'
        )
    raise UserError(f'{file} has the columns {names}; it should be sts_*.csv or sits_*.csv.')


def _parse_score(row: Row) -> float:
    try:
        return float(row.get('agg_score') or 'nan')
    except ValueError:
        return math.nan


def _caption_number(value: object) -> str:
    """42 of COCO_val2014:sentid:42."""
    return str(value).rpartition(':')[2]


def _rating_key(row: Row) -> str:
    """What joins a rating to its picture: both may be in many ratings."""
    return f'{named_images.base_name(row.get("image") or "")}#{_caption_number(row.get("caption"))}'
