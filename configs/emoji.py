"""MURAL on emoji: real images named in over a hundred languages, minutes on two CPU cores.

    emoji            MURAL: image-text pairs in 12 languages, translation pairs in 20 others
    emoji:align      ALIGN: the image-text task alone, for as many steps
    emoji:shuffled   the control: each text gets the translation of another text
    emoji:decomposed MURAL over one transformer for patches and for words (VLDeformer)
    emoji:tiny       a size for tests, seconds; combines with the others: emoji:align,tiny

Jain et al. 2021, arXiv:2109.05125. The mechanism and the losses are the paper's; sizes, steps and
rates are this project's own, chosen for two cores and six minutes.
"""

from ml_collections import ConfigDict
from mural_jax.configs import _scale

IMAGE_TEXT = ('en', 'de', 'fr', 'es', 'it', 'pt', 'ru', 'zh', 'ja', 'ar', 'tr', 'pl')
# be, ga, uz and tg are among the paper's eight under-resourced languages.
_NAMES = 'be ga uz tg mt yo zu xh ha ig so qu sw cy am si ne km hy ka'
TRANSLATION_ONLY = tuple(_NAMES.split())

IMAGE_SIZE = 64  # pixels
MAX_LENGTH = 10  # tokens; 95% of the names and keyword lists are shorter


def get_config(arg: str = 'mural') -> ConfigDict:
    """The config of the arguments above, joined by commas."""
    words = arg.split(',')
    if not set(words) <= {'mural', 'align', 'shuffled', 'decomposed', 'tiny'}:
        raise ValueError(
            f'emoji:{arg} is not a config; there are mural, align, shuffled, decomposed, tiny.'
        )
    config = ConfigDict()
    config.seed = 0
    config.clamp = dict(lowest=0.01, highest=0.15)
    _scale.scale(config)
    config.languages = dict(image_text=IMAGE_TEXT, translation_only=TRANSLATION_ONLY)
    config.schedule = _scale.schedule(1500, 50, 250, keep=2)
    config.init_from = dict(model='', image='', text='')
    config.tokenizer = dict(path='', vocab_size=40000)
    config.streams = dict(
        captions=dict(
            kind='captions',
            languages=IMAGE_TEXT,
            batch_size=128,
            alpha=0.5,
            sources=dict(emoji=dict(dataset='emoji_cldr/pictures', split='train', weight=1.0)),
            max_length=MAX_LENGTH,
            image_size=IMAGE_SIZE,
            text=dict(kinds=dict(name=0.5, keyword=0.5), joined=dict(keyword=3)),
            # Mirroring spoils emoji with letters and arrows, and helps all others more.
            augment=dict(shift=0.12, zoom=0.2, rotate=15.0, colour=0.3, mirror=0.5),
        ),
        # From English into all other languages, as in LaBSE; MURAL's translation pairs cover the
        # languages with images too.
        translations=dict(
            kind='translations',
            sources=dict(emoji=dict(dataset='emoji_cldr/translations', split='train', weight=1.0)),
            languages=TRANSLATION_ONLY + IMAGE_TEXT[1:],
            pivots=('en',),
            batch_size=256,
            alpha=0.5,
            max_length=MAX_LENGTH,
            text=dict(kinds=dict(name=0.6, keyword=0.4), joined=dict(keyword=4)),
            shuffle_pairs='shuffled' in words,
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
                pixels='white',
                layers=dict(width=256, depth=1, num_heads=4, mlp_ratio=2.0, dropout=0.2),
            ),
            text=dict(
                kind='transformer',
                max_length=MAX_LENGTH,
                layers=dict(width=128, depth=1, num_heads=4, mlp_ratio=2.0),
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
        learning_rate=2e-3,
        warmup_steps=60,
        decay='cosine',
        b2=0.98,
        weight_decay=(('kernel|token_VD', 0.2),),
        # A text head that learns slowly stays nearly orthogonal, so what translations align in the
        # text tower stays aligned in the space of the images.
        multipliers=(('heads/text', 0.1),),
    )
    images = dict(
        kind='image_text',
        dataset='emoji_cldr/pictures',
        space='image_text',
        captions='first',
        every=0,
    )
    config.evaluators = {
        'image_text_held_out': dict(images, split='test'),
        'image_text_seen': dict(images, split='train'),
        'text_text_held_out': dict(
            kind='text_text',
            dataset='emoji_cldr/translations',
            split='test',
            space='text_text',
            every=0,
        ),
    }
    if 'decomposed' in words:
        _decompose(config)
    if 'align' in words:
        del config.tasks.text_text, config.spaces.text_text
        config.evaluators['text_text_held_out'].space = 'image_text'
    if 'tiny' in words:
        _shrink(config)
    return config


def _decompose(config: ConfigDict) -> None:
    """One transformer for patches of 16 pixels and for words; sizes, steps and rates are ours."""
    config.init_from = dict(model='')
    config.schedule.num_steps = 1000
    config.optimizer.learning_rate = 1e-3
    config.streams.captions.update(
        kind='regions', regions=dict(by='patches', most=16, side=16, size=0, geometry=5)
    )
    config.model.update(kind='one_stream', num_classes=1)
    config.model.towers = dict(
        fusion=dict(
            kind='fusion',
            max_length=MAX_LENGTH,
            feature_size=768,
            geometry=5,
            pool='mean',
            layers=dict(width=128, depth=2, num_heads=4, mlp_ratio=2.0, dropout=0.1),
        )
    )
    config.tasks.image_text.encode = (('regions', 'image'), ('text', 'text'))


def _shrink(config: ConfigDict) -> None:
    config.schedule.update(num_steps=12, log_every=2, checkpoint_every=4)
    config.optimizer.warmup_steps = 2
    config.tokenizer.vocab_size = 4000
    for space in config.spaces.values():
        space.embedding = 32
    for stream in config.streams.values():
        stream.batch_size = 16
    for tower in config.model.towers.values():
        tower.layers.update(width=32, depth=2, num_heads=2, dropout=0.1)
    if 'image' in config.model.towers:
        config.model.towers.image.stem = (8, 8, 16)
