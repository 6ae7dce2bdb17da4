"""Heads: from the vector of a tower to the space of an embedding."""

from flax import nnx

from mural_jax.types import Array, UserError


class Linear(nnx.Linear):
    """A linear head. It starts orthogonal: what the translations align in the text tower is then
    aligned in the space of the pictures too (a choice of ours).

    bias: whether there is one; CLIP's and MURAL's heads have none here, SigLIP's text head has.
    """

    def __init__(self, *, width: int, embedding: int, rngs: nnx.Rngs, bias: bool = False):
        initial = nnx.initializers.orthogonal()
        super().__init__(width, embedding, use_bias=bias, kernel_init=initial, rngs=rngs)


class Identity(nnx.Module):
    """No head: the tower's own vector, where its width is that of the embedding (ALIGN's B7)."""

    def __init__(self, *, width: int, embedding: int, rngs: nnx.Rngs):
        if width != embedding:
            raise UserError(
                f'A head of kind identity needs a tower as wide as the embedding, but {width} is '
                f'not {embedding}. Use kind linear, or another config.model.embedding.'
            )

    def __call__(self, pooled_BD: Array) -> Array:
        return pooled_BD
