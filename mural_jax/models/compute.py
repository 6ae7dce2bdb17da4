"""How the towers of a model compute: the dtype and the attention of a config."""

import jax

from mural_jax.models.layers import DTYPES, Compute, look_up
from mural_jax.types import UserError

ATTENTION = {'xla': 'any device', 'cudnn': 'flash attention of an NVIDIA GPU'}


def choose_compute(dtype: str, attention: str) -> Compute:
    """Raises UserError where a name is not known, or this machine cannot compute so."""
    look_up('dtype', dtype, DTYPES)
    look_up('attention', attention, ATTENTION)
    if attention == 'cudnn' and (jax.default_backend() != 'gpu' or dtype != 'bfloat16'):
        raise UserError(
            "config.model.attention='cudnn' needs an NVIDIA GPU and dtype='bfloat16'; this is "
            f"{jax.default_backend()} with {dtype}. Use attention='xla'."
        )
    return Compute(DTYPES[dtype], attention)
