"""The model: towers, and for each task its heads, its temperature and its bias."""

import jax.numpy as jnp
from flax import nnx

from mural_jax.models.layers import unit_norm
from mural_jax.types import Array, Encoding


class DualEncoder(nnx.Module):
    """An image tower and one text tower for all languages and both sides of a translation.

    Each task projects onto the unit sphere with heads of its own, one for each tower it uses
    (MURAL, Jain et al. 2021, arXiv:2109.05125), and learns a temperature of its own, and a bias
    of the scores where its objective has one: the tasks differ in batch and in margin.
    """

    def __init__(
        self, *, towers: dict[str, nnx.Module], heads: dict[str, dict[str, nnx.Module]],
        temperature: dict[str, float], bias: dict[str, float],
    ):  # fmt: skip
        """`heads` by task and tower; `temperature` and `bias` are the first ones of the tasks."""
        self.towers = nnx.Dict(towers)
        self.heads = nnx.Dict({task: nnx.Dict(own) for task, own in heads.items()})
        self.log_temperature = nnx.Dict(
            {task: nnx.Param(jnp.log(jnp.float32(value))) for task, value in temperature.items()}
        )
        self.bias = nnx.Dict({task: nnx.Param(jnp.float32(value)) for task, value in bias.items()})

    def encode(self, tower: str, inputs: Array, key_B: Array | None = None) -> Encoding:
        """One tower over pictures (uint8 [B, H, W, 3]) or texts (int32 [B, L]).

        Keys, one for each example, mean training: dropout and batch statistics.
        """
        return self.towers[tower](inputs, key_B)

    def project(self, task: str, tower: str, encoding: Encoding) -> Encoding:
        """The encoding with `pooled` projected by the task's head, unit norm, float32 [B, D]."""
        pooled_BD = self.heads[task][tower](encoding.pooled_BD)
        return encoding._replace(pooled_BD=unit_norm(pooled_BD))

    def scalars(self, task: str) -> dict[str, Array]:
        """`temperature`, a positive scalar, and `bias` where the task has one."""
        scalars = {'temperature': jnp.exp(self.log_temperature[task][...])}
        return scalars | ({'bias': self.bias[task][...]} if task in self.bias else {})
