"""What an evaluator of a config is, by its kind."""

from mural_jax.evaluation.evaluators.bitext import Bitext, Mining
from mural_jax.evaluation.evaluators.classification import Classification
from mural_jax.evaluation.evaluators.cross_encoder import CrossEncoder
from mural_jax.evaluation.evaluators.hidden import Hidden
from mural_jax.evaluation.evaluators.probes import Knn, LinearProbe
from mural_jax.evaluation.evaluators.ratings import Similarity
from mural_jax.evaluation.evaluators.retrieval import ImageText, TextText

EVALUATORS = {
    'image_text': ImageText, 'text_text': TextText, 'bitext': Bitext, 'mining': Mining,
    'classification': Classification, 'linear_probe': LinearProbe, 'knn': Knn,
    'similarity': Similarity,     'hidden': Hidden, 'cross_encoder': CrossEncoder,
}  # fmt: skip
