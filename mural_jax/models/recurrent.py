"""Recurrent text towers: LSTM and GRU, with the gates and the biases of PyTorch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from mural_jax.models.layers import DEFAULT, Compute, drop, split_keys
from mural_jax.types import PAD, Array, Encoding


class Recurrent(nnx.Module):
    """Token embeddings, recurrent layers, and the last state of the real tokens.

    embedding: width of a token. hidden: units of a direction. depth: layers. bidirectional: each
    layer reads the text from the end too; what is pooled is then both last states, [B, 2 hidden].
    dropout: of the token embeddings and between layers, in [0, 1).
    """

    GATES = 0

    def __init__(
        self, *, rngs: nnx.Rngs, vocab_size: int, embedding: int, hidden: int, depth: int = 1,
        bidirectional: bool = False, dropout: float = 0.0, pad_id: int = PAD,
        compute: Compute = DEFAULT,
    ):  # fmt: skip
        self.dropout, self.pad_id, self.dtype = dropout, pad_id, compute.dtype
        directions = 2 if bidirectional else 1
        self.width = hidden * directions
        initial = nnx.initializers.normal(0.02)
        self.token_VD = nnx.Param(initial(rngs.params(), (vocab_size, embedding)))
        inputs = [embedding, *[self.width] * (depth - 1)]
        self.layers = nnx.List(
            nnx.List(Direction(size, hidden, self.GATES, compute.dtype, rngs)
                     for _ in range(directions))
            for size in inputs
        )  # fmt: skip

    def __call__(self, text_BL: Array, key_B: Array | None = None) -> Encoding:
        """int32 [B, L] -> Encoding; `key_B` turn dropout on. An empty text is zero."""
        mask_BL = text_BL != self.pad_id
        x_BLD = self.token_VD[...][text_BL].astype(self.dtype)
        for directions, own in zip(self.layers, split_keys(key_B, len(self.layers))):
            x_BLD = drop(x_BLD, self.dropout, own)
            with jax.named_scope('layers'):
                passes = [
                    self._read(direction, x_BLD, mask_BL, reverse=number == 1)
                    for number, direction in enumerate(directions)
                ]
            x_BLD = jnp.concatenate([states for states, _ in passes], axis=-1)
            pooled_BD = jnp.concatenate([last for _, last in passes], axis=-1)
        return Encoding(pooled_BD.astype(jnp.float32), x_BLD, mask_BL)

    def _read(
        self, direction: 'Direction', x_BLD: Array, mask_BL: Array, reverse: bool
    ) -> tuple[Array, Array]:
        """(states [B, L, H], zero at padding; the last state, [B, H]), one after the other."""
        batch, hidden = x_BLD.shape[0], direction.recurrent.kernel.shape[0]
        zero_BH = jnp.zeros((batch, hidden), self.dtype)

        def token(state: tuple, inputs: tuple[Array, Array]) -> tuple[tuple, Array]:
            gates_BG, real_B = inputs
            after = self.cell(direction, state, gates_BG)
            # Padding leaves the state alone, so the end of the scan is the last real token.
            state = tuple(jnp.where(real_B[:, None], a, b) for a, b in zip(after, state))
            return state, jnp.where(real_B[:, None], state[0], 0.0)

        # Turned round, not read from the end: a scan in reverse cannot become ONNX.
        turn = partial(jnp.flip, axis=0) if reverse else lambda x: x
        by_time = turn(jnp.swapaxes(direction.input(x_BLD), 0, 1)), turn(mask_BL.T)
        (last_BH, *_), states = jax.lax.scan(token, (zero_BH, zero_BH), by_time)
        return jnp.swapaxes(turn(states), 0, 1), last_BH

    def cell(self, direction: 'Direction', state: tuple, gates_BG: Array) -> tuple[Array, Array]:
        """((h, c), input part of the gates) -> (h, c) after one token; h is the output."""
        raise NotImplementedError


class Direction(nnx.Module):
    """The weights of one layer in one direction, its gates side by side."""

    def __init__(self, size: int, hidden: int, gates: int, dtype: Any, rngs: nnx.Rngs):
        recurrent = nnx.initializers.orthogonal()
        self.input = nnx.Linear(size, gates * hidden, dtype=dtype, rngs=rngs)
        self.recurrent = nnx.Linear(
            hidden, gates * hidden, dtype=dtype, kernel_init=recurrent, rngs=rngs
        )


class Lstm(Recurrent):
    """LSTM (Hochreiter & Schmidhuber 1997): gates input, forget, cell, output."""

    GATES = 4

    def cell(self, direction: Direction, state: tuple, gates_BG: Array) -> tuple[Array, Array]:
        hidden_BH, cell_BH = state
        gates = jnp.split(gates_BG + direction.recurrent(hidden_BH), 4, axis=-1)
        enter, forget, out = (jax.nn.sigmoid(gates[i]) for i in (0, 1, 3))
        cell_BH = forget * cell_BH + enter * jnp.tanh(gates[2])
        return out * jnp.tanh(cell_BH), cell_BH


class Gru(Recurrent):
    """GRU (Cho et al. 2014, arXiv:1406.1078): gates reset, update, new; reset after the product."""

    GATES = 3

    def cell(self, direction: Direction, state: tuple, gates_BG: Array) -> tuple[Array, Array]:
        hidden_BH, unused_BH = state
        inputs = jnp.split(gates_BG, 3, axis=-1)
        recurrent = jnp.split(direction.recurrent(hidden_BH), 3, axis=-1)
        reset, update = (jax.nn.sigmoid(inputs[i] + recurrent[i]) for i in (0, 1))
        new_BH = jnp.tanh(inputs[2] + reset * recurrent[2])
        return (1 - update) * new_BH + update * hidden_BH, unused_BH
