"""Recurrent text towers: LSTM and GRU, with the gates and the biases of PyTorch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.models.layers import DEFAULT_COMPUTE, Compute, apply_dropout, split_keys
from mural_jax.types import PAD, Array, Encoding


class RecurrentTower(nnx.Module):
    """Token embeddings and recurrent layers; pooled is the state after the last real token.

    vocab_size: Number of token ids.
    embedding: Width of the token embeddings.
    hidden: Units of each direction.
    depth: Number of layers.
    bidirectional: Whether each layer also reads the text backwards. Pooled are then the last states
      of both directions side by side, [B, 2 hidden].
    dropout: Dropout rate of the token embeddings and between layers, in [0, 1).
    pad_id: The id of padding.
    """

    GATES = 0  # Subclasses say how many gates a cell has.

    def __init__(
        self,
        *,
        rngs: nnx.Rngs,
        vocab_size: int,
        embedding: int,
        hidden: int,
        depth: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.0,
        pad_id: int = PAD,
        compute: Compute = DEFAULT_COMPUTE,
    ):
        self.dropout, self.pad_id, self.dtype = dropout, pad_id, compute.dtype
        directions = 2 if bidirectional else 1
        self.width = hidden * directions
        init = nnx.initializers.normal(0.02)
        self.token_VD = nnx.Param(init(rngs.params(), (vocab_size, embedding)))

        def build(size: int) -> DirectionWeights:
            return DirectionWeights(size, hidden, self.GATES, compute.dtype, rngs)

        input_sizes = [embedding, *[self.width] * (depth - 1)]
        self.layers = nnx.List(
            nnx.List(build(size) for _ in range(directions)) for size in input_sizes
        )

    def __call__(self, text_BL: Array, key_B: Array | None = None) -> Encoding:
        """int32 [B, L] -> Encoding; an empty text gives zeros. With `key_B` dropout is on."""
        mask_BL = text_BL != self.pad_id
        x_BLD = self.token_VD[...][text_BL].astype(self.dtype)
        for directions, layer_key_B in zip(self.layers, split_keys(key_B, len(self.layers))):
            x_BLD = apply_dropout(x_BLD, self.dropout, layer_key_B)
            with jax.named_scope('layers'):
                passes = [
                    self._read(direction, x_BLD, mask_BL, reverse=number == 1)
                    for number, direction in enumerate(directions)
                ]
            # The next layer reads the outputs of both directions side by side.
            x_BLD = jnp.concatenate([states for states, _ in passes], axis=-1)
            pooled_BD = jnp.concatenate([last for _, last in passes], axis=-1)
        return Encoding(pooled_BD.astype(jnp.float32), x_BLD, mask_BL)

    def _read(
        self, direction: 'DirectionWeights', x_BLD: Array, mask_BL: Array, reverse: bool
    ) -> tuple[Array, Array]:
        """Runs one direction of a layer over the tokens.

        Returns (states [B, L, hidden], zero at padding; last state [B, hidden]).
        """
        batch, hidden = x_BLD.shape[0], direction.recurrent.kernel.shape[0]
        zero_BH = jnp.zeros((batch, hidden), self.dtype)

        def read_token(state: tuple, inputs: tuple[Array, Array]) -> tuple[tuple, Array]:
            gates_BG, real_B = inputs
            new_state = self.cell(direction, state, gates_BG)
            # Padding leaves the state unchanged, so the scan ends with the state of the last real
            # token, wherever the padding is.
            state = tuple(jnp.where(real_B[:, None], a, b) for a, b in zip(new_state, state))
            return state, jnp.where(real_B[:, None], state[0], 0.0)

        # Flip the arrays instead of calling scan with reverse=True, which cannot become ONNX.
        turn = partial(jnp.flip, axis=0) if reverse else lambda x: x
        # The input product of all tokens is one large product, outside the sequential loop.
        by_time = turn(jnp.swapaxes(direction.input(x_BLD), 0, 1)), turn(mask_BL.T)
        (last_BH, *_), states = jax.lax.scan(read_token, (zero_BH, zero_BH), by_time)
        return jnp.swapaxes(turn(states), 0, 1), last_BH

    def cell(
        self, direction: 'DirectionWeights', state: tuple, gates_BG: Array
    ) -> tuple[Array, Array]:
        """The state (h, c) after one token; h is the output of the layer.

        `gates_BG` is the product of the token with the input weights, for all gates side by side.
        """
        raise NotImplementedError


class DirectionWeights(nnx.Module):
    """The weights of one direction of one layer, with all gates side by side."""

    def __init__(self, size: int, hidden: int, gates: int, dtype: Any, rngs: nnx.Rngs):
        init = nnx.initializers.orthogonal()
        self.input = nnx.Linear(size, gates * hidden, dtype=dtype, rngs=rngs)
        self.recurrent = nnx.Linear(
            hidden, gates * hidden, dtype=dtype, kernel_init=init, rngs=rngs
        )


class Lstm(RecurrentTower):
    """LSTM (Hochreiter & Schmidhuber 1997); order of the gates: input, forget, cell, output.

    i, f, o = sigmoid(...), g = tanh(...);  c' = f c + i g,  h' = o tanh(c').
    """

    GATES = 4

    def cell(
        self, direction: DirectionWeights, state: tuple, gates_BG: Array
    ) -> tuple[Array, Array]:
        hidden_BH, cell_BH = state
        gates = jnp.split(gates_BG + direction.recurrent(hidden_BH), 4, axis=-1)
        enter, forget, out = (jax.nn.sigmoid(gates[i]) for i in (0, 1, 3))
        cell_BH = forget * cell_BH + enter * jnp.tanh(gates[2])
        return out * jnp.tanh(cell_BH), cell_BH


class Gru(RecurrentTower):
    """GRU (Cho et al. 2014, arXiv:1406.1078); order of the gates: reset, update, new.

    r, z = sigmoid(...);  n = tanh(W x + r (U h)),  h' = (1 - z) n + z h. As in PyTorch, the reset
    gate multiplies the recurrent product and not the state before it.
    """

    GATES = 3

    def cell(
        self, direction: DirectionWeights, state: tuple, gates_BG: Array
    ) -> tuple[Array, Array]:
        # A GRU has no cell state; the second entry only keeps the form of the LSTM's state.
        hidden_BH, unused_BH = state
        inputs = jnp.split(gates_BG, 3, axis=-1)
        recurrent = jnp.split(direction.recurrent(hidden_BH), 3, axis=-1)
        reset, update = (jax.nn.sigmoid(inputs[i] + recurrent[i]) for i in (0, 1))
        new_BH = jnp.tanh(inputs[2] + reset * recurrent[2])
        return (1 - update) * new_BH + update * hidden_BH, unused_BH
