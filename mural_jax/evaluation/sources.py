"""What evaluators ask for: the examples of a split, and a model that embeds them."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mural_jax.evaluation.embed import Embedder
from mural_jax.types import Array, Batch

BATCH = 64  # examples of a batch with hidden parts


class Items(NamedTuple):
    """The examples of a split: names by language, '' where there is none, and pictures."""

    ids: list[str]
    names: list[dict[str, str]]
    # What the model takes of pictures, an array or tags and regions; no rows where not asked for.
    visual: Any
    png: list[bytes]


class Split(Protocol):
    """Whose examples an evaluator scores."""

    @property
    def dataset(self) -> str: ...

    @property
    def split(self) -> str: ...


class Pictured(Split, Protocol):
    """An evaluator that takes one text of an example, those of the kind `text`."""

    @property
    def text(self) -> str: ...

    @property
    def has_image(self) -> bool: ...


@dataclasses.dataclass(frozen=True)
class Sources:
    """A trained model, and the data as its run read it.

    image_size, resize: pixels. regions: how a picture becomes regions, None for a model that takes
    pictures. tags: the kind of text that is a part of a picture, '' for none. streams: those of
    the run, by name; their settings are kept, their data is not.
    """

    embedder: Embedder
    data_dir: Path
    image_size: int
    resize: int
    tokenizer: Any
    open: Callable[[str], 'Sources']
    streams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    regions: Any = None
    tags: str = ''

    def items(self, evaluator: Pictured) -> Items:
        """All examples of the evaluator's split, the middle of each picture. Imports TensorFlow."""
        from mural_jax.data.records import Records

        records = Records(evaluator.dataset, evaluator.split, self.data_dir)
        examples = list(records.examples(image=evaluator.has_image))
        names = [
            {language: texts[evaluator.text][0] for language, texts in example['texts'].items()
             if evaluator.text in texts}
            for example in examples
        ]  # fmt: skip
        pngs = [example['image'] for example in examples] if evaluator.has_image else []
        visual = self._visual(examples) if pngs else np.zeros(0)
        return Items([example['id'] for example in examples], names, visual, pngs)

    def _visual(self, examples: list[dict[str, Any]]) -> Any:
        import tensorflow as tf

        from mural_jax.data import images, regions

        # As a graph, several pictures are decoded at a time.
        pngs = tf.constant([example['image'] for example in examples])
        image_NHWC = tf.function(images.decode)(pngs, self.resize)
        image_NHWC = images.crop_middle(image_NHWC, self.image_size)
        if self.regions is None:
            return image_NHWC.numpy()
        parsed = {
            name: tf.ragged.constant([example[name] for example in examples], tf.float32)
            for name in ('boxes', 'features')
        }
        region_NRF = regions.regions(self.regions, image_NHWC, parsed).numpy()
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


def _first(texts: Mapping[str, Mapping[str, list[str]]], kind: str) -> str:
    """The first text of a kind, in whatever language; '' where there is none."""
    return next((kinds[kind][0] for kinds in texts.values() if kind in kinds), '')
