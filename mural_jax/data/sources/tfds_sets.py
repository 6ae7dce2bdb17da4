"""Data sets that TFDS can read, by name or in a folder that TFDS wrote.

This is the only reader that needs TensorFlow, which is imported when a data set is opened.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
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
    captions/text. For coco_captions give --image=image --texts=captions/text --language=en
    --id=image/filename; opus/medical, ted_hrlr_translate/az_to_en and flores need no flags but
    their name.

    dataset: NAME, NAME/CONFIG or NAME/CONFIG:VERSION, or a folder with dataset_info.json.
    tfds_dir: Folder of TFDS's data sets; without the flag ~/tensorflow_datasets.
    download: Prepare the data set in --tfds_dir if it is not there yet.
    image: FIELD with the image; without it the data set becomes one of translations.
    texts: FIELD[:KIND[:LANGUAGE]] for each field with texts; a class stands for its name. @FIELD
        is the value of another field, @FIELD.N its part N between hyphens. Fields of TFDS's type
        Translation have languages of their own; * is all of these fields.
    language: Language of the fields for which --texts gives none.
    kind: Kind of the fields for which --texts gives none; without the flag caption for images,
        else sentence.
    label: FIELD with the class number.
    id: FIELDs whose values together are the id of an example; without the flag split and number
        are the id.
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
        """'captions' if the examples have an image, otherwise 'translations'."""
        return 'captions' if self.image else 'translations'

    def splits(self) -> Mapping[str, Sequence[str]]:
        splits = {
            name: list_shard_slices(info.shard_lengths)
            for name, info in self._builder().info.splits.items()
        }
        return {name: parts for name, parts in splits.items() if parts}

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        columns, image = self._columns(), self._path_of(self.image) if self.image else ()
        label = self._path_of(self.label) if self.label else ()
        id_paths = {name: self._path_of(name) for name in self.id}
        for number, record in self._records(split, part, with_image=True):
            row = {name: ''.join(self._values_of(record, path)) for name, path in id_paths.items()}
            example = Example(
                id=join_id(row, self.id) if self.id else f'{split}:{number}',
                texts=[text for column in columns for text in self._texts_of(column, record)],
                label=parse_class_number(next(tfds_fields.iterate_leaves(record, label), None))
                if label
                else -1,
                where=f'{self.dataset}, {split}, example {number}',
            )
            yield self._add_image(example, record, image) if image else example

    def read_texts(self, split: str, part: str) -> Iterator[Text]:
        columns = self._columns()
        for _, record in self._records(split, part, with_image=False):
            for column in columns:
                yield from self._texts_of(column, record)

    def vocabulary(self) -> tuple[list[str], list[str]]:
        """As in Reader; no record is read if the fields have fixed languages and kinds."""
        all_languages: set[str] = set()
        columns = self._columns()
        for column in columns:
            feature = tfds_fields.feature_at(
                self._builder().info.features, self._path_of(column.name)
            )
            languages = tfds_fields.fixed_languages(feature) if column.language == '*' else None
            if column.language != '*' and '@' not in (column.language[0], column.kind[0]):
                languages = [column.language]
            # Only the records tell the languages of this field.
            if languages is None:
                return super().vocabulary()
            all_languages.update(languages)
        return sorted(set(self.languages) or all_languages), sorted(
            {column.kind for column in columns}
        )

    def _builder(self) -> Any:
        return _load_builder(self.dataset, self.tfds_dir, self.download)

    def _path_of(self, field: str) -> FieldPath:
        """The path of a field. Raises UserError if there is no such field."""
        features = self._builder().info.features
        path = tfds_fields.find_path(features, field)
        if path is None:
            raise UserError(
                f'{self.dataset} has no field {field}; it has {tfds_fields.list_fields(features)}.'
            )
        return path

    def _columns(self) -> list[TextColumn]:
        """The fields with texts; the language of a translation is '*'."""
        features, columns = self._builder().info.features, []
        if self.texts == ('*',):
            columns = [
                TextColumn(name, self._default_kind(), '*')
                for name in tfds_fields.find_translations(features)
            ]
        else:
            columns = [
                TextColumn.parse(words, self._default_kind(), self.language) for words in self.texts
            ]
        if not columns:
            known = tfds_fields.list_fields(features)
            raise UserError(f'{self.dataset} has no translations for --texts *; it has {known}.')
        return [self._check_column(column) for column in columns]

    def _default_kind(self) -> str:
        return self.kind or ('caption' if self.image else 'sentence')

    def _check_column(self, column: TextColumn) -> TextColumn:
        for name in column.required_columns:
            self._path_of(name)
        if tfds_fields.is_translation(
            tfds_fields.feature_at(self._builder().info.features, self._path_of(column.name))
        ):
            return dataclasses.replace(column, language='*')
        if column.language in ('', '*'):
            raise UserError(
                f'The language of {column.name} is unknown. Give --language, or '
                '--texts FIELD::LANGUAGE.'
            )
        return column

    def _texts_of(self, column: TextColumn, record: Any) -> Iterator[Text]:
        if column.language == '*':
            for language, text in tfds_fields.read_translation(
                tfds_fields.value_at(record, self._path_of(column.name))
            ):
                yield language, column.kind, text
            return
        texts = self._values_of(record, self._path_of(column.name))
        kinds = self._resolve(column.kind, record, len(texts))
        languages = self._resolve(column.language, record, len(texts))
        yield from zip(languages, kinds, texts)

    def _resolve(self, word: str, record: Any, count: int) -> list[str]:
        """A kind or language for each of `count` texts: the word, or the values of its @FIELD."""
        if not word.startswith('@'):
            return [word] * count
        name = word[1:].partition('.')[0]
        values = self._values_of(record, self._path_of(name))
        # One value of the record holds for all of its texts.
        values = values * count if len(values) == 1 else values
        return [resolve_word(word, {name: value}) for value in values]

    def _values_of(self, record: Any, path: FieldPath) -> list[str]:
        """The single values of a field as texts."""
        feature = tfds_fields.feature_at(self._builder().info.features, path)
        return [
            tfds_fields.leaf_to_text(feature, leaf)
            for leaf in tfds_fields.iterate_leaves(record, path)
        ]

    def _add_image(self, example: Example, record: Any, path: FieldPath) -> Example:
        content = next(tfds_fields.iterate_leaves(record, path), None)
        if not isinstance(content, bytes):
            return dataclasses.replace(example, bad=f'{self.image} is not an encoded image')
        return dataclasses.replace(example, image=content)

    def _records(self, split: str, part: str, *, with_image: bool) -> Iterator[tuple[int, Any]]:
        """Yields (number in the split, record) of a part; images stay encoded.

        Args:
          with_image: Whether the image is needed.
        """
        import tensorflow as tf

        builder, wanted = self._builder(), f'{split}[{part}]'
        try:
            image = self._path_of(self.image) if self.image else ()
            records = _read_records(
                builder, wanted, image, self._used_fields(with_image=with_image)
            )
            yield from enumerate(records, int(part.partition(':')[0]))
        except (tf.errors.OpError, OSError, RuntimeError) as error:
            raise UserError(
                f'Cannot read {wanted} of {self.dataset} ({error}). Is the data set complete?'
            ) from error

    def _used_fields(self, *, with_image: bool) -> set[str]:
        """The outermost names of the needed fields; empty if the whole record is needed."""
        names = [name for column in self._columns() for name in column.required_columns]
        names += [name for name in (*self.id, self.label, self.image) if name]
        if not with_image:
            names = [name for name in names if name != self.image]
        paths = [self._path_of(name) for name in names]
        return {path[0] for path in paths} if all(paths) else set()


@functools.cache
def _load_builder(dataset: str, tfds_dir: str, download: bool) -> Any:
    """The builder of a prepared data set.

    Raises:
      UserError: The data set is unknown, not prepared, or cannot be prepared.
    """
    import tensorflow_datasets as tfds

    if (Path(dataset).expanduser() / 'dataset_info.json').is_file():
        return tfds.builder_from_directory(Path(dataset).expanduser())
    try:
        # The builder is cached because splits, vocabulary and every part ask for it.
        builder = tfds.builder(dataset, data_dir=tfds_dir or None)
        if not builder.is_prepared() and download:
            builder.download_and_prepare()
    except Exception as error:  # Builders raise whatever their own code raises.
        reason = str(error).strip().partition('\n')[0]
        raise UserError(f'TFDS cannot load {dataset}: {type(error).__name__}, {reason}') from error
    if not builder.is_prepared():
        raise UserError(
            f'{dataset} is not prepared in {builder.data_dir}. Give --download, or --tfds_dir.'
        )
    return builder


def _read_records(builder: Any, split: str, image: FieldPath, used: set[str]) -> Iterator[Any]:
    """Yields the records of a split with encoded images.

    Args:
      used: The outermost fields that a record must have; empty for all fields.
    """
    import tensorflow_datasets as tfds

    # {'image': {'inner': SkipDecoding()}}, along the path of the image.
    skipped: Any = tfds.decode.SkipDecoding() if image else None
    for key in reversed(image):
        skipped = {key: skipped}
    if builder.info.file_format == tfds.core.FileFormat.ARRAY_RECORD:
        # TFDS reads these files by index, without tf.data and without partial decoding.
        source = builder.as_data_source(split=split, decoders=skipped)
        return (source[number] for number in range(len(source)))
    decoders = skipped
    if used:
        skipped = skipped if image and image[0] in used else None
        decoders = tfds.decode.PartialDecoding(dict.fromkeys(used, True), decoders=skipped)
    return iter(tfds.as_numpy(builder.as_dataset(split=split, decoders=decoders)))


def list_shard_slices(lengths: Sequence[int]) -> list[str]:
    """START:END, TFDS's form of a slice, for each file of a split that is not empty.

    Args:
      lengths: Number of records of each file.
    """
    parts, start = [], 0
    for length in lengths:
        if length:
            parts.append(f'{start}:{start + length}')
        start += length
    return parts
