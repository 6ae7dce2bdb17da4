"""SigLIP: image-text pairs, every pair of a batch judged by itself.

    siglip:b16            ViT-B/16 and a text transformer of the same size
    siglip:tiny           seconds, for tests
    siglip:b16,published  to start from published weights, with their vocabulary:
                          --config.init_from.model=FILE --config.tokenizer.path=SENTENCEPIECE.MODEL
    siglip:b16,lit        the image tower is locked: --config.init_from.image=FILE

Zhai et al. 2023, arXiv:2303.15343, and the code of big_vision: sigmoid loss, first temperature and
bias, towers, pooling, cosine from 1e-3, gradients clipped at 1. The rest is marked as ours.
"""

from ml_collections import ConfigDict
from mural_jax.configs import _common, _scale, clip

from mural_jax.models.sizes import VIT

IMAGE_SIZE = 224  # pixels
MAX_LENGTH = 64  # tokens


def get_config(arg: str = 'b16') -> ConfigDict:
    """The config of the arguments above, joined by commas."""
    words = _common.words_of('siglip', arg, 'b16 tiny', 'published lit')
    layers = dict(**VIT['B'], activation='gelu_tanh', norm_eps=1e-6, remat='none', unroll=1)
    config = clip.get_config('lit' if 'lit' in words else 'b16')
    # Steps are CLIP's, 32 epochs of 400 M pairs: ours.
    config.clamp = dict(lowest=0.001, highest=1.0)  # Ours: wide, the paper has none.
    config.optimizer.update(
        # A second moment of 0.95 keeps large batches stable, says the paper; it has Adafactor, here
        # is AdamW. Decay and warm-up: ours.
        learning_rate=1e-3,
        b2=0.95,
        eps=1e-8,
        warmup_steps=10000,
        weight_decay=((_common.TRAINABLE, 1e-4),),
        clip_norm=1.0,
    )
    # 32,000 pieces, one mark at the end.
    config.tokenizer = dict(path='', vocab_size=32000, eos=True)
    config.streams.captions = _common.captions(IMAGE_SIZE, MAX_LENGTH, 32768)
    config.model.towers = dict(
        image=dict(
            kind='vit',
            image_size=IMAGE_SIZE,
            patches=(16,),
            pool='map',
            pixels='half',
            layers=layers,
        ),
        # Padding is read as text.
        text=dict(
            kind='transformer',
            max_length=MAX_LENGTH,
            pool='last',
            attend_padding=True,
            layers=layers,
        ),
    )
    config.spaces.image_text = _scale.space(
        'image',
        'text',
        embedding=768,
        temperature=0.1,
        heads=dict(image=dict(kind='identity'), text=dict(kind='linear', bias=True)),
        bias=-10.0,
    )
    config.tasks.image_text.objective = _scale.sigmoid()
    if 'published' in words:
        config.tokenizer = dict(kind='siglip', path='', vocab_size=32000)
    if 'tiny' in words:
        clip.shrink(config)
    return config
