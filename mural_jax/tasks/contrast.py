"""Contrast: the two sides of an example are told apart from those of all other examples."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from mural_jax.config.build import check_known
from mural_jax.objectives.catalog import OBJECTIVES
from mural_jax.objectives.pairwise import HardNegatives, PairObjective
from mural_jax.tasks.base import Encode, Pass, Setup, check_views, inputs_of, view_name
from mural_jax.types import Array, Batch, Tree, UserError


@dataclasses.dataclass(frozen=True)
class Contrast:
    """Compares queries and results of a batch, all with all, in a space.

    stream: Where its batches come from.
    encode: ((field, encoder), (field, encoder)), the query and the result; two more views by the
    same encoders are hard negatives, a query and a result that are nearly right.
    space: Where they are compared; its sides are the two encoders.
    weight: Factor of its loss in the sum.
    Raises UserError for other views.
    """

    stream: str
    encode: Encode
    objective: PairObjective
    space: str
    weight: float = 1.0
    parts: ClassVar[Mapping[str, Any]] = {'objective': OBJECTIVES}

    def __post_init__(self) -> None:
        encoders = [encoder for _, encoder in self.encode]
        if len(encoders) not in (2, 4) or encoders[2:] not in ([], encoders[:2]):
            raise UserError(
                f'encode={self.encode} must be a query and a result, or these and a hard negative '
                'of each, by the same encoders: ((field, encoder), ...).'
            )

    def outputs(self, given: Pass) -> dict[str, Tree]:
        """Representations of the views, by name, trees of [B, ...]."""
        return {
            view_name(field): given.model.represent(self.space, encoder, encoding)
            for (field, encoder), encoding in zip(self.encode, given.encodings)
        }

    def loss(self, given: Pass, outputs: dict[str, Tree]) -> tuple[Array, dict[str, Array]]:
        """See `Task`."""
        fields = [field for field, _ in self.encode]
        query, result, *negatives = (outputs[view_name(field)] for field in fields)
        hard = None
        if negatives:
            # A negative that came out as the example itself would be a positive.
            real = [_differs(given.batch, own, other) for own, other in zip(fields, fields[2:])]
            hard = HardNegatives(*negatives, *real)
        return self.objective(
            given.model.similarity(self.space),
            query,
            result,
            given.batch['ids'],
            given.model.scalars(self.space),
            hard,
        )

    def trained_spaces(self) -> dict[str, tuple[str, ...]]:
        """See `Task`."""
        return {self.space: self.objective.scalars}

    def check(self, setup: Setup, where: str) -> None:
        """See `Task`."""
        check_views(self, setup, where)
        check_known(self.space, setup.spaces, f'{where}.space')
        space = setup.spaces[self.space]
        # Two texts share one encoder, so their space has one side.
        sides = tuple(dict.fromkeys(encoder for _, encoder in self.encode))
        if sides != space.sides:
            raise UserError(
                f'config.{where}.encode compares {" with ".join(sides)}, but the sides of '
                f'config.spaces.{self.space} are {", ".join(space.sides)}. Make them the same, in '
                'the same order.'
            )
        if len(self.encode) > 2 and not self.objective.takes_hard_negatives:
            raise UserError(
                f"config.{where} has hard negatives: they need an objective with by='gathered'."
            )
        for scalar in self.objective.scalars:
            if scalar not in space.scalars:
                raise UserError(
                    f'The objective of config.{where} learns a {scalar}: give its first value, '
                    f'config.spaces.{self.space}.{scalar}.'
                )

    def check_classes(self, counts: Mapping[str, int], setup: Setup, where: str) -> None:
        """See `Task`. This task predicts no classes."""

    def num_negatives(self, batch_size: int) -> int:
        """See `Task`. Pairs that share an id are ignored: then there are fewer."""
        return batch_size - 1


def _differs(batch: Batch, one: object, other: object) -> Array:
    """Which examples have different inputs in two views, bool [B]."""
    sides = zip(jax.tree.leaves(inputs_of(batch, one)), jax.tree.leaves(inputs_of(batch, other)))
    return jnp.any(jnp.stack([(a != b).reshape(len(a), -1).any(1) for a, b in sides]), axis=0)
