"""Contrast: two sides of an example are told apart from those of all others."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.objectives.softmax import Hard
from mural_jax.tasks.base import Encode, inputs_of, name_of
from mural_jax.types import Array, Batch, Encoding, Objective, UserError


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Two sides of an example are told apart from those of all others.

    stream: where its batches come from. encode: ((field, tower), (field, tower)), the query and
    the result; two more are hard negatives, a query and a result that are nearly right. weight:
    of its loss in the sum. temperature, bias: what the learned ones start from; a bias goes with
    an objective that has one.
    """

    stream: str
    encode: Encode
    objective: Objective
    weight: float = 1.0
    temperature: float = 0.07
    bias: float | None = None

    def __post_init__(self) -> None:
        towers = [tower for _, tower in self.encode]
        if len(towers) not in (2, 4) or towers[2:] not in ([], towers[:2]):
            raise UserError(
                f'encode={self.encode} must be a query and a result, or these and a hard negative '
                'of each, by the same towers: ((field, tower), ...).'
            )

    @property
    def towers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(tower for _, tower in self.encode))

    def outputs(
        self, name: str, model: DualEncoder, encodings: list[Encoding], batch: Batch,
        key_B: Array,
    ) -> dict[str, Array]:  # fmt: skip
        """The embeddings of the sides by field, float32 [B, D], unit norm."""
        return {
            name_of(field): model.project(name, tower, encoding).pooled_BD
            for (field, tower), encoding in zip(self.encode, encodings)
        }

    def loss(
        self, name: str, model: DualEncoder, outputs: dict[str, Array], batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        fields = [field for field, _ in self.encode]
        query_BD, result_BD, *hard = (outputs[name_of(field)] for field in fields)
        more = {}
        if hard:
            # A negative that came out as the example itself is none.
            other = [differ(batch, own, field) for own, field in zip(fields, fields[2:])]
            more['hard'] = Hard(*hard, *other)
        return self.objective(query_BD, result_BD, batch['ids'], **model.scalars(name), **more)


def differ(batch: Batch, one: Any, other: Any) -> Array:
    """Which examples have two sides that are not the same, bool [B]."""
    sides = zip(jax.tree.leaves(inputs_of(batch, one)), jax.tree.leaves(inputs_of(batch, other)))
    return jnp.any(jnp.stack([(a != b).reshape(len(a), -1).any(1) for a, b in sides]), axis=0)
