"""What an evaluator of a config is, by its kind."""

from mural_jax.evaluation.bitext import Bitext, Mining
from mural_jax.evaluation.classification import Classification
from mural_jax.evaluation.evaluators import ImageText, TextText
from mural_jax.evaluation.pairs import CrossEncoder, Hidden
from mural_jax.evaluation.probes import Knn, LinearProbe
from mural_jax.evaluation.similarity import Similarity

EVALUATORS = {
    'image_text': ImageText, 'text_text': TextText, 'bitext': Bitext, 'mining': Mining,
    'classification': Classification, 'linear_probe': LinearProbe, 'knn': Knn,
    'similarity': Similarity,     'hidden': Hidden, 'cross_encoder': CrossEncoder,
}  # fmt: skip
