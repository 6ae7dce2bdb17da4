"""Text towers."""

from flax import nnx

from mural_jax.models.layers import DTYPES, Stack, drop, masked_mean, split_key
from mural_jax.types import PAD, Array, Encoding, UserError


class Transformer(nnx.Module):
    """A bidirectional pre-norm transformer over token ids, pooled by the mean of real tokens.

    The norm follows the mean, not each token before it: a token then keeps its length, so that
    telling words can outweigh filler. A choice of ours.
    """

    def __init__(
        self, *, rngs: nnx.Rngs, vocab_size: int, max_length: int, width: int, depth: int,
        num_heads: int, mlp_ratio: float = 4.0, dropout: float = 0.0, dtype: str = 'float32',
    ):  # fmt: skip
        if width % num_heads:
            raise UserError(f'num_heads={num_heads} must divide width={width}.')
        self.dropout, self.dtype = dropout, DTYPES[dtype]
        initial = nnx.initializers.normal(0.02)
        self.token_VD = nnx.Param(initial(rngs.params(), (vocab_size, width)))
        self.position_LD = nnx.Param(initial(rngs.params(), (max_length, width)))
        self.stack = Stack(depth, width, num_heads, mlp_ratio, dropout, self.dtype, rngs)
        self.norm = nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, text_BL: Array, key: Array | None = None) -> Encoding:
        """int32 [B, L], L at most max_length -> Encoding; `key` turns dropout on."""
        first, second = split_key(key, 2)
        position_LD = self.position_LD[...][: text_BL.shape[1]]
        x_BLD = (self.token_VD[...][text_BL] + position_LD[None]).astype(self.dtype)
        mask_BL = text_BL != PAD
        x_BLD = self.stack(drop(x_BLD, self.dropout, first), mask_BL, second)
        pooled_BD = self.norm(masked_mean(x_BLD, mask_BL))
        return Encoding(pooled_BD, self.norm(x_BLD), mask_BL)
