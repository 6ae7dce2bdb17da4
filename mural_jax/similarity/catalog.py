"""Kinds of similarities, and the forms of what they compare."""

from mural_jax.similarity.late_interaction import LateInteraction
from mural_jax.similarity.measures import Cosine, Dot

SIMILARITIES = {'cosine': Cosine, 'dot': Dot, 'late_interaction': LateInteraction}

FORMS = {
    'dense': 'one vector an example',
    'tokens': 'a vector for each token of an example, and a mask',
    'distribution': 'logarithms of probabilities over classes or topics',
    'bits': 'a binary code',
}
