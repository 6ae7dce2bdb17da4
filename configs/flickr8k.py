"""MURAL on photographs: Flickr8k with captions in eight languages, on two CPU cores.

    flickr8k          MURAL: photos with captions in en, pt and ar; translation pairs of de, fr,
                      cs, hi and Bodo (brx), which never meet a photo
    flickr8k:align    ALIGN: the image-text task alone, for as many steps
    flickr8k:tiny     a size for tests, seconds; also flickr8k:align,tiny

`mural data ingest` makes its data sets first (docs/data.md has the commands): `captions/flickr8k`
with the splits train and dev, and `translations/multi30k`.

Jain et al. 2021, arXiv:2109.05125. The mechanism and the losses are the paper's; sizes, steps and
rates are this project's own.
"""

from ml_collections import ConfigDict
from mural_jax.configs import _common, _scale

IMAGE_TEXT = ('en', 'pt', 'ar')
TRANSLATION_ONLY = ('de', 'fr', 'cs', 'hi', 'brx')
IMAGE_SIZE = 96  # pixels, of photos of 112
MAX_LENGTH = 24  # tokens
TEST = 'captions/flickr8k:dev'


def get_config(arg: str = 'mural') -> ConfigDict:
    """The config of the arguments above, joined by commas."""
    words = _common.words_of('flickr8k', arg, 'mural align', 'tiny')
    config = ConfigDict()
    config.seed = 0
    config.clamp = dict(lowest=0.01, highest=0.5)
    _scale.scale(config)
    config.languages = dict(image_text=IMAGE_TEXT, translation_only=TRANSLATION_ONLY)
    config.schedule = _scale.schedule(2000, 50, 250, keep=2)
    config.init_from = dict(model='', image='', text='')
    config.tokenizer = dict(path='', vocab_size=16000)
    config.streams = dict(
        captions=dict(
            kind='captions',
            languages=IMAGE_TEXT,
            alpha=0.5,
            cap=1.0,
            batch_size=128,
            sources=dict(flickr8k=_common.source('captions/flickr8k')),
            max_length=MAX_LENGTH,
            image_size=IMAGE_SIZE,
            area=0.5,
            max_bad=0.01,
            augment=dict(colour=0.2, mirror=0.5),
        ),
        translations=dict(
            kind='translations',
            languages=TRANSLATION_ONLY + IMAGE_TEXT[1:],
            pivots=('en',),
            alpha=0.5,
            cap=1.0,
            batch_size=256,
            max_length=MAX_LENGTH,
            max_bad=0.01,
            # Translations proper, and captions of one photo in two languages; of the photos only
            # those of training. What Multi30K has of the test photos' captions is left out.
            sources=dict(
                multi30k=_common.source('translations/multi30k', exclude=(TEST,)),
                flickr8k=_common.source('captions/flickr8k'),
            ),
        ),
    )
    config.model = dict(
        kind='dual_encoder',
        dtype='float32',
        towers=dict(
            image=dict(
                kind='vit',
                image_size=IMAGE_SIZE,
                patches=(4, 2, 2, 2),
                stem=(32, 64, 128),
                layers=dict(width=256, depth=2, num_heads=4, mlp_ratio=2.0, dropout=0.2),
            ),
            text=dict(
                kind='transformer',
                max_length=MAX_LENGTH,
                layers=dict(width=128, depth=2, num_heads=4, mlp_ratio=2.0, dropout=0.1),
            ),
        ),
    )
    config.spaces = dict(
        image_text=_scale.space('image', 'text', embedding=128, temperature=0.05),
        text_text=_scale.space('text', embedding=128, temperature=0.05),
    )
    config.tasks = dict(
        image_text=dict(
            stream='captions',
            encode=(('image', 'image'), ('text', 'text')),
            space='image_text',
            weight=1.0,
            # ALIGN's label smoothing (arXiv:2102.05918).
            objective=_scale.softmax(label_smoothing=0.1),
        ),
        text_text=dict(
            stream='translations',
            encode=(('source', 'text'), ('target', 'text')),
            space='text_text',
            weight=1.0,
            # LaBSE's margin (arXiv:2007.01852).
            objective=_scale.softmax(margin=0.3),
        ),
    )
    config.optimizer = dict(
        **_scale.OPTIMIZER,
        kind='adamw',
        learning_rate=1e-3,
        warmup_steps=100,
        decay='cosine',
        b2=0.98,
        weight_decay=((_common.TRAINABLE, 0.2),),
        # A slow text head, as in the emoji config.
        multipliers=(('heads/text', 0.1),),
    )
    config.evaluators = {
        'image_text_dev': dict(
            kind='image_text',
            dataset='captions/flickr8k',
            split='dev',
            space='image_text',
            text='caption',
            captions='first',
            every=0,
        )
    }
    if 'align' in words:
        del config.tasks.text_text, config.spaces.text_text
    if 'tiny' in words:
        shrink(config)
    return config


def shrink(config: ConfigDict) -> None:
    """A size for tests, ours."""
    config.schedule = _common.tiny_schedule()
    config.optimizer.warmup_steps = 2
    config.tokenizer.vocab_size = 4000
    for space in config.spaces.values():
        space.embedding = 32
    for stream in config.streams.values():
        stream.batch_size = 16
    for tower in config.model.towers.values():
        tower.layers.update(width=32, depth=2, num_heads=2)
    config.model.towers.image.stem = (8, 8, 16)
