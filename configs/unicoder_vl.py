"""Unicoder-VL: one transformer over words and regions, pretrained by what was hidden of pairs.

    unicoder_vl:base   the paper's size, on stored features of regions
    unicoder_vl:scenes   minutes on two cores, on composed scenes
    unicoder_vl:tiny   seconds, for tests, on composed scenes
    unicoder_vl:base,retrieval   the matching head alone, nothing hidden, from a pretrained run:
                                 --config.init_from.model=WORKDIR; of each size

Li et al. 2020, arXiv:1908.06066. What the paper does not say is marked as ours. Data:

    mural data ingest scenes --name=scenes            # scenes, tiny
    mural data ingest captions --name=regions ...     # base: boxes, classes and features columns
"""

from ml_collections import ConfigDict
from mural_jax.configs import _common, _scale

MAX_LENGTH = 35  # tokens; ours, as VLDeformer's


def get_config(arg: str = 'base') -> ConfigDict:
    """The config of the arguments above, joined by commas."""
    words = _common.words_of('unicoder_vl', arg, 'base scenes tiny', 'retrieval')
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
        kind='adamw', learning_rate=1e-4, warmup_steps=10000, decay='linear',
        b1=0.9, b2=0.999, eps=1e-8, weight_decay=((_common.TRAINABLE, 0.01),), clip_norm=1.0,
        multipliers=(),
    )  # fmt: skip
    config.tokenizer = dict(path='', vocab_size=30522, bos=True, eos=True)
    config.streams = dict(
        pairs=dict(
            kind='hidden', sources=dict(main=_common.source('captions/regions')),
            languages=('en',), alpha=0.5, cap=1.0, max_bad=0.01, image_size=224,
            max_length=MAX_LENGTH, batch_size=192, hide_words=0.15, hide_regions=0.15,
            mismatch=0.5,
            regions=dict(by='features', most=100, side=0, size=2048, geometry=5),
        )
    )  # fmt: skip
    config.model = dict(
        kind='one_stream', num_classes=1600, dtype='bfloat16', attention='xla',
        towers=dict(
            fusion=dict(
                kind='fusion', max_length=MAX_LENGTH, feature_size=2048, geometry=5, pool='mean',
                layers=dict(
                    width=768, depth=12, num_heads=12, activation='gelu', norm_eps=1e-12,
                    dropout=0.1, remat='none', unroll=1,
                ),
            )
        ),
    )  # fmt: skip
    config.tasks = {
        name: dict(kind='prediction', stream='pairs', predict=name, weight=1.0)
        for name in ('words', 'regions', 'match')
    }
    config.evaluators = {
        'hidden': dict(kind='hidden', stream='pairs', dataset='captions/regions', split='test'),
        # All pairs; with k, those that the decomposed run in workdir has nearest.
        'cross_encoder': dict(
            kind='cross_encoder',
            dataset='captions/regions',
            split='test',
            text='caption',
            rerank=dict(k=0, task='image_text', workdir=''),
        ),
    }
    if words & {'scenes', 'tiny'}:
        _shrink(config)
    if 'tiny' in words:
        config.schedule = _common.tiny_schedule()
        config.optimizer.warmup_steps = 2
        config.streams.pairs.batch_size = 16
        config.model.towers.fusion.layers.update(width=32, depth=2, num_heads=2)
    if 'retrieval' in words:
        _retrieve(config)
    return config


def _shrink(config: ConfigDict) -> None:
    """Composed scenes on two cores; sizes, steps and rates are ours."""
    config.schedule = _scale.schedule(4000, 50, 500, keep=2)
    config.optimizer.update(learning_rate=1e-3, warmup_steps=200)
    config.tokenizer.vocab_size = 600
    pairs = config.streams.pairs
    pairs.update(batch_size=64, image_size=96, max_length=20)
    pairs.sources.main.dataset = 'captions/scenes'
    for evaluator in config.evaluators.values():
        evaluator.dataset = 'captions/scenes'
    pairs.regions.update(by='boxes', most=4, side=8, size=0)
    config.model.update(num_classes=100, dtype='float32')
    config.model.towers.fusion.update(max_length=20, feature_size=192)
    config.model.towers.fusion.layers.update(width=128, depth=3, num_heads=4, mlp_ratio=2.0)


def _retrieve(config: ConfigDict) -> None:
    """Fine-tuning: half of the pairs do not belong together, and nothing is hidden."""
    config.streams.pairs.update(hide_words=0.0, hide_regions=0.0)
    config.tasks = dict(match=config.tasks['match'])
    config.optimizer.multipliers = (('word/|word_bias_V|region/|classes', 0.0),)
    if config.streams.pairs.sources.main.dataset == 'captions/regions':
        config.schedule = _scale.schedule(20000, 100, 1000, keep=3)  # Ours.
        config.optimizer.update(learning_rate=5e-5, warmup_steps=1000)
    del config.evaluators['hidden']
