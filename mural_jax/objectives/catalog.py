"""Kinds of objectives over pairs."""

from mural_jax.objectives.sigmoid import Sigmoid
from mural_jax.objectives.softmax import Softmax

OBJECTIVES = {'softmax': Softmax, 'sigmoid': Sigmoid}
