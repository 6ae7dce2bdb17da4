"""VLDeformer: the weights of one stream, decomposed into an encoder of one side alone.

    vldeformer:base   from a run of unicoder_vl:base, --config.init_from.model=WORKDIR
    vldeformer:scenes   minutes on two cores, from a run of unicoder_vl:scenes
    vldeformer:tiny   seconds, for tests, from a run of unicoder_vl:tiny
    vldeformer:base,plain   without hard negatives; of each size

Zhang et al. 2022, arXiv:2110.11338; constants of its public code, which has the
hard negatives of its paper and does not use them. Model and data are those of `unicoder_vl`; the
heads that predict what is hidden rest.
"""

from ml_collections import ConfigDict
from mural_jax.configs import _common, _scale, unicoder_vl

TEMPERATURE = 0.005  # fixed, both ways
RESTING = 'word/|word_bias_V|region/|classes|pooler|match|log_temperature'


def get_config(arg: str = 'base') -> ConfigDict:
    """The config of the arguments above, joined by commas."""
    words = _common.words_of('vldeformer', arg, 'base scenes tiny', 'plain')
    config = unicoder_vl.get_config(','.join(sorted(words - {'plain'})) or 'base')
    config.clamp.lowest = TEMPERATURE
    config.optimizer.update(
        decay='cosine', weight_decay=((_common.TRAINABLE, 0.05),), multipliers=((RESTING, 0.0),)
    )
    batch_size = config.streams.pairs.batch_size
    if not words & {'scenes', 'tiny'}:
        # 200 epochs of COCO's 113,287 pictures.
        config.schedule = _scale.schedule(12600, 100, 1000, keep=3)
        config.optimizer.update(learning_rate=7.5e-6, warmup_steps=200)
        batch_size = 1800
    elif 'scenes' in words:
        config.schedule = _scale.schedule(1500, 50, 500, keep=2)
        config.optimizer.update(learning_rate=3e-4, warmup_steps=100)
        batch_size = 256
    pairs = config.streams.pairs
    for name in ('hide_words', 'hide_regions', 'mismatch'):
        del pairs[name]
    hard = 'plain' not in words
    pairs.update(kind='regions', batch_size=batch_size, hard_negatives=hard)
    model = config.model
    model.embedding = model.towers.fusion.layers.width
    model.heads = dict(image=dict(kind='identity'), text=dict(kind='identity'))
    encode = (('regions', 'image'), ('text', 'text'))
    negatives = (('regions_negative', 'image'), ('text_negative', 'text'))
    config.tasks = dict(
        image_text=dict(
            stream='pairs', encode=encode + negatives * hard, weight=1.0,
            temperature=TEMPERATURE, objective=_scale.softmax(),
        )
    )  # fmt: skip
    config.evaluators = {
        'image_text': dict(
            kind='image_text', dataset=pairs.sources.main.dataset, split='test',
            task='image_text', text='caption',
        )
    }  # fmt: skip
    return config
