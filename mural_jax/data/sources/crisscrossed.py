"""Crisscrossed Captions: ratings of two captions, or of an image and a caption."""

import dataclasses
import math
from collections.abc import Container, Iterator, Mapping, Sequence

from mural_jax.data.sources import layouts, named_images, tables
from mural_jax.data.sources.named_images import NamedImages
from mural_jax.data.sources.reader import Example
from mural_jax.data.sources.tables import Row
from mural_jax.types import UserError

TEXT_COLUMNS = ('caption1', 'caption2')  # What STS rates.
IMAGE_COLUMNS = ('caption', 'image')  # What SITS rates.


@dataclasses.dataclass(frozen=True, kw_only=True)
class CrissCrossed(NamedImages):
    """Crisscrossed Captions' ratings from 0 to 5: Parekh et al. 2021, arXiv:2004.15020.

    sts_{val,test}.csv rates pairs of captions; each pair becomes an example without an image,
    with texts of the kinds "sentence1" and "sentence2". sits_{val,test}.csv rates pairs of an
    image and a caption; each rating becomes an example
    (github.com/google-research-datasets/Crisscrossed-Captions). These files give captions by
    number; their texts come from Karpathy's dataset_coco.json.

    ratings: CSV files or patterns of them, all of STS or all of SITS.
    captions: The file dataset_coco.json.
    language: Language of the captions.
    """

    ratings: tuple[str, ...]
    captions: str
    language: str = 'en'

    @property
    def family(self) -> str:  # type: ignore[override]
        """'captions' for SITS; 'translations' for STS, whose examples have no image."""
        return 'captions' if self._has_images else 'translations'

    def splits(self) -> Mapping[str, Sequence[str]]:
        files = layouts.find_files(self.ratings, 'ratings')
        if len({_rated_columns(file) for file in files}) > 1:
            raise UserError('Give --ratings of STS or of SITS, not of both: only SITS has images.')
        return layouts.group_by_split(files, '')

    def read_rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        columns, captions = _rated_columns(part), self._read_captions()
        for number, row in enumerate(tables.read_rows(part, (*columns, 'agg_score')), 1):
            yield self._make_example(row, columns, captions, f'{part}:{number}')

    def image_parts(self) -> Sequence[str]:
        return super().image_parts() if self._has_images else []

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        """Yields (key, image), each image once for each of its ratings."""
        keys_by_name: dict[str, set[str]] = {}
        for ratings in self._parts():
            for row in tables.read_rows(ratings, IMAGE_COLUMNS):
                name = named_images.base_name(row.get('image') or '')
                keys_by_name.setdefault(name, set()).add(_rating_key(row))
        # An example holds one rating, so the image goes to each of its ratings.
        for name, content in named_images.read_named_images(part, keys_by_name):
            for key in sorted(keys_by_name[name]):
                if wanted is None or key in wanted:
                    yield key, content

    @property
    def _has_images(self) -> bool:
        return any(_rated_columns(part) == IMAGE_COLUMNS for part in self._parts())

    def _parts(self) -> list[str]:
        return [part for parts in self.splits().values() for part in parts]

    def _read_captions(self) -> dict[str, str]:
        """COCO's captions by their number."""
        return {
            str(sentence.get('sentid')): sentence['raw']
            for _, entry in layouts.read_entries(self.captions, 'images')
            for sentence in layouts.select_dicts(entry.get('sentences'))
            if isinstance(sentence.get('raw'), str)
        }

    def _make_example(
        self, row: Row, columns: tuple[str, str], captions: Mapping[str, str], where: str
    ) -> tuple[str, Example]:
        score = _parse_score(row)
        is_pair = columns == TEXT_COLUMNS
        caption_columns = columns if is_pair else columns[:1]
        numbers = [_caption_number(row.get(column)) for column in caption_columns]
        # A bad rating gets a key of its own, so it is not joined to an image.
        if not math.isfinite(score):
            return named_images.make_bad_row('no score', where)
        if any(number not in captions for number in numbers):
            return named_images.make_bad_row('no such caption in --captions', where)
        kinds = ('sentence1', 'sentence2') if is_pair else ('caption',)
        texts = [(self.language, kind, captions[number]) for kind, number in zip(kinds, numbers)]
        if is_pair:
            return where, Example(id='/'.join(numbers), texts=texts, score=score, where=where)
        _, example = named_images.make_row(row.get('image'), texts, where)
        return _rating_key(row), dataclasses.replace(example, score=score)


def _rated_columns(file: str) -> tuple[str, str]:
    """The columns that a file rates: TEXT_COLUMNS or IMAGE_COLUMNS."""
    names = tables.list_text_columns(file)
    for columns in (TEXT_COLUMNS, IMAGE_COLUMNS):
        if set(columns) <= set(names):
            return columns
    if 'image1' in names:
        raise UserError(
            f'{file} rates pairs of images (SIS). An example has only one image: these ratings '
            'belong to the evaluation of pairs of images, not to a data set.'
        )
    raise UserError(f'{file} has the columns {names}; it should be sts_*.csv or sits_*.csv.')


def _parse_score(row: Row) -> float:
    try:
        return float(row.get('agg_score') or 'nan')
    except ValueError:
        return math.nan


def _caption_number(value: object) -> str:
    """The number in a name such as COCO_val2014:sentid:42."""
    return str(value).rpartition(':')[2]


def _rating_key(row: Row) -> str:
    # Image and caption together: each of them may be in many ratings.
    return f'{named_images.base_name(row.get("image") or "")}#{_caption_number(row.get("caption"))}'
