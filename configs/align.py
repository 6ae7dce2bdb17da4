"""ALIGN: image-text pairs, EfficientNet and BERT from scratch.

    align:base           EfficientNet-B5 and BERT-base, the baseline of its table 8
    align:l2             EfficientNet-L2 and BERT-large, the reported model
    align:tiny           seconds, for tests
    align:base,finetune  fine-tunes a run, with the vocabulary of that run:
                         --config.init_from.model=RUN --config.tokenizer.path=RUN/vocabulary.model

Jia et al. 2021, arXiv:2102.05918. What the paper does not state is marked as ours.
"""

from ml_collections import ConfigDict
from mural_jax.configs import _common, _scale

from mural_jax.models.sizes import BERT, EFFICIENTNET

IMAGE_SIZE = 289  # pixels, cropped from 346
MAX_LENGTH = 64  # wordpieces


def get_config(arg: str = 'base') -> ConfigDict:
    """The config of the arguments above, joined by commas."""
    words = _common.words_of('align', arg, 'base l2 tiny', 'finetune')
    large = 'l2' in words
    config = ConfigDict()
    config.seed = 0
    _scale.scale(config)
    config.languages = _common.LANGUAGES
    config.clamp = dict(lowest=0.001, highest=2.0)  # Ours: wide, the paper has none.
    config.init_from = dict(model='', image='', text='')
    # 1,024 cores of 16 pairs each; 1.2 M steps are about 12 epochs of 1.8 B pairs.
    config.schedule = _scale.schedule(1200000, 100, 5000, keep=3)
    config.optimizer = dict(
        **_scale.OPTIMIZER,
        kind='lamb',
        learning_rate=1e-3,
        warmup_steps=10000,
        decay='linear',
        eps=1e-6,
        weight_decay=((_common.TRAINABLE, 1e-5),),
        clip_norm=0.0,
        multipliers=(),
    )
    # 100k wordpieces of the training texts; the marks are BERT's [CLS] and [SEP].
    config.tokenizer = dict(path='', vocab_size=100000, bos=True, eos=True)
    config.streams = dict(
        captions=_common.captions(
            IMAGE_SIZE, MAX_LENGTH, 16384, resize=346, augment=dict(crop=True, mirror=0.5)
        )
    )
    config.model = dict(
        kind='dual_encoder',
        dtype='bfloat16',  # Ours.
        attention='xla',
        towers=dict(
            # Global pooling without the 1x1 convolution of the classification head.
            image=dict(
                kind='efficientnet',
                **EFFICIENTNET['L2' if large else 'B5'],
                drop_path=0.2,
                head=False,
                remat='none',
            ),
            # Dropout 0.1 is BERT's.
            text=dict(
                kind='bert',
                max_length=MAX_LENGTH,
                pool='first',
                layers=dict(
                    **BERT['large' if large else 'base'], dropout=0.1, remat='none', unroll=1
                ),
            ),
        ),
    )
    config.spaces = dict(
        image_text=_scale.space(
            'image',
            'text',
            embedding=1376 if large else 640,
            temperature=1.0,
            # "A fully connected layer with linear activation" on the text tower; on the image
            # tower only where it is not as wide as the embedding.
            heads=dict(
                image=dict(kind='identity') if large else dict(kind='linear', bias=True),
                text=dict(kind='linear', bias=True),
            ),
        )
    )
    config.tasks = dict(
        image_text=dict(
            stream='captions',
            encode=(('image', 'image'), ('text', 'text')),
            space='image_text',
            weight=1.0,
            objective=_scale.softmax(label_smoothing=0.1),
        )
    )
    config.evaluators = _common.evaluators('image_text')
    if 'finetune' in words:
        # 3,000 steps are for Flickr30K; MSCOCO has 6,000. Checkpoints as often: ours.
        config.schedule = _scale.schedule(3000, 50, 500, keep=3)
        config.optimizer.update(learning_rate=1e-5, warmup_steps=0)
        config.streams.captions.batch_size = 2048
    if 'tiny' in words:
        shrink(config)
    return config


def shrink(config: ConfigDict) -> None:
    """A size for tests, ours."""
    config.schedule = _common.tiny_schedule()
    config.optimizer.warmup_steps = min(2, config.optimizer.warmup_steps)
    config.tokenizer.vocab_size = 4000
    for stream in config.streams.values():
        stream.update(batch_size=16, max_length=12)
    config.streams.captions.update(image_size=32, resize=40)
    config.model.dtype = 'float32'
    for space in config.spaces.values():
        space.embedding = 32
    config.model.towers.image.update(width_factor=0.2, depth_factor=0.5)
    config.model.towers.text.max_length = 12
    config.model.towers.text.layers.update(width=32, depth=2, num_heads=2)
