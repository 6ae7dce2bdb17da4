"""mural_jax: a trainer for multilingual image-text dual encoders in JAX and Flax."""

__version__ = '0.1.0'
