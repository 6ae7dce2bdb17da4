"""The model: towers, and for each task its heads and its temperature."""

import jax.numpy as jnp
from flax import nnx

from mural_jax.models.layers import unit_norm
from mural_jax.types import Array, Encoding


class DualEncoder(nnx.Module):
    """An image tower and one text tower for all languages and both sides of a translation.

    Each task projects onto the unit sphere with heads of its own, one for each tower it uses
    (MURAL, Jain et al. 2021, arXiv:2109.05125), and learns a temperature of its own: the tasks
    differ in batch and in margin. Heads start orthogonal: what the translations align in the text
    tower is then aligned in the space of the pictures too.
    """

    def __init__(
        self, *, rngs: nnx.Rngs, towers: dict[str, nnx.Module], widths: dict[str, int],
        heads: dict[str, tuple[str, ...]], embedding: int, temperature: dict[str, float],
    ):  # fmt: skip
        """`heads` are the towers of each task, `temperature` the first temperature of each."""
        self.towers = nnx.Dict(towers)
        self.heads = nnx.Dict(
            {
                task: nnx.Dict({tower: _head(widths[tower], embedding, rngs) for tower in names})
                for task, names in heads.items()
            }
        )
        self.log_temperature = nnx.Dict(
            {task: nnx.Param(jnp.log(jnp.float32(value))) for task, value in temperature.items()}
        )

    def encode(self, tower: str, inputs: Array, key: Array | None = None) -> Encoding:
        """One tower over pictures (uint8 [B, H, W, 3]) or texts (int32 [B, L])."""
        return self.towers[tower](inputs, key)

    def project(self, task: str, tower: str, encoding: Encoding) -> Encoding:
        """The encoding with `pooled` projected by the task's head, unit norm, float32 [B, D]."""
        pooled_BD = self.heads[task][tower](encoding.pooled_BD)
        return encoding._replace(pooled_BD=unit_norm(pooled_BD))

    def temperature(self, task: str) -> Array:
        """The task's temperature, a positive scalar."""
        return jnp.exp(self.log_temperature[task][...])


def _head(width: int, embedding: int, rngs: nnx.Rngs) -> nnx.Linear:
    initial = nnx.initializers.orthogonal()
    return nnx.Linear(width, embedding, use_bias=False, kernel_init=initial, rngs=rngs)
