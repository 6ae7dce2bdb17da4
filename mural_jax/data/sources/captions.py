"""Images with captions from any table."""

import dataclasses
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mural_jax.data.sources import archives, columns, named_images, tables
from mural_jax.data.sources.columns import TextColumn
from mural_jax.data.sources.pairs import short_name
from mural_jax.data.sources.reader import Example, ImageRegions, Text
from mural_jax.data.sources.tables import Row
from mural_jax.types import UserError

# Types of the boxes, classes and features of regions.
REGION_TYPES = (np.float32, np.int64, np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionTable(named_images.NamedImages):
    """Captions in a Parquet, TSV, CSV or JSON lines table, with images inside or in other files.

    Rows with the same image name are one example. A Parquet table may hold the images themselves,
    as bytes or as Hugging Face's struct {bytes, path}; then each row is one example.

    table: The table, or a pattern of several tables.
    images: Folders or tar archives with the images; leave it out if the table holds the images.
    image_column: Column with the image's file name, with its bytes, or with both in a struct.
    folders: Find images by their path below the folder or in the archive, not only by its last
        part.
    texts: COLUMN[:KIND[:LANGUAGE]] for each column with texts (a string or a list of strings).
        @COLUMN is the value of another column, @COLUMN.N its part N between hyphens. * is every
        other column of strings, each in the language of its name.
    language: Language of the columns for which --texts gives none; @COLUMN is the value of a
        column.
    kind: Kind of the columns for which --texts gives none; @COLUMN is the value of a column.
    split: Split of all rows, or of the rows with an empty split column.
    split_column: Column with the split of each row.
    id: Columns whose values together are the id of an example; without the flag the image's name
        or the row's number is the id.
    label_column: Column with the class number.
    class_names: Table with the names of the classes, which become texts of kind "name".
    class_names_columns: Columns of that table: class, language and name.
    boxes_column: Column with the boxes of regions, each [left, top, right, bottom] as shares of
        the image.
    classes_column: Column with the classes of regions.
    features_column: Column with the features of regions.
    where: COLUMN=VALUE conditions; only the rows that fulfil all of them are read.
    """

    table: str
    images: tuple[str, ...] = ()
    image_column: str = 'image'
    folders: bool = False
    texts: tuple[str, ...] = ('caption',)
    language: str = ''
    kind: str = 'caption'
    split: str = 'train'
    split_column: str = ''
    id: tuple[str, ...] = ()
    label_column: str = ''
    class_names: str = ''
    class_names_columns: tuple[str, ...] = ('label', 'language', 'name')
    boxes_column: str = ''
    classes_column: str = ''
    features_column: str = ''
    where: tuple[str, ...] = ()

    def splits(self) -> Mapping[str, Sequence[str]]:
        files = tables.find_files(self.table, 'table of captions')
        self._check_flags()
        if not self.split_column:
            return {self.split: files}
        files_by_split: dict[str, list[str]] = {}
        for file in files:
            for split in sorted({self._split_of(row) for _, row in self._select_rows(file, [])}):
                files_by_split.setdefault(split, []).append(file)
        if not files_by_split:
            raise UserError(f'No row of {self.table} fulfils {list(self.where)}.')
        return files_by_split

    def read_rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        self._check_flags()
        texts, names = self._text_columns(part), self._read_class_names()
        file = short_name(part, tables.find_files(self.table, 'table of captions'))
        needs = [*self._columns_without_text(), *_required_columns(texts)]
        for number, row in self._select_rows(part, needs):
            if self._split_of(row) == split:
                key, example = self._make_example(row, f'{file}:{number}')
                example.texts = self._texts_of_row(row, texts, names)
                yield key, example

    def read_texts(self, split: str, part: str) -> Iterator[Text]:
        self._check_flags()
        texts, names = self._text_columns(part), self._read_class_names()
        for _, row in self._select_rows(part, [self.label_column, *_required_columns(texts)]):
            if self._split_of(row) == split:
                yield from self._texts_of_row(row, texts, names)

    def image_parts(self) -> Sequence[str]:
        return archives.find_parts(self.images)

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        read = archives.read_files if self.folders else named_images.read_named_images
        return read(part, wanted)

    def _check_flags(self) -> None:
        for condition in self.where:
            if '=' not in condition:
                raise UserError(f'--where {condition} must be COLUMN=VALUE.')
        if len(self.class_names_columns) != 3:
            raise UserError(
                '--class_names_columns must be three columns: class, language and name.'
            )
        if self.class_names and not self.label_column:
            raise UserError(
                'Give --label_column: it joins the names of --class_names to the examples.'
            )
        if not self.images and tables.suffix(self.table) != '.parquet':
            raise UserError(
                'Give --images, folders or tar archives: only Parquet tables can hold images.'
            )

    def _select_rows(self, file: str, needs: Sequence[str]) -> Iterator[tuple[int, Row]]:
        """Yields (number, row) of the rows that fulfil the conditions.

        A row has the columns in `needs` and those of the split and the conditions.
        """
        wanted = dict.fromkeys([*needs, self.split_column, *columns.condition_columns(self.where)])
        rows = tables.read_rows(file, [name for name in wanted if name])
        for number, row in enumerate(rows, 1):
            if columns.fulfils_conditions(row, self.where):
                yield number, row

    def _split_of(self, row: Row) -> str:
        return columns.find_split(row, self.split_column, self.split)

    def _columns_without_text(self) -> list[str]:
        regions = [self.boxes_column, self.classes_column, self.features_column]
        return [self.image_column, *self.id, self.label_column, *regions]

    def _text_columns(self, part: str) -> list[TextColumn]:
        # '*' must not take these columns for languages.
        others = {*self._columns_without_text(), self.split_column}
        names = [name for name in tables.list_text_columns(part) if name not in others]
        words = [word for word in self.texts if word]
        return columns.parse_text_columns(words, names, self.kind, self.language)

    def _read_class_names(self) -> dict[str, list[Text]]:
        """The names of each class, as texts of kind 'name'."""
        names: dict[str, list[Text]] = {}
        if not self.class_names:
            return names
        label, language, name = self.class_names_columns
        for file in tables.find_files(self.class_names, 'table of class names'):
            for row in tables.read_rows(file, self.class_names_columns):
                if row.get(name) is not None:
                    text = (str(row.get(language) or ''), 'name', str(row[name]))
                    names.setdefault(_class_key(row.get(label)), []).append(text)
        return names

    def _texts_of_row(
        self, row: Row, texts: Sequence[TextColumn], names: Mapping[str, list[Text]]
    ) -> list[Text]:
        own = [text for column in texts for text in column.read_texts(row)]
        return own + names.get(_class_key(row.get(self.label_column)), [])

    def _make_example(self, row: Row, where: str) -> tuple[str, Example]:
        """(key, example without texts) of a row."""
        name, image, bad = self._find_image(row)
        regions = self._parse_regions(row)
        # A row that holds its own image has a key of its own, so that it is joined to no other.
        key = name or where
        example = Example(
            id=columns.join_id(row, self.id) if self.id else key,
            texts=[],
            image=image,
            label=columns.parse_class_number(row.get(self.label_column)),
            regions=regions or ImageRegions(),
            where=where,
            bad=bad or ('' if regions else 'regions are broken'),
        )
        return key, example

    def _find_image(self, row: Row) -> tuple[str, bytes, str]:
        """(name, content, what is wrong) of a row's image; the name or the content is empty."""
        value = row.get(self.image_column)
        name, image = value, value
        # Hugging Face's struct.
        if isinstance(value, dict):
            name, image = value.get('path'), value.get('bytes')
        if not self.images:
            if isinstance(image, bytes) and image:
                return '', image, ''
            return '', b'', 'no image in the row'
        # Some tables name images by number.
        key = str(name) if isinstance(name, str | int) else ''
        key = key if self.folders else named_images.base_name(key)
        return (key, b'', '') if key else ('', b'', 'no image name')

    def _parse_regions(self, row: Row) -> ImageRegions | None:
        """The regions of a row as arrays; None if they are not numbers or do not fit together."""
        names = [self.boxes_column, self.classes_column, self.features_column]
        values = [(row.get(name) if name else None) or [] for name in names]
        try:
            box_R4, class_R, feature_RF = map(np.asarray, values, REGION_TYPES)
            valid = _are_valid_regions(box_R4, class_R, feature_RF, bool(self.features_column))
        except (ValueError, TypeError, OverflowError):  # No numbers, or rows of several lengths.
            return None
        return ImageRegions(box_R4, class_R, feature_RF) if valid else None


def _are_valid_regions(
    box_R4: np.ndarray, class_R: np.ndarray, feature_RF: np.ndarray, has_features: bool
) -> bool:
    """Whether all regions have a box of finite numbers, a class of at least -1 and features.

    Classes may be missing altogether, and so may features unless `has_features`. A class of -1
    means that a region has no class.
    """
    count = len(box_R4)
    return (
        (not box_R4.size or box_R4.shape == (count, 4))
        and (not class_R.size or class_R.shape == (count,) and class_R.min() >= -1)
        and (not has_features or len(feature_RF) == count)
        and (not feature_RF.size or feature_RF.shape == (count, feature_RF.size // count))
        and bool(np.isfinite(box_R4).all() and np.isfinite(feature_RF).all())
    )


def _required_columns(texts: Sequence[TextColumn]) -> list[str]:
    return [column for text in texts for column in text.required_columns]


def _class_key(value: Any) -> str:
    # Two tables are joined by this key, and may write one class as 5, 5.0 or '5'.
    number = columns.parse_class_number(value)
    return str(value) if number < 0 else str(number)
