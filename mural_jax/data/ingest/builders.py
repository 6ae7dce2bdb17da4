"""The TFDS builders of what readers give: `captions/NAME` and `translations/NAME`."""

import dataclasses
import itertools
from typing import Any

import tensorflow_datasets as tfds

from mural_jax.data.sets import checks, schema
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sources import join
from mural_jax.data.sources.reader import Example, Reader


class _IngestedBuilder(tfds.core.GeneratorBasedBuilder):
    """A data set that a reader gives. With `beam`, by Apache Beam."""

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
        """`vocabulary` is (languages, kinds), `name` what stands after the slash."""
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
        prepare = _FieldMaker(tuple(self._vocabulary[0]), self._limits, self.has_image)
        if not self._beam:
            return itertools.chain.from_iterable(map(prepare, join.read_split(self._reader, split)))
        from mural_jax.data.sources import beam

        examples = beam.read_split(
            self._reader, split
        )  # Says what to install where Beam is missing.
        import apache_beam

        return examples | apache_beam.FlatMap(prepare)


class CaptionsBuilder(_IngestedBuilder):
    """Pictures with texts."""

    has_image = True


class TranslationsBuilder(_IngestedBuilder):
    """Rows of texts that mean the same."""


class _FieldMaker:
    """Example -> [(key, what TFDS writes of it)]. A class, so that Beam's workers can load it.

    What has texts, but in no language that is taken, is left out: it is not bad.
    """

    def __init__(self, languages: tuple[str, ...], limits: RecordLimits, has_image: bool):
        self._languages = frozenset(languages)
        self._limits, self._has_image = limits, has_image

    def __call__(self, example: Example) -> list[tuple[str, dict[str, Any]]]:
        taken = [text for text in example.texts if text[0] in self._languages]
        if example.texts and not taken and not example.bad:
            return []
        example = dataclasses.replace(example, texts=taken)
        fields = checks.make_fields(example, self._limits, has_image=self._has_image)
        # Where it stood names it, even where ids repeat.
        return [(f'{fields["where"]}\t{fields["id"]}', fields)]
