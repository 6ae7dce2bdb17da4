"""The data that evaluators read, and the protocols of the models that embed it."""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from mural_jax.similarity.base import Similarity
from mural_jax.similarity.measures import COSINE
from mural_jax.types import Array, Batch, Tree, UserError

BATCH_SIZE = 64  # examples in a batch with hidden parts (ours)


class SplitExamples(NamedTuple):
    """The N examples of a split, with their texts of one kind.

    ids: the id of each example; examples that share an id show the same image.
    texts: for each example, {language: all its texts of the kind}.
    label_N: int, the class of each example, -1 where it has none.
    score_N: float32, the rating of each example, NaN where it has none.
    pngs: the encoded images, empty if they were not requested.
    decode: (start, stop) -> the model's input for these images, see `ModelEmbedder.embed_decoded`.
    """

    ids: list[str]
    texts: list[dict[str, list[str]]]
    label_N: np.ndarray
    score_N: np.ndarray
    pngs: list[bytes]
    decode: Callable[[int, int], Any]

    @property
    def languages(self) -> list[str]:
        """The languages in which at least one example has a text, sorted."""
        return sorted({language for texts in self.texts for language in texts})

    @property
    def first_texts(self) -> list[dict[str, str]]:
        """For each example, {language: its first text in that language}."""
        return [
            {language: texts[0] for language, texts in by_language.items()}
            for by_language in self.texts
        ]


class Embedder(Protocol):
    """Embeds images and texts in a space, with the same result on every process.

    An embedding is what the similarity of the space compares: float32 unit vectors [N, D] in a
    dense space, another tree of [N, ...] in others. `embed.ModelEmbedder` embeds with the model of
    a run, `external.libraries.ExternalModel` with the model of another library.
    """

    def embed_images(self, space: str, examples: SplitExamples) -> Tree:
        """Returns the embeddings of the images of N examples."""
        ...

    def embed_texts(self, space: str, texts: list[str]) -> Tree:
        """Returns the embeddings of N texts."""
        ...


class JointEmbedder(Embedder, Protocol):
    """An embedder whose model can also encode a text and an image together in one pass."""

    def embed_decoded(self, space: str, visual: Any) -> Tree:
        """Returns the embeddings of N images that are already model input."""
        ...

    def match_scores(self, texts: list[str], visual: Any, pair_P2: np.ndarray) -> np.ndarray:
        """Returns float32 [P], the matching score of each pair (number of text, of image)."""
        ...

    def hidden_counts(self, batch: Batch) -> dict[str, np.ndarray]:
        """Returns {metric: float32 [2, B]}, see `ModelEmbedder.hidden_counts`."""
        ...


class SplitName(Protocol):
    """Anything that names a split of a data set, such as an evaluator."""

    @property
    def dataset(self) -> str: ...

    @property
    def split(self) -> str: ...


