"""What evaluators ask for: the examples of a split, and a model that embeds them."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mural_jax.types import Array, Batch, UserError

BATCH = 64  # examples of a batch with hidden parts


class Items(NamedTuple):
    """The N examples of a split, with their texts of one kind.

    texts: of each, by language, all of the kind. label_N: a class number or -1. score_N: a rating
    or NaN. png: the encoded pictures, none where they were not asked for. decode: (start, stop) ->
    what the model takes of these pictures.
    """

    ids: list[str]
    texts: list[dict[str, list[str]]]
    label_N: np.ndarray
    score_N: np.ndarray
    png: list[bytes]
    decode: Callable[[int, int], Any]

    @property
    def languages(self) -> list[str]:
        """Those that have a text, sorted."""
        return sorted({language for texts in self.texts for language in texts})

    @property
    def names(self) -> list[dict[str, str]]:
        """The first text of each in each language."""
        return [{language: texts[0] for language, texts in named.items()} for named in self.texts]


class Embedder(Protocol):
    """Pictures and texts -> float32 unit vectors in the space of a task, on every host alike.

    `embed.Embedder` of a run; other libraries' models behind the same two methods.
    """

    def images(self, task: str, items: Items) -> np.ndarray: ...

    def texts(self, task: str, texts: list[str]) -> np.ndarray: ...


class Split(Protocol):
    """Whose examples an evaluator scores."""

    @property
    def dataset(self) -> str: ...

    @property
    def split(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class Sources:
    """A trained model, and the data as its run read it.

    image_size, resize: pixels. regions: how a picture becomes regions, None for a model that takes
    pictures. tags: the kind of text that is a part of a picture, '' for none. streams: those of
    the run, by name; their settings are kept, their data is not.
    """

    embedder: Any
    data_dir: Path
    image_size: int
    resize: int
    tokenizer: Any
    open: Callable[[str], 'Sources']
    streams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    regions: Any = None
    tags: str = ''

    def items(self, dataset: str, split: str, text: str, *, images: bool) -> Items:
        """The good examples of a split, with `images` their pictures too. Imports TensorFlow.

        Raises UserError where there is no such data set or split, or it is empty.
        """
        from mural_jax.data.sets.records import Records

        records = Records(dataset, split, self.data_dir)
        if images and not records.has_image:
            raise UserError(f'{dataset}:{split} has no pictures. Name a data set captions/NAME.')
        if images and self.regions and self.regions.by == 'features':
            records.check_features(self.regions.size)
        examples = list(records.examples(image=images))
        if not examples:
            raise UserError(f'{dataset}:{split} is empty: nothing can be scored.')
        texts = [
            {language: kinds[text] for language, kinds in example['texts'].items() if text in kinds}
            for example in examples
        ]
        return Items(
            ids=[example['id'] for example in examples],
            texts=texts,
            label_N=np.array([example.get('label', -1) for example in examples]),
            score_N=np.array([example['score'] for example in examples], np.float32),
            png=[example['image'] for example in examples] if images else [],
            decode=functools.partial(self._visual, examples),
        )

    def _visual(self, examples: list[dict[str, Any]], start: int, stop: int) -> Any:
        """The middle of each picture, or its regions, with its tags where the model takes them."""
        import tensorflow as tf

        from mural_jax.data.fields import crops, images

        examples = examples[start:stop]
        # As a graph, several pictures are decoded at a time.
        pngs = tf.constant([example['image'] for example in examples])
        image_NHWC = _decoder(images.decode)(pngs, self.resize)
        image_NHWC = images.crop_middle(image_NHWC, self.image_size)
        if self.regions is None:
            return image_NHWC.numpy()
        parsed = {
            name: tf.ragged.constant([example[name] for example in examples], tf.float32)
            for name in ('boxes', 'features')
        }
        region_NRF = crops.regions(self.regions, image_NHWC, parsed).numpy()
        if not self.tags:
            return region_NRF
        named = [_first(example['texts'], self.tags) for example in examples]
        return self.embedder.tokenize(named), region_NRF

    def batches(self, stream: str, evaluator: Split) -> Iterator[tuple[Batch, Array]]:
        """(batch, which of its examples count): each example of a split once, bool [B].

        The stream's own settings say what is hidden; what it is depends on the example alone.
        """
        spec = self.streams[stream]
        source = dataclasses.replace(
            next(iter(spec.sources.values())), dataset=evaluator.dataset, split=evaluator.split
        )
        codebook = spec.codebook(self.data_dir)
        spec = dataclasses.replace(spec, sources={'only': source}, batch_size=BATCH)
        opened = spec.open(self.data_dir, self.tokenizer, seed=0, codebook=codebook)
        size = int(opened.pool.sizes.sum())
        for number, batch in enumerate(opened.batches(0, -(-size // BATCH))):
            yield batch, np.arange(number * BATCH, (number + 1) * BATCH) < size


@functools.cache
def _decoder(decode: Callable) -> Callable:
    import tensorflow as tf

    return tf.function(decode, autograph=False, reduce_retracing=True)


def _first(texts: Mapping[str, Mapping[str, list[str]]], kind: str) -> str:
    """The first text of a kind, in whatever language; '' where there is none."""
    return next((kinds[kind][0] for kinds in texts.values() if kind in kinds), '')
