"""What tasks over small groups of a batch share: joint passes of every text with every image."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from mural_jax.config.build import check_known
from mural_jax.tasks.base import Encode, Pass, Setup, check_views, inputs_of
from mural_jax.types import Array, Batch, Encoding, UserError


@dataclasses.dataclass(frozen=True)
class Grouped:
    """A task whose examples meet only the others of their group: examples that follow each other.

    stream: One of whole pairs.
    encode: ((image, 'image'), (text, 'text')), whose scores in `space` choose or are trained.
    space: Where they are compared; a contrast task trains it.
    among: Examples of a group, at least 2. It divides the batch, and each of its parts where a
    step passes it in microbatches; the groups of parts are other groups than those of the whole.
    weight: Factor of its loss in the sum.
    Raises UserError for other views or groups.
    """

    stream: str
    encode: Encode
    space: str = 'image_text'
    among: int = 16
    weight: float = 1.0

    def __post_init__(self) -> None:
        if [encoder for _, encoder in self.encode[:2]] != ['image', 'text']:
            raise UserError(
                f"encode={self.encode} must be ((image, 'image'), (text, 'text'), ...)."
            )
        # A group of one has no other example to compare with.
        if self.among < 2:
            raise UserError(f'among={self.among} must be at least 2.')

    def group_scores(self, model: Any, encodings: Sequence[Encoding]) -> Array:
        """Scores of the texts (rows) of each group with its images, float32 [N, G, G]."""
        image, text = (
            jax.tree.map(self.to_groups, model.represent(self.space, encoder, encoding))
            for (_, encoder), encoding in zip(self.encode[:2], encodings)
        )
        # Images are the left side of the space, texts are the rows here.
        return jax.vmap(model.similarity(self.space).score)(image, text).swapaxes(1, 2)

    def to_groups(self, x: Array) -> Array:
        """[B, ...] -> [N, G, ...]."""
        return x.reshape(-1, self.among, *x.shape[1:])

    def pair_inputs(self, batch: Batch) -> tuple[Array, Any]:
        """(texts, images) of a batch, as the encoders take them."""
        (image, _), (text, _) = self.encode[:2]
        return inputs_of(batch, text), inputs_of(batch, image)

    def loss(self, given: Pass, outputs: Any) -> tuple[Array, dict[str, Array]]:
        """See `Task`."""
        raise NotImplementedError

    def trained_spaces(self) -> dict[str, tuple[str, ...]]:
        """See `Task`."""
        return {}

    def check(self, setup: Setup, where: str) -> None:
        """See `Task`."""
        check_views(self, setup, where)  # type: ignore[arg-type]
        if 'joint' not in setup.encoders:
            raise UserError(
                f"config.{where} passes pairs jointly: it needs model.kind='one_stream'."
            )
        check_known(self.space, setup.spaces, f'{where}.space')
        size = setup.streams[self.stream].batch_size
        if size % (self.among * setup.microbatches):
            raise UserError(
                f'config.{where}.among={self.among} must divide the batch of {self.stream}, '
                f'{size} in {setup.microbatches} parts.'
            )

    def check_classes(self, counts: Mapping[str, int], setup: Setup, where: str) -> None:
        """See `Task`. This task predicts no classes."""

    def num_negatives(self, batch_size: int) -> int:
        """See `Task`."""
        return 0
