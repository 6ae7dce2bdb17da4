"""MURAL: image-text pairs and translation pairs at once.

    mural:base        EfficientNet-B5 and BERT-base
    mural:large       EfficientNet-B7 and BERT-large
    mural:tiny        seconds, for tests
    mural:base,xlm_r  the text tower is XLM-R's, to start from its weights (ours):
                      --config.init_from.text=FILE --config.tokenizer.path=SENTENCEPIECE.MODEL
    mural:decomposed  over one transformer for both (VLDeformer), BERT-base's size, patches of 16
                      pixels, from a run of one stream: --config.init_from.model=WORKDIR (ours)

Jain et al. 2021, arXiv:2109.05125, on the recipe of ALIGN (Jia et al. 2021, arXiv:2102.05918) and
the translation loss of LaBSE (Feng et al. 2022, arXiv:2007.01852). The paper has no public code.
What none of the three papers states is marked as ours.
"""

from ml_collections import ConfigDict
from mural_jax.configs import _common, _scale, align

from mural_jax.models.sizes import BERT, EFFICIENTNET, XLM_R


def get_config(arg: str = 'base') -> ConfigDict:
    """The config of the arguments above, joined by commas."""
    words = _common.words_of('mural', arg, 'base large decomposed tiny', 'xlm_r')
    large = 'large' in words
    config = align.get_config('base')
    # ALIGN's multilingual vocabulary.
    config.tokenizer = dict(path='', vocab_size=250000, bos=True, eos=True)
    config.streams.translations = _common.translations(align.MAX_LENGTH, 16384)  # Batch: ours.
    config.model.towers.image.update(EFFICIENTNET['B7' if large else 'B5'])
    config.model.towers.text.layers.update(BERT['large' if large else 'base'])
    if large:  # EfficientNet-B7 is as wide as the embedding, 640.
        config.spaces.image_text.heads.image = dict(kind='identity')
    config.spaces.text_text = _scale.space(
        'text', embedding=640, temperature=1.0, heads=dict(text=dict(kind='linear', bias=True))
    )
    config.tasks.text_text = dict(
        stream='translations',
        encode=(('source', 'text'), ('target', 'text')),
        space='text_text',
        # Weight: not published, the order is the likely one. Margin: LaBSE's.
        weight=0.1,
        objective=_scale.softmax(margin=0.3),
    )
    config.evaluators = _common.evaluators('text_text')
    if 'xlm_r' in words:
        config.tokenizer = dict(kind='xlm_r', path='', vocab_size=250002)
        config.model.towers.text.update(num_segments=1, position_offset=2, pad_id=1)
        config.model.towers.text.layers.update(XLM_R['large' if large else 'base'])
    if 'decomposed' in words:
        _decompose(config)
    if 'tiny' in words:
        align.shrink(config)
    return config


def _decompose(config: ConfigDict) -> None:
    """One transformer for both sides of both tasks; images of 224 pixels in 196 patches."""
    config.init_from = dict(model='')
    config.streams.captions.update(
        kind='regions',
        image_size=224,
        resize=256,
        hard_negatives=False,
        regions=dict(by='patches', most=196, side=16, size=0, geometry=5),
    )
    config.model = dict(
        kind='one_stream',
        num_classes=1600,
        dtype='bfloat16',
        attention='xla',
        towers=dict(
            fusion=dict(
                kind='fusion',
                max_length=align.MAX_LENGTH,
                feature_size=768,
                geometry=5,
                pool='mean',
                layers=dict(**BERT['base'], dropout=0.1, remat='none', unroll=1),
            )
        ),
    )
    for space in config.spaces.values():
        for head in space.heads.values():
            head.bias = False
    config.tasks.image_text.encode = (('regions', 'image'), ('text', 'text'))
