"""VLDeformer: a joint transformer decomposed into an encoder of each side alone.

    vldeformer:base     from a run of unicoder_vl:base, --config.init_from.model=WORKDIR
    vldeformer:scenes   minutes on two cores, from a run of unicoder_vl:scenes
    vldeformer:photos   minutes on two cores, from a run of unicoder_vl:photos
    vldeformer:tiny     seconds, for tests, from a run of unicoder_vl:tiny

    vldeformer:base,plain       without hard negatives
    vldeformer:base,distilled   also learns the matching scores of the joint model
    vldeformer:base,tags        makes the names of objects a part of the image, as in unicoder_vl

Each option combines with each size.
Zhang et al. 2022, arXiv:2110.11338. The constants are those of its public code, which contains the
hard negatives of the paper but does not use them. Model and data are those of `unicoder_vl`; the
heads that predict hidden parts keep their weights.
"""

from ml_collections import ConfigDict
from mural_jax.configs import _common, _scale, unicoder_vl

TEMPERATURE = 0.005  # fixed, in both directions
RESTING = 'word/|word_bias_V|region/|classes|pooler|match|log_temperature'
OPTIONS = {'plain', 'distilled', 'tags'}


def get_config(arg: str = 'base') -> ConfigDict:
    """The config of the arguments above, joined by commas."""
    words = _common.words_of('vldeformer', arg, unicoder_vl.SIZES, ' '.join(OPTIONS))
    config = unicoder_vl.get_config(','.join(sorted(words - OPTIONS)) or 'base')
    config.clamp.lowest = TEMPERATURE
    config.optimizer.update(
        decay='cosine', weight_decay=((_common.TRAINABLE, 0.05),), multipliers=((RESTING, 0.0),)
    )
    batch_size = config.streams.pairs.batch_size
    if words & {'scenes', 'photos'}:
        config.schedule = _scale.schedule(600, 50, 300, keep=2)
        config.optimizer.update(learning_rate=5e-4, warmup_steps=100)
        # In narrow vectors the noise of dropout is larger than the temperature (ours).
        config.model.towers.fusion.layers.dropout = 0.0
    elif 'tiny' not in words:
        # 200 epochs of COCO's 113,287 images.
        config.schedule = _scale.schedule(12600, 100, 1000, keep=3)
        config.optimizer.update(learning_rate=7.5e-6, warmup_steps=200)
        batch_size = 1800
    pairs = config.streams.pairs
    for name in ('hide_words', 'hide_regions', 'mismatch'):
        del pairs[name]
    hard = 'plain' not in words
    pairs.update(kind='regions', batch_size=batch_size, hard_negatives=hard)
    pairs.regions.codebook = 0  # Nothing is predicted.
    config.spaces = dict(image_text=unicoder_vl.pooled_space(config, temperature=TEMPERATURE))
    encode = (('regions', 'image'), ('text', 'text'))
    negatives = (('regions_negative', 'image'), ('text_negative', 'text'))
    config.tasks = dict(
        image_text=dict(
            stream='pairs',
            encode=encode + negatives * hard,
            space='image_text',
            weight=1.0,
            objective=_scale.softmax(),
        )
    )
    config.evaluators = {
        'image_text': dict(
            kind='image_text',
            dataset=pairs.sources.main.dataset,
            split=config.evaluators.cross_encoder.split,
            space='image_text',
            text='caption',
            gallery=config.evaluators.cross_encoder.gallery,
            captions='first',
            every=0,
        )
    }
    if 'distilled' in words:
        # The joint model as it was before it was decomposed: from the same run, unless another one
        # is named.
        config.companions = dict(
            teacher=dict(
                model=config.model.copy_and_resolve_references(), frozen=True, init_from=''
            )
        )
        config.tasks.joint = dict(
            kind='distillation',
            stream='pairs',
            encode=config.tasks.image_text.encode,
            space='image_text',
            among=8,
            weight=1.0,
            teacher='teacher',
        )
    if 'tags' in words:
        unicoder_vl.with_tags(config)
    return config
