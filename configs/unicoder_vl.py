"""Unicoder-VL: one transformer over words and regions, pretrained on pairs with hidden parts.

    unicoder_vl:base     the paper's size, on stored features of regions
    unicoder_vl:scenes   minutes on two cores, on composed scenes
    unicoder_vl:photos   minutes on two cores, on patches of photographs, eight languages
    unicoder_vl:tiny     seconds, for tests, on composed scenes

    unicoder_vl:base,retrieval   fine-tunes the matching head of a pretrained run, nothing hidden:
                                 --config.init_from.model=WORKDIR
    unicoder_vl:base,similar     draws similar images and texts as mismatched pairs (X-VLM)
    unicoder_vl:base,tags        makes the names of objects a part of the image (VinVL)

Each option combines with each size.
Li et al. 2020, arXiv:1908.06066. What the paper does not state is marked as ours. Data:

    mural data ingest scenes --name=scenes --objects=300    # scenes, tiny; --tags for tags
    mural data ingest captions --name=flickr8k ...    # photos, as for configs/flickr8k.py
    mural data ingest captions --name=regions ...     # base: boxes, classes and features columns
"""

from typing import Any

from ml_collections import ConfigDict
from mural_jax.configs import _common, _scale
from mural_jax.configs.flickr8k import IMAGE_TEXT, TRANSLATION_ONLY

MAX_LENGTH = 35  # tokens; ours, as VLDeformer's
SIZES = 'base scenes photos tiny'
TAGS = {'regions': 'tags', 'regions_negative': 'tags_negative'}  # by the field of regions


def get_config(arg: str = 'base') -> ConfigDict:
    """The config of the arguments above, joined by commas."""
    words = _common.words_of('unicoder_vl', arg, SIZES, 'retrieval similar tags')
    config = ConfigDict()
    config.seed = 0
    _scale.scale(config)
    config.languages = dict(all=('en',))
    config.clamp = dict(lowest=0.01, highest=1.0)
    config.init_from = dict(model='')
    # 3.8 M pairs, 10 epochs of batches of 192.
    config.schedule = _scale.schedule(200000, 100, 5000, keep=3)
    config.optimizer = dict(
        **_scale.OPTIMIZER,
        kind='adamw',
        learning_rate=1e-4,
        warmup_steps=10000,
        decay='linear',
        b1=0.9,
        b2=0.999,
        eps=1e-8,
        weight_decay=((_common.TRAINABLE, 0.01),),
        clip_norm=1.0,
        multipliers=(),
    )
    config.tokenizer = dict(path='', vocab_size=30522, bos=True, eos=True)
    config.streams = dict(
        pairs=dict(
            kind='hidden',
            sources=dict(main=_common.source('captions/regions')),
            languages=('en',),
            alpha=0.5,
            cap=1.0,
            max_bad=0.01,
            image_size=224,
            max_length=MAX_LENGTH,
            batch_size=192,
            candidates=1,
            hide_words=0.15,
            hide_regions=0.15,
            mismatch=0.5,
            regions=dict(by='features', most=100, side=0, size=2048, geometry=5, codebook=0),
        )
    )
    config.model = dict(
        kind='one_stream',
        num_classes=1600,
        dtype='bfloat16',
        attention='xla',
        towers=dict(
            fusion=dict(
                kind='fusion',
                max_length=MAX_LENGTH,
                feature_size=2048,
                geometry=5,
                pool='mean',
                layers=dict(
                    width=768,
                    depth=12,
                    num_heads=12,
                    activation='gelu',
                    norm_eps=1e-12,
                    dropout=0.1,
                    remat='none',
                    unroll=1,
                ),
            )
        ),
    )
    config.spaces = {}
    config.tasks = {
        name: dict(
            kind='prediction',
            stream='pairs',
            predict=name,
            weight=1.0,
            encode=((('text', 'regions'), 'joint'),),
        )
        for name in ('words', 'regions', 'match')
    }
    config.evaluators = {
        'hidden': dict(
            kind='hidden', stream='pairs', dataset='captions/regions', split='test', every=0
        ),
        # Scores all pairs; with k > 0 only the nearest of the decomposed run in `workdir`.
        'cross_encoder': dict(
            kind='cross_encoder',
            dataset='captions/regions',
            split='test',
            text='caption',
            gallery=0,
            rerank=dict(k=0, space='image_text', workdir=''),
            every=0,
        ),
    }
    if not words & {'base'} and words & set(SIZES.split()):
        _shrink(config)
    if 'scenes' in words:
        _scenes(config)
    if 'photos' in words:
        _photos(config)
    if 'tiny' in words:
        config.schedule = _common.tiny_schedule()
        config.optimizer.warmup_steps = 2
        config.streams.pairs.batch_size = 16
        config.model.towers.fusion.layers.update(width=32, depth=2, num_heads=2)
    if 'tags' in words:
        with_tags(config)
    if 'retrieval' in words:
        _retrieve(config, large=not words & {'scenes', 'photos', 'tiny'})
    if 'similar' in words:
        _among_similar(config)
    return config


