"""Data sets that TFDS can read: by name, or in a folder that TFDS wrote.

The only reader that needs TensorFlow; it is imported when the first example is read.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mural_jax.data.sources import tfds_fields
from mural_jax.data.sources.columns import TextColumn, join_id, parse_class_number, resolve_word
from mural_jax.data.sources.reader import Example, Reader, Text
from mural_jax.data.sources.tfds_fields import FieldPath
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True, kw_only=True)
class TfdsSet(Reader):
    """Any data set of TensorFlow Datasets (www.tensorflow.org/datasets/catalog).

    A FIELD is a path in the features that the catalog shows, through sequences too, such as
    captions/text. coco_captions: --image=image --texts=captions/text --language=en
    --id=image/filename. opus/medical, ted_hrlr_translate/az_to_en, flores: nothing but the name.

    dataset: NAME, NAME/CONFIG or NAME/CONFIG:VERSION, or a folder with dataset_info.json.
    tfds_dir: where TFDS keeps its data sets; by default ~/tensorflow_datasets.
    download: prepare the data set in tfds_dir where it is not there yet.
    image: the FIELD with the picture; without one these are translations.
    texts: FIELD[:KIND[:LANGUAGE]] of each field with texts; a class is its name. @FIELD stands for
        the value of another field, @FIELD.N for its part N between hyphens. A field of TFDS's
        translations knows its languages itself; * for all of these.
    language: of the texts that name none.
    kind: of the texts that name none; by default caption beside pictures, else sentence.
    label: the FIELD with the class number.
    id: the FIELDs whose values name an example; by default split and number.
    """

    dataset: str
    tfds_dir: str = ''
    download: bool = False
    image: str = ''
    texts: tuple[str, ...] = ('*',)
    language: str = ''
    kind: str = ''
    label: str = ''
    id: tuple[str, ...] = ()

    @property
    def family(self) -> str:  # type: ignore[override]
        """Pictures with captions where there is a picture, otherwise translations."""
        return 'captions' if self.image else 'translations'

    def splits(self) -> Mapping[str, Sequence[str]]:
        splits = {
            name: shard_slices(info.shard_lengths)
            for name, info in self._builder().info.splits.items()
        }
        return {name: parts for name, parts in splits.items() if parts}

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        columns, image = self._columns(), self._keys(self.image) if self.image else ()
        label = self._keys(self.label) if self.label else ()
        names = {name: self._keys(name) for name in self.id}
        for number, record in self._records(split, part, pictures=True):
            row = {name: ''.join(self._words(record, keys)) for name, keys in names.items()}
            example = Example(
                id=join_id(row, self.id) if self.id else f'{split}:{number}',
                texts=[text for column in columns for text in self._texts(column, record)],
                label=parse_class_number(next(tfds_fields.iterate_leaves(record, label), None))
                if label
                else -1,
                where=f'{self.dataset}, {split}, example {number}',
            )
            yield self._with_picture(example, record, image) if image else example

    def read_texts(self, split: str, part: str) -> Iterator[Text]:
        columns = self._columns()
        for _, record in self._records(split, part, pictures=False):
            for column in columns:
                yield from self._texts(column, record)

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """As in Reader; where fields name all their languages, nothing is read."""
        found: set[str] = set()
        columns = self._columns()
        for column in columns:
            feature = tfds_fields.feature_at(self._builder().info.features, self._keys(column.name))
            languages = tfds_fields.fixed_languages(feature) if column.language == '*' else None
            if column.language != '*' and '@' not in (column.language[0], column.kind[0]):
                languages = [column.language]
            if languages is None:
                return super().vocabulary()
            found.update(languages)
        return sorted(set(self.languages) or found), sorted({column.kind for column in columns})

    def _builder(self) -> Any:
        return _load_builder(self.dataset, self.tfds_dir, self.download)

    def _keys(self, field: str) -> FieldPath:
        """The way to a field. Raises UserError where there is none."""
        features = self._builder().info.features
        keys = tfds_fields.find_path(features, field)
        if keys is None:
            raise UserError(
                f'{self.dataset} has no field {field}; it has {tfds_fields.list_fields(features)}.'
            )
        return keys

    def _columns(self) -> list[TextColumn]:
        """The text columns; those of translations have the language *."""
        features, columns = self._builder().info.features, []
        if self.texts == ('*',):
            columns = [
                TextColumn(name, self._kind(), '*')
                for name in tfds_fields.find_translations(features)
            ]
        else:
            columns = [TextColumn.of(words, self._kind(), self.language) for words in self.texts]
        if not columns:
            known = tfds_fields.list_fields(features)
            raise UserError(f'{self.dataset} has no translations for --texts *; it has {known}.')
        return [self._checked(column) for column in columns]

    def _kind(self) -> str:
        return self.kind or ('caption' if self.image else 'sentence')

    def _checked(self, column: TextColumn) -> TextColumn:
        for name in column.needs:
            self._keys(name)
        if tfds_fields.is_translation(
            tfds_fields.feature_at(self._builder().info.features, self._keys(column.name))
        ):
            return dataclasses.replace(column, language='*')
        if column.language in ('', '*'):
            raise UserError(f'In which language is {column.name}? Give --language, or FIELD::LANG.')
        return column

    def _texts(self, column: TextColumn, record: Any) -> Iterator[Text]:
        if column.language == '*':
            for language, text in tfds_fields.read_translation(
                tfds_fields.value_at(record, self._keys(column.name))
            ):
                yield language, column.kind, text
            return
        texts = self._words(record, self._keys(column.name))
        kinds = self._said(column.kind, record, len(texts))
        languages = self._said(column.language, record, len(texts))
        yield from zip(languages, kinds, texts)

    def _said(self, word: str, record: Any, count: int) -> list[str]:
        """What a word says of each of `count` texts: itself, or the values of the @FIELD."""
        if not word.startswith('@'):
            return [word] * count
        name = word[1:].partition('.')[0]
        values = self._words(record, self._keys(name))
        values = values * count if len(values) == 1 else values
        return [resolve_word(word, {name: value}) for value in values]

    def _words(self, record: Any, keys: FieldPath) -> list[str]:
        """The values of a field as text; a class by its name."""
        feature = tfds_fields.feature_at(self._builder().info.features, keys)
        return [
            tfds_fields.leaf_to_text(feature, leaf)
            for leaf in tfds_fields.iterate_leaves(record, keys)
        ]

    def _with_picture(self, example: Example, record: Any, keys: FieldPath) -> Example:
        content = next(tfds_fields.iterate_leaves(record, keys), None)
        if not isinstance(content, bytes):
            return dataclasses.replace(example, bad=f'{self.image} is no encoded picture')
        return dataclasses.replace(example, image=content)

    def _records(self, split: str, part: str, *, pictures: bool) -> Iterator[tuple[int, Any]]:
        """(number in the split, record) of a part; pictures stay encoded, if they are read."""
        import tensorflow as tf

        builder, wanted = self._builder(), f'{split}[{part}]'
        try:
            image = self._keys(self.image) if self.image else ()
            records = _read_records(builder, wanted, image, self._used(pictures=pictures))
            yield from enumerate(records, int(part.partition(':')[0]))
        except (tf.errors.OpError, OSError, RuntimeError) as error:
            raise UserError(
                f'Cannot read {wanted} of {self.dataset} ({error}). Is the data set whole?'
            ) from error

    def _used(self, *, pictures: bool) -> set[str]:
        """The outermost names of the fields in use; empty where that is the whole record."""
        names = [name for column in self._columns() for name in column.needs]
        names += [name for name in (*self.id, self.label, self.image) if name]
        if not pictures:
            names = [name for name in names if name != self.image]
        ways = [self._keys(name) for name in names]
        return {way[0] for way in ways} if all(ways) else set()


@functools.cache
def _load_builder(dataset: str, tfds_dir: str, download: bool) -> Any:
    """The prepared data set. Raises UserError where there is none, or it cannot be prepared."""
    from pathlib import Path

    import tensorflow_datasets as tfds

    if (Path(dataset).expanduser() / 'dataset_info.json').is_file():
        return tfds.builder_from_directory(Path(dataset).expanduser())
    try:
        builder = tfds.builder(dataset, data_dir=tfds_dir or None)
        if not builder.is_prepared() and download:
            builder.download_and_prepare()
    except Exception as error:  # Builders raise whatever their own code raises.
        reason = str(error).strip().partition('\n')[0]
        raise UserError(f'TFDS cannot give {dataset}: {type(error).__name__}, {reason}') from error
    if not builder.is_prepared():
        raise UserError(
            f'{dataset} is not prepared in {builder.data_dir}. Give --download, or --tfds_dir.'
        )
    return builder


def _read_records(builder: Any, split: str, image: FieldPath, used: set[str]) -> Iterator[Any]:
    """The records of a split, their pictures still encoded; of others than `used` not all."""
    import tensorflow_datasets as tfds

    skipped: Any = tfds.decode.SkipDecoding() if image else None
    for key in reversed(image):
        skipped = {key: skipped}
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        # Files with random access, which have no tf.data and no partial decoding.
        source = builder.as_data_source(split=split, decoders=skipped)
        return (source[number] for number in range(len(source)))
    decoders = skipped
    if used:
        skipped = skipped if image and image[0] in used else None
        decoders = tfds.decode.PartialDecoding(dict.fromkeys(used, True), decoders=skipped)
    return iter(tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders)))


def shard_slices(lengths: Sequence[int]) -> list[str]:
    """START:END of each file of a split that is not empty, as TFDS writes slices."""
    parts, start = [], 0
    for length in lengths:
        if length:
            parts.append(f'{start}:{start + length}')
        start += length
    return parts
