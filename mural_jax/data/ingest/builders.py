"""TFDS builders for the examples of readers: `captions/NAME` and `translations/NAME`."""

import dataclasses
import itertools
from typing import Any

import tensorflow_datasets as tfds

from mural_jax.data.sets import checks, schema
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sources import join
from mural_jax.data.sources.reader import Example, Reader


class _IngestedBuilder(tfds.core.GeneratorBasedBuilder):
    """Builds a data set from a reader, in this process or with Apache Beam."""

    VERSION = tfds.core.Version('1.0.0')
    MANUAL_DOWNLOAD_INSTRUCTIONS = None
    has_image = False

    def __init__(
        self,
        *,
        name: str,
        reader: Reader,
        vocabulary: tuple[list[str], list[str]],
        limits: RecordLimits,
        beam: bool,
        **kwargs: Any,
    ):
        """Builds the data set FAMILY/NAME.

        Args:
          name: Name of the data set without its family.
          reader: Source of the examples.
          vocabulary: (languages, kinds) of the texts to store.
          limits: Limits of a record.
          beam: Whether Apache Beam runs the reader.
          **kwargs: Arguments of the TFDS builder.
        """
        self._reader, self._limits, self._beam = reader, limits, beam
        self._vocabulary = vocabulary
        config = tfds.core.BuilderConfig(name=name, version=self.VERSION)
        super().__init__(config=config, file_format='array_record', **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        features = schema.make_features(*self._vocabulary, has_image=self.has_image)
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            description=f'Ingested by mural_jax: {type(self._reader).__name__}.',
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        return {split: self._generate_examples(split) for split in self._reader.splits()}

    def _generate_examples(self, split: str) -> Any:
        make = _RecordMaker(tuple(self._vocabulary[0]), self._limits, self.has_image)
        # TFDS takes an iterator, or a Beam collection.
        if not self._beam:
            return itertools.chain.from_iterable(map(make, join.read_split(self._reader, split)))
        # This module reports a missing Beam with a hint, so it comes before Beam's own import.
        from mural_jax.data.sources import beam

        examples = beam.read_split(self._reader, split)
        import apache_beam

        return examples | apache_beam.FlatMap(make)


class CaptionsBuilder(_IngestedBuilder):
    """Builds a data set of images with texts."""

    name = 'captions'  # The folder of the data sets; without it TFDS would use the class name.
    has_image = True


class TranslationsBuilder(_IngestedBuilder):
    """Builds a data set of rows whose texts mean the same."""

    name = 'translations'


class _RecordMaker:
    """Turns an example into [(key, record as TFDS stores it)], or [] if it is left out.

    An example is left out if it has texts, but none in the wanted languages. This is a class, not
    a closure, so that Beam can send it to its workers.
    """

    def __init__(self, languages: tuple[str, ...], limits: RecordLimits, has_image: bool):
        self._languages = frozenset(languages)
        self._limits, self._has_image = limits, has_image

    def __call__(self, example: Example) -> list[tuple[str, dict[str, Any]]]:
        wanted = [text for text in example.texts if text[0] in self._languages]
        if example.texts and not wanted and not example.bad:
            return []
        example = dataclasses.replace(example, texts=wanted)
        record = checks.make_record(example, self._limits, has_image=self._has_image)
        # TFDS wants unique keys. Ids may repeat, but each example has a place of its own.
        return [(f'{record["where"]}\t{record["id"]}', record)]