def with_tags(config: ConfigDict) -> None:
    """Makes an image its tags and its regions."""
    for stream in config.streams.values():
        stream.tags = 'tags'
    for task in config.tasks.values():
        task.encode = _add_tags(task.encode)


def _add_tags(field: Any) -> Any:
    """The fields of views, each field of regions together with its tags."""
    if isinstance(field, str):
        return (TAGS[field], field) if field in TAGS else field
    return tuple(map(_add_tags, field))


def _shrink(config: ConfigDict) -> None:
    """Composed scenes on two cores; sizes, steps and rates are ours."""
    config.schedule = _scale.schedule(3000, 50, 500, keep=2)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=200)
    config.tokenizer.vocab_size = 600
    pairs = config.streams.pairs
    pairs.update(batch_size=64, image_size=96, max_length=20)
    pairs.sources.main.dataset = 'captions/scenes'
    for evaluator in config.evaluators.values():
        evaluator.dataset = 'captions/scenes'
    config.evaluators.cross_encoder.gallery = 500  # All images would be a million pairs, minutes.
    pairs.regions.update(by='boxes', most=4, side=8, size=0)
    config.model.update(num_classes=100, dtype='float32')
    config.model.towers.fusion.update(max_length=20, feature_size=192)
    config.model.towers.fusion.layers.update(width=128, depth=3, num_heads=4, mlp_ratio=2.0)


def _scenes(config: ConfigDict) -> None:
    """Scenes of 300 emoji; all values are ours."""
    config.schedule.num_steps = 6000
    config.tokenizer.vocab_size = 1000
    config.streams.pairs.max_length = 28
    config.model.num_classes = 300
    config.model.towers.fusion.max_length = 28


def _photos(config: ConfigDict) -> None:
    """Patches of photographs, whose classes are those of a codebook; all values are ours."""
    config.languages = dict(all=IMAGE_TEXT + TRANSLATION_ONLY)
    config.tokenizer.vocab_size = 8000
    pairs = config.streams.pairs
    pairs.update(languages=IMAGE_TEXT + TRANSLATION_ONLY, max_length=24)
    pairs.sources.main.dataset = 'captions/flickr8k'
    pairs.regions.update(by='patches', most=36, side=16, codebook=256)
    for evaluator in config.evaluators.values():
        evaluator.update(dataset='captions/flickr8k', split='dev')
    config.evaluators.cross_encoder.gallery = 100  # Eight languages, all pairs: 80,000 passes.
    config.model.num_classes = 256
    config.model.towers.fusion.update(max_length=24, feature_size=768)


def _retrieve(config: ConfigDict, large: bool) -> None:
    """Fine-tuning for retrieval: half of the pairs do not match, and nothing is hidden."""
    config.streams.pairs.update(hide_words=0.0, hide_regions=0.0)
    config.tasks = dict(match=config.tasks['match'])
    # Most pairs are soon easy and give hardly any gradient, so the gradient of a hard one would
    # look like a spike. Clipping is enough.
    config.safety.spike = 0.0
    config.optimizer.multipliers = (('word/|word_bias_V|region/|classes', 0.0),)
    if large:
        config.schedule = _scale.schedule(20000, 100, 1000, keep=3)  # Ours.
        config.optimizer.update(learning_rate=5e-5, warmup_steps=1000)
    del config.evaluators['hidden']


def pooled_space(config: ConfigDict, temperature: float) -> dict[str, Any]:
    """A space of the transformer's own vectors, without heads."""
    identity = dict(kind='identity')
    return _scale.space(
        'image',
        'text',
        embedding=config.model.towers.fusion.layers.width,
        temperature=temperature,
        heads=dict(image=dict(identity), text=dict(identity)),
    )


def _among_similar(config: ConfigDict) -> None:
    """Matches texts and images against the most similar of a group (X-VLM, arXiv:2111.08276).

    A contrastive task trains the embeddings that say which are similar; its temperature of 0.07
    is X-VLM's.
    """
    pairs = config.streams.pairs
    whole = dict(kind='regions', hard_negatives=False)
    for name, value in pairs.items():
        if name not in ('kind', 'hide_words', 'hide_regions', 'mismatch'):
            whole[name] = value
    config.streams.whole = whole
    pairs.mismatch = 0.0
    text, image = config.tasks.match.encode[0][0]
    encode = ((image, 'image'), (text, 'text'))
    config.spaces = dict(image_text=pooled_space(config, temperature=0.07))
    config.tasks.match = dict(
        kind='matching', stream='whole', encode=encode, space='image_text', among=16, weight=1.0
    )
    config.tasks.image_text = dict(
        stream='whole', encode=encode, space='image_text', weight=1.0, objective=_scale.softmax()
    )
    if len(config.tasks) == 2:  # With `retrieval` no task draws hidden pairs.
        del config.streams['pairs']
