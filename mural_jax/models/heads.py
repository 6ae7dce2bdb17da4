"""Heads: from the width of a tower to the width of a space."""

from flax import nnx

from mural_jax.types import Array, UserError


class Linear(nnx.Linear):
    """A linear projection of vectors or tokens.

    It starts orthogonal: what the translations align in the text tower is then aligned in the
    space of the images too (a choice of ours).

    bias: Whether there is one; CLIP's and MURAL's heads have none here, SigLIP's text head has.
    """

    def __init__(self, *, width: int, embedding: int, rngs: nnx.Rngs, bias: bool = False):
        initial = nnx.initializers.orthogonal()
        super().__init__(width, embedding, use_bias=bias, kernel_init=initial, rngs=rngs)


class Identity(nnx.Module):
    """No projection, for a tower that is as wide as the space (ALIGN's EfficientNet-B7)."""

    def __init__(self, *, width: int, embedding: int, rngs: nnx.Rngs):
        if width != embedding:
            raise UserError(
                f'A head of kind identity needs a tower as wide as its space, but {width} is not '
                f'{embedding}. Use kind linear, or another embedding in config.spaces.'
            )

    def __call__(self, x: Array) -> Array:
        return x
