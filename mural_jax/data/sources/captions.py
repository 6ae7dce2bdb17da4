"""Pictures with captions from any table, and from tar shards of whole samples (WebDataset)."""

import dataclasses
import itertools
import json
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mural_jax.data.sources import archives, columns, named_images, tables
from mural_jax.data.sources.columns import TextColumn
from mural_jax.data.sources.pairs import short_name
from mural_jax.data.sources.reader import Example, ImageRegions, Reader, Text
from mural_jax.data.sources.tables import Row
from mural_jax.types import UserError

File = tuple[str, bytes]  # (ending, content)
ENDINGS = tuple(ending[1:] for ending in archives.IMAGE_SUFFIXES)
# Of boxes, classes and features.
REGION_TYPES = (np.float32, np.int64, np.float32)
STEM = re.compile(r'((?:.*/)?[^./]+)\.([^/]+)', re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CaptionTable(named_images.NamedImages):
    """Captions of a Parquet, TSV, CSV or JSON lines table, pictures in it or in other files.

    Rows that share a picture's name are one example. In Parquet the picture itself may stand in
    the table, as bytes or as Hugging Face's struct {bytes, path}: then a row is an example.

    table: the table, or a pattern of several.
    images: folders or tar archives with the pictures; empty where the table holds them.
    image_column: the column of the picture's file name, of its bytes, or of both in a struct.
    folders: names are paths below the folder or in the archive, not only their last part.
    texts: COLUMN[:KIND[:LANGUAGE]] of each column with texts (a string or a list of strings).
        @COLUMN stands for the value of another column, @COLUMN.N for its part N between hyphens;
        * for every other column of strings, each in the language of its name.
    language: the language of the texts; @COLUMN for the value of a column.
    kind: the kind of the texts; @COLUMN for the value of a column.
    split: the split of all rows, or of those whose split column is empty.
    split_column: the column that names each row's split.
    id: columns whose values name an example, by default the picture's name or the row's number.
    label_column: the column of the class.
    class_names: a table with the names of the classes, texts of kind "name" of their examples.
    class_names_columns: its columns of the class, the language and the name.
    boxes_column: column of regions, [left, top, right, bottom] each, in shares of the picture.
    classes_column: column of the regions' classes.
    features_column: column of the regions' features.
    where: COLUMN=VALUE conditions that a row has to fulfil, all of them.
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
        self._check()
        if not self.split_column:
            return {self.split: files}
        found: dict[str, list[str]] = {}
        for file in files:
            for split in sorted({self._split(row) for _, row in self._read(file, [])}):
                found.setdefault(split, []).append(file)
        if not found:
            raise UserError(f'No row of {self.table} fulfils {list(self.where)}.')
        return found

    def read_rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        self._check()
        texts, names = self._texts(part), self._names()
        file = short_name(part, tables.find_files(self.table, 'table of captions'))
        for number, row in self._read(part, [*self._needs(), *_needed_columns(texts)]):
            if self._split(row) == split:
                key, example = self._example(row, f'{file}:{number}')
                example.texts = self._row_texts(row, texts, names)
                yield key, example

    def read_texts(self, split: str, part: str) -> Iterator[Text]:
        self._check()
        texts, names = self._texts(part), self._names()
        for _, row in self._read(part, [self.label_column, *_needed_columns(texts)]):
            if self._split(row) == split:
                yield from self._row_texts(row, texts, names)

    def image_parts(self) -> Sequence[str]:
        return archives.find_parts(self.images)

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        return (archives.read_files if self.folders else named_images.read_named_images)(
            part, wanted
        )

    def _check(self) -> None:
        for condition in self.where:
            if '=' not in condition:
                raise UserError(f'--where {condition} must be COLUMN=VALUE.')
        if len(self.class_names_columns) != 3:
            raise UserError('--class_names_columns must be three: class, language and name.')
        if self.class_names and not self.label_column:
            raise UserError('Give --label_column: --class_names are joined to examples by it.')
        if not self.images and tables.suffix(self.table) != '.parquet':
            raise UserError('Give --images, folders or tar archives: only Parquet holds pictures.')

    def _read(self, file: str, needs: Sequence[str]) -> Iterator[tuple[int, Row]]:
        """(number, row) of the rows that fulfil the conditions, with only the columns needed."""
        conditions = [condition.partition('=')[0] for condition in self.where]
        wanted = dict.fromkeys([*needs, self.split_column, *conditions])
        rows = tables.read_rows(file, [name for name in wanted if name])
        for number, row in enumerate(rows, 1):
            if columns.fulfils_conditions(row, self.where):
                yield number, row

    def _split(self, row: Row) -> str:
        value = row.get(self.split_column) if self.split_column else None
        return self.split if value in (None, '') else str(value)

    def _needs(self) -> list[str]:
        regions = [self.boxes_column, self.classes_column, self.features_column]
        return [self.image_column, *self.id, self.label_column, *regions]

    def _texts(self, part: str) -> list[TextColumn]:
        used = {*self._needs(), self.split_column}
        names = [name for name in tables.list_text_columns(part) if name not in used]
        words = [word for word in self.texts if word]
        return columns.parse_text_columns(words, names, self.kind, self.language)

    def _names(self) -> dict[str, list[Text]]:
        """The names of each class, texts of kind 'name'."""
        found: dict[str, list[Text]] = {}
        label, language, name = self.class_names_columns
        for file in (
            tables.find_files(self.class_names, 'table of class names') if self.class_names else ()
        ):
            for row in tables.read_rows(file, self.class_names_columns):
                if row.get(name) is not None:
                    text = (str(row.get(language) or ''), 'name', str(row[name]))
                    found.setdefault(_class_key(row.get(label)), []).append(text)
        return found

    def _row_texts(
        self, row: Row, texts: Sequence[TextColumn], names: Mapping[str, list[Text]]
    ) -> list[Text]:
        own = [text for column in texts for text in column.texts(row)]
        return own + names.get(_class_key(row.get(self.label_column)), [])

    def _example(self, row: Row, where: str) -> tuple[str, Example]:
        """(key, example without texts) of a row."""
        name, image, bad = self._picture(row)
        regions = self._regions(row)
        # Rows that hold their picture are whole: no two of them may be joined.
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

    def _picture(self, row: Row) -> tuple[str, bytes, str]:
        """(name, content, what is wrong) of a row's picture; the name or the content is empty."""
        value = row.get(self.image_column)
        name, image = value, value
        if isinstance(value, dict):
            name, image = value.get('path'), value.get('bytes')
        if not self.images:
            if isinstance(image, bytes) and image:
                return '', image, ''
            return '', b'', 'no picture in the row'
        key = str(name) if isinstance(name, str | int) else ''
        key = key if self.folders else named_images.base_name(key)
        return (key, b'', '') if key else ('', b'', 'no name of a picture')

    def _regions(self, row: Row) -> ImageRegions | None:
        """The regions of a row, arrays; None where they are no numbers, or not as many of each."""
        names = [self.boxes_column, self.classes_column, self.features_column]
        values = [(row.get(name) if name else None) or [] for name in names]
        try:
            box_R4, class_R, feature_RF = map(np.asarray, values, REGION_TYPES)
            fit = _regions_fit(box_R4, class_R, feature_RF, bool(self.features_column))
        except (ValueError, TypeError, OverflowError):  # No numbers, or rows of several lengths.
            return None
        return ImageRegions(box_R4, class_R, feature_RF) if fit else None


def _regions_fit(
    box_R4: np.ndarray, class_R: np.ndarray, feature_RF: np.ndarray, featured: bool
) -> bool:
    """Whether regions have four finite numbers, a class from -1 (none) on, features alike."""
    count = len(box_R4)
    return (
        (not box_R4.size or box_R4.shape == (count, 4))
        and (not class_R.size or class_R.shape == (count,) and class_R.min() >= -1)
        and (not featured or len(feature_RF) == count)
        and (not feature_RF.size or feature_RF.shape == (count, feature_RF.size // count))
        and bool(np.isfinite(box_R4).all() and np.isfinite(feature_RF).all())
    )


def _needed_columns(texts: Sequence[TextColumn]) -> list[str]:
    return [column for text in texts for column in text.needs]


def _class_key(value: Any) -> str:
    """A class as a word, by which two tables are joined: 5, 5.0 and '5' are one class."""
    number = columns.parse_class_number(value)
    return str(value) if number < 0 else str(number)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebDataset(Reader):
    """Samples of tar shards: files that follow each other and share a stem, as img2dataset makes.

    The stem is the path up to the first dot of the file's name; what follows tells what the file
    is: .jpg, .jpeg, .png, .webp, .gif or .bmp the picture, .txt a caption, .json an object of
    more (github.com/webdataset/webdataset; github.com/rom1504/img2dataset, whose objects have
    caption, url, key, status and others).

    shards: the tar files, or patterns of them.
    language: the language of the texts.
    language_key: the key of the .json that holds the language instead.
    text_keys: KEY[:KIND[:LANGUAGE]] of each key of the .json with texts; by default the .txt is
        the text, of kind "caption".
    split: the split of all samples.
    id_key: the key of the .json that names a sample, by default shard and stem.
    """

    shards: tuple[str, ...]
    language: str = ''
    language_key: str = ''
    text_keys: tuple[str, ...] = ()
    split: str = 'train'
    id_key: str = ''

    def splits(self) -> Mapping[str, Sequence[str]]:
        parts = [file for shard in self.shards for file in tables.find_files(shard, 'tar shard')]
        if not parts:
            raise UserError('Give --shards, the tar files or a pattern of them.')
        return {self.split: parts}

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        texts = self._texts()
        shard = Path(part).name
        for stem, files in _read_samples(part):
            yield self._example(f'{shard}/{stem}', files, texts)

    def _texts(self) -> list[TextColumn]:
        words = self.text_keys or ('txt',)
        language = f'@{self.language_key}' if self.language_key else self.language
        return columns.parse_text_columns(words, [], 'caption', language)

    def _example(self, name: str, files: list[File], texts: Sequence[TextColumn]) -> Example:
        content = dict(files)
        image = next((content[ending] for ending in content if ending in ENDINGS), b'')
        more, bad = _parse_object(content.get('json', b'{}'))
        if not self.text_keys:
            more['txt'] = (
                content['txt'].decode(errors='surrogateescape') if 'txt' in content else None
            )
        bad = bad or ('' if image else 'no picture in the sample')
        bad = bad or ('' if len(content) == len(files) else 'two files of one kind in the sample')
        given_id = more.get(self.id_key) if self.id_key else None
        return Example(
            id=name if given_id is None else str(given_id),
            texts=[] if bad else [text for column in texts for text in column.texts(more)],
            image=image,
            where=name,
            bad=bad,
        )


def _read_samples(shard: str) -> Iterator[tuple[str, list[File]]]:
    """(stem, its files) of the samples of a shard; files without an ending are none of any."""
    matches = ((STEM.fullmatch(name), content) for name, content in archives.read_members(shard))
    files = ((match[1], (match[2].lower(), content)) for match, content in matches if match)
    for stem, group in itertools.groupby(files, lambda file: file[0]):
        yield stem, [file for _, file in group]


def _parse_object(content: bytes) -> tuple[Row, str]:
    """(the object, what is wrong) of a JSON file."""
    try:
        value = json.loads(content.decode(errors='surrogateescape'))
    except (ValueError, RecursionError):
        return {}, 'its .json is broken'
    return (value, '') if isinstance(value, dict) else ({}, 'its .json is no object')
