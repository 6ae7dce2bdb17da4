"""The class of each kind of evaluator."""

from mural_jax.evaluation.evaluators.bitext import BitextAccuracy, BitextMining
from mural_jax.evaluation.evaluators.classification import ZeroShotClassification
from mural_jax.evaluation.evaluators.cross_encoder import CrossEncoder
from mural_jax.evaluation.evaluators.hidden import HiddenParts
from mural_jax.evaluation.evaluators.probes import KnnProbe, LinearProbe
from mural_jax.evaluation.evaluators.ratings import RatedSimilarity
from mural_jax.evaluation.evaluators.retrieval import ImageTextRetrieval, TranslationRetrieval

EVALUATORS = {
    'image_text': ImageTextRetrieval,
    'text_text': TranslationRetrieval,
    'bitext': BitextAccuracy,
    'mining': BitextMining,
    'classification': ZeroShotClassification,
    'linear_probe': LinearProbe,
    'knn': KnnProbe,
    'similarity': RatedSimilarity,
    'hidden': HiddenParts,
    'cross_encoder': CrossEncoder,
}