@dataclasses.dataclass(frozen=True)
class SplitData:
    """A trained model, and the access to data as the model's run read it.

    embedder: an `Embedder`, a `JointEmbedder` for the model of a run.
    image_size: side of the images that the model takes, in pixels.
    resize: side to which images are resized before they are cropped, in pixels.
    tokenizer: the run's tokenizer, which streams with hidden parts need.
    open_run: workdir -> the same access for another run.
    streams: the run's streams by name; evaluators use their settings, not their data.
    regions: how an image is cut into regions; None for a model that takes whole images.
    tags: the kind of text that accompanies an image as tags, '' for none.
    similarities: how the spaces of the model compare their sides, by name.
    """

    embedder: Any
    data_dir: Path
    image_size: int
    resize: int
    tokenizer: Any
    open_run: Callable[[str], 'SplitData']
    streams: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    regions: Any = None
    tags: str = ''
    similarities: Mapping[str, Similarity] = dataclasses.field(default_factory=dict)

    def similarity(self, space: str) -> Similarity:
        """Returns how a space compares its sides; models of other libraries compare by cosine."""
        return self.similarities.get(space, COSINE)

    def require_dense(self, space: str) -> None:
        """Raises UserError if the examples of a space are not one vector each."""
        if self.similarity(space).form != 'dense':
            raise UserError(
                f'This score needs one vector for each example, and the space {space!r} has '
                f'{self.similarity(space).form}. Name another space of the evaluator, or score '
                'retrieval, which compares examples of every form.'
            )

    def read_examples(self, dataset: str, split: str, text: str, *, images: bool) -> SplitExamples:
        """Returns the good examples of a split, with their images if `images` is true.

        `text` is the kind of text to read. Imports TensorFlow. Raises UserError if the data set or
        the split does not exist, is empty, or lacks images.
        """
        # Only here: it imports TensorFlow, which takes seconds.
        from mural_jax.data.sets.records import Records

        records = Records(dataset, split, self.data_dir)
        if images and not records.has_image:
            raise UserError(f'{dataset}:{split} has no images. Name a data set captions/NAME.')
        # Before reading: features of another width would fail in the middle.
        if images and self.regions and self.regions.by == 'features':
            records.check_features(self.regions.size)
        examples = list(records.examples(image=images))
        if not examples:
            raise UserError(f'{dataset}:{split} is empty: there is nothing to score.')
        # Examples without a text of the kind stay: other languages may have one.
        texts = [
            {language: kinds[text] for language, kinds in example['texts'].items() if text in kinds}
            for example in examples
        ]
        return SplitExamples(
            ids=[example['id'] for example in examples],
            texts=texts,
            label_N=np.array([example.get('label', -1) for example in examples]),
            score_N=np.array([example['score'] for example in examples], np.float32),
            pngs=[example['image'] for example in examples] if images else [],
            decode=functools.partial(self._decode, examples),
        )

    def _decode(self, examples: Sequence[Mapping[str, Any]], start: int, stop: int) -> Any:
        """Returns central crops of images, or their regions, with tags if the model takes tags."""
        import tensorflow as tf

        from mural_jax.data.fields import crops, images

        examples = examples[start:stop]
        # A TensorFlow graph decodes several images in parallel; eager code would not.
        pngs = tf.constant([example['image'] for example in examples])
        image_NHWC = _compile_decoder(images.decode_images)(pngs, self.resize)
        image_NHWC = images.crop_middle(image_NHWC, self.image_size)
        if self.regions is None:
            return image_NHWC.numpy()
        parsed = {
            name: tf.ragged.constant([example[name] for example in examples], tf.float32)
            for name in ('boxes', 'features')
        }
        region_NRF = crops.cut_regions(self.regions, image_NHWC, parsed).numpy()
        if not self.tags:
            return region_NRF
        # Tags come with the image, so they do not depend on the scored language.
        tags = [_first_text(example['texts'], self.tags) for example in examples]
        return self.embedder.tokenize(tags), region_NRF

    def batches(self, stream: str, evaluator: SplitName) -> Iterator[tuple[Batch, Array]]:
        """Yields (batch, bool [B]): each example of the evaluator's split exactly once.

        The last batch is filled up with examples that the mask excludes. The settings of `stream`
        say how much of an example is hidden; what is hidden depends on the example alone.
        """
        from mural_jax.data.fitted.catalog import load_fitted
        from mural_jax.data.reading.stream import open_stream

        spec = self.streams[stream]
        source = dataclasses.replace(
            next(iter(spec.sources.values())), dataset=evaluator.dataset, split=evaluator.split
        )
        # Artefacts must be those of the training data, not fitted to the evaluated split.
        fitted = load_fitted(spec, self.data_dir)
        spec = dataclasses.replace(spec, sources={'only': source}, batch_size=BATCH_SIZE)
        reader = open_stream(spec, self.data_dir, self.tokenizer, seed=0, fitted=fitted)
        # Batches repeat the split without end; one pass is enough.
        size = int(reader.pool.sizes.sum())
        for number, batch in enumerate(reader.batches(0, -(-size // BATCH_SIZE))):
            yield batch, np.arange(number * BATCH_SIZE, (number + 1) * BATCH_SIZE) < size


@functools.cache
def _compile_decoder(decode: Callable) -> Callable:
    import tensorflow as tf

    return tf.function(decode, autograph=False, reduce_retracing=True)


def _first_text(texts: Mapping[str, Mapping[str, list[str]]], kind: str) -> str:
    """Returns the first text of a kind in any language, '' if there is none."""
    return next((kinds[kind][0] for kinds in texts.values() if kind in kinds), '')
