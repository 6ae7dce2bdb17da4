"""Spaces: where encodings of different towers are compared."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from flax import nnx

from mural_jax.config.build import build, check_known, nearest
from mural_jax.models.catalog import HEADS
from mural_jax.similarity.base import Similarity
from mural_jax.similarity.catalog import SIMILARITIES
from mural_jax.types import Array, Encoding, Tree, UserError

DEFAULT_HEAD = {'kind': 'linear'}


@dataclasses.dataclass(frozen=True)
class Space:
    """Settings of a space, as a config and an exported model describe it.

    sides: Encoders whose encodings meet here, left before right; one, where both sides of a pair
    come from the same encoder (two texts).
    embedding: Width of a vector in the space.
    heads: Head of each side, a linear one without bias for a side that is not named. The name of
    another side instead of a head shares that side's head.
    similarity: How the sides are compared.
    temperature: First value of the learned temperature, None for a space without one.
    bias: First value of the learned bias of the scores, None for a space without one.

    Raises UserError where a head belongs to no side, or a first value is out of range.
    """

    sides: tuple[str, ...]
    embedding: int
    heads: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    similarity: Mapping[str, Any] = dataclasses.field(default_factory=lambda: {'kind': 'cosine'})
    temperature: float | None = None
    bias: float | None = None

    def __post_init__(self) -> None:
        if not 1 <= len(self.sides) <= 2 or len(set(self.sides)) != len(self.sides):
            raise UserError(f'sides={self.sides} must be one encoder, or two different ones.')
        for side, head in self.heads.items():
            for name in (side, head) if isinstance(head, str) else (side,):
                if name not in self.sides:
                    raise UserError(f'heads names the side {name!r}.{nearest(name, self.sides)}')
        if self.temperature is not None and self.temperature <= 0:
            raise UserError(f'temperature={self.temperature} must be more than 0.')

    def build_similarity(self, where: str = 'similarity') -> Similarity:
        """The similarity of the space. Raises UserError where its node does not fit."""
        return build(SIMILARITIES, self.similarity, where)

    @property
    def scalars(self) -> tuple[str, ...]:
        """Names of the learned scalars."""
        return tuple(name for name in ('temperature', 'bias') if getattr(self, name) is not None)

    def only(self, sides: tuple[str, ...]) -> 'Space':
        """The same space for some of its sides."""
        heads = {}
        for side in sides:
            head = self.heads.get(side, DEFAULT_HEAD)
            # A shared head goes along with whoever shares it.
            heads[side] = self.heads.get(head, DEFAULT_HEAD) if isinstance(head, str) else head
        return dataclasses.replace(self, sides=sides, heads=heads)


Spaces = Mapping[str, Space]


class SpaceModel(nnx.Module):
    """Parameters of a space: a head for each side, a temperature, a bias.

    MURAL's tasks have a space each (Jain et al. 2021, arXiv:2109.05125): they differ in batch and
    margin, so each learns heads and a temperature of its own.
    """

    def __init__(self, space: Space, where: str, widths: Mapping[str, int], rngs: nnx.Rngs):
        """`widths` by encoder. Raises UserError where the space does not fit the encoders."""
        heads: dict[str, Any] = {}
        for side in space.sides:
            check_known(side, widths, f'{where}.sides')
            node = space.heads.get(side, DEFAULT_HEAD)
            if not isinstance(node, str):
                given = {'width': widths[side], 'embedding': space.embedding, 'rngs': rngs}
                heads[side] = build(HEADS, node, f'{where}.heads.{side}', **given)
        # Shared heads come last, when the heads that they share are built.
        for side, node in space.heads.items():
            if isinstance(node, str):
                if node not in heads or widths[side] != widths[node]:
                    raise UserError(
                        f'config.{where}.heads.{side}={node!r} cannot share that head: it must be '
                        'a head of its own, of an encoder of the same width.'
                    )
                heads[side] = heads[node]
        self.similarity = space.build_similarity(f'{where}.similarity')
        self.heads = nnx.Dict(heads)
        if space.temperature is not None:
            self.log_temperature = nnx.Param(jnp.log(jnp.float32(space.temperature)))
        if space.bias is not None:
            self.bias = nnx.Param(jnp.float32(space.bias))

    def represent(self, side: str, encoding: Encoding) -> Tree:
        """What the similarity compares of encoded examples, a tree of [B, ...]."""
        return self.similarity.represent(encoding, self.heads[side])

    def scalars(self) -> dict[str, Array]:
        """`temperature`, a positive scalar, and `bias`, where the space has them."""
        scalars = {}
        if hasattr(self, 'log_temperature'):
            # Its logarithm is learned, so that a step never makes a temperature negative.
            scalars['temperature'] = jnp.exp(self.log_temperature[...])
        if hasattr(self, 'bias'):
            scalars['bias'] = self.bias[...]
        return scalars
