"""Tasks that pass pairs of other examples jointly: of every group of examples that follow."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from mural_jax.models.one_stream import OneStream
from mural_jax.tasks.base import Encode, inputs_of
from mural_jax.types import Array, Batch, Encoding, UserError


@dataclasses.dataclass(frozen=True)
class Grouped:
    """What these tasks share.

    stream: of whole pairs. encode: ((picture, 'image'), (text, 'text')), what is compared, as in
    the contrast task `space`, in whose space it is. among: examples of a group, at least 2; the
    others of its group are the others of an example. It divides the batch, and each part of it
    where a step passes it in parts: these have other groups than the whole batch. weight: of the
    loss.
    """

    stream: str
    encode: Encode
    space: str = 'image_text'
    among: int = 16
    weight: float = 1.0

    def __post_init__(self) -> None:
        if [tower for _, tower in self.encode[:2]] != ['image', 'text']:
            raise UserError(
                f"encode={self.encode} must be ((picture, 'image'), (text, 'text'), ...)."
            )
        if self.among < 2:
            raise UserError(f'among={self.among} must be at least 2.')

    def similarity(self, model: OneStream, encodings: list[Encoding]) -> Array:
        """Cosines of texts with the pictures of their group, float32 [N, G, G]."""
        image_NGD, text_NGD = (
            self.grouped(model.project(self.space, tower, encoding).pooled_BD)
            for (_, tower), encoding in zip(self.encode[:2], encodings)
        )
        return jnp.einsum('ngd,nhd->ngh', text_NGD, image_NGD)

    def grouped(self, x: Array) -> Array:
        """[B, ...] -> [N, G, ...]."""
        return x.reshape(-1, self.among, *x.shape[1:])

    def pair(self, batch: Batch) -> tuple[Any, Any]:
        """(texts, pictures) of a batch."""
        (picture, _), (text, _) = self.encode[:2]
        return inputs_of(batch, text), inputs_of(batch, picture)
