"""mural_jax: a trainer for multilingual image-text dual encoders in JAX and Flax."""

__version__ = '0.1.0'

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mural_jax.inference.model import load as load


def __getattr__(name: str) -> Any:
    """`mural_jax.load`, imported when it is asked for: the command line needs no jax to start."""
    if name != 'load':
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from mural_jax.inference.model import load

    return load
