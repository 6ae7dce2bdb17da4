"""The dual encoder: towers that each take one side alone, and spaces where they meet."""

from collections.abc import Mapping
from typing import Annotated, Any

from flax import nnx

from mural_jax.config.build import build, list_arguments
from mural_jax.config.changes import MEANS
from mural_jax.models.catalog import TOWERS
from mural_jax.models.compute import choose_compute
from mural_jax.models.spaces import SpaceModel, Spaces
from mural_jax.similarity.base import Similarity
from mural_jax.types import Array, Encoding, Tree


class DualEncoder(nnx.Module):
    """An image tower, and one text tower for all languages and both sides of a translation.

    companions: Further models of the run, set where the model is built for training.
    """

    def __init__(self, *, towers: dict[str, nnx.Module], spaces: dict[str, SpaceModel]):
        self.towers = nnx.Dict(towers)
        self.spaces = nnx.Dict(spaces)
        self.companions: nnx.Dict = nnx.Dict({})

    @classmethod
    def from_config(
        cls,
        *,
        spaces: Spaces,
        rngs: nnx.Rngs,
        vocab_size: int,
        towers: dict[str, Any],
        dtype: str = 'float32',
        attention: Annotated[str, MEANS] = 'xla',
    ) -> 'DualEncoder':
        """The model of a config node.

        dtype: What towers compute in, 'float32' or 'bfloat16'.
        attention: 'xla', or 'cudnn', flash attention of an NVIDIA GPU, which takes bfloat16.
        """
        compute = choose_compute(dtype, attention)
        built = {}
        for name, node in towers.items():
            given: dict[str, Any] = {'rngs': rngs, 'compute': compute}
            tower = TOWERS.get(node.get('kind'))
            # Text towers alone take the size of the vocabulary, which no config knows beforehand.
            if tower and 'vocab_size' in list_arguments(tower):
                given['vocab_size'] = vocab_size
            built[name] = build(TOWERS, node, f'model.towers.{name}', **given)
        widths = {name: tower.width for name, tower in built.items()}
        return cls(towers=built, spaces=build_spaces(spaces, widths, rngs))

    @staticmethod
    def encoders(node: Mapping[str, Any]) -> tuple[str, ...]:
        """What a model of this config node encodes by: its towers."""
        return tuple(node['towers'])

    def encode(self, encoder: str, inputs: Array, key_B: Array | None = None) -> Encoding:
        """Encodes images (uint8 [B, H, W, 3]) or texts (int32 [B, L]) by one tower.

        key_B: A key for each example means training: dropout, and statistics of the batch.
        """
        return self.towers[encoder](inputs, key_B)

    def represent(self, space: str, side: str, encoding: Encoding) -> Tree:
        """What a space compares of encodings, a tree of [B, ...]: unit vectors for cosine."""
        return self.spaces[space].represent(side, encoding)

    def scalars(self, space: str) -> dict[str, Array]:
        """The learned scalars of a space: `temperature`, `bias`."""
        return self.spaces[space].scalars()

    def similarity(self, space: str) -> Similarity:
        """How a space compares its sides."""
        return self.spaces[space].similarity


def build_spaces(
    spaces: Spaces, widths: Mapping[str, int], rngs: nnx.Rngs
) -> dict[str, SpaceModel]:
    """Modules of the spaces, in the order of their names; `widths` by encoder."""
    # Sorted, so that the order of spaces in a config does not change the random first weights.
    return {
        name: SpaceModel(spaces[name], f'spaces.{name}', widths, rngs) for name in sorted(spaces)
    }
