"""CLIP: image-text pairs, a vision transformer and a causal text transformer.

    clip:b32 clip:b16 clip:l14  the paper's ViT sizes
    clip:tiny                   seconds, for tests
    clip:b32,published          to start from published weights, with their vocabulary:
                                --config.init_from.model=FILE --config.tokenizer.path=TOKENIZER.JSON
                                (weights of LAION have the exact GELU: layers.activation=gelu)
    clip:b32,lit                the image tower is locked: --config.init_from.image=FILE

Radford et al. 2021, arXiv:2103.00020, tables 18 to 20; LiT: Zhai et al. 2022, arXiv:2111.07991.
What the paper does not state is marked as ours.
"""

from ml_collections import ConfigDict
from mural_jax.configs import _common, _scale

from mural_jax.models.sizes import VIT

IMAGE_SIZE = 224  # pixels
MAX_LENGTH = 77  # tokens: 76 and the mark of the start
# (ViT, patch, width and heads of the text tower, embedding, learning rate)
SIZES = {
    'b32': ('B', 32, 512, 8, 512, 5e-4),
    'b16': ('B', 16, 512, 8, 512, 5e-4),
    'l14': ('L', 14, 768, 12, 768, 4e-4),
}


def get_config(arg: str = 'b32') -> ConfigDict:
    """The config of the arguments above, joined by commas."""
    words = _common.words_of('clip', arg, 'b32 b16 l14 tiny', 'published lit')
    size = next((name for name in SIZES if name in words), 'b32')
    vit, patch, width, num_heads, embedding, learning_rate = SIZES[size]
    layers = dict(activation='quick_gelu', norm_eps=1e-5, remat='none', unroll=1)
    config = ConfigDict()
    config.seed = 0
    _scale.scale(config)
    config.languages = _common.LANGUAGES
    config.clamp = dict(lowest=0.01, highest=1.0)  # Logits are scaled by 100 at most.
    config.init_from = dict(model='', image='', text='')
    # 32 epochs of 400 M pairs in batches of 32,768.
    config.schedule = _scale.schedule(390625, 100, 5000, keep=3)
    config.optimizer = dict(
        **_scale.OPTIMIZER,
        kind='adamw',
        learning_rate=learning_rate,
        warmup_steps=2000,
        decay='cosine',
        b1=0.9,
        b2=0.98,
        eps=1e-6,
        weight_decay=((_common.TRAINABLE, 0.2),),
        clip_norm=0.0,
        multipliers=(('towers/image', 0.0),) if 'lit' in words else (),
    )
    # The paper has 49,408 pairs of bytes; a vocabulary of that size from the training texts: ours.
    config.tokenizer = dict(path='', vocab_size=49408, bos=True, eos=True)
    config.streams = dict(captions=_common.captions(IMAGE_SIZE, MAX_LENGTH, 32768))
    config.model = dict(
        kind='dual_encoder',
        dtype='bfloat16',  # Ours; the paper has float16.
        attention='xla',
        towers=dict(
            image=dict(
                kind='vit',
                image_size=IMAGE_SIZE,
                patches=(patch,),
                pool='class',
                pixels='clip',
                embedding_norm=True,
                patch_bias=False,
                layers=dict(**VIT[vit], **layers),
            ),
            text=dict(
                kind='transformer',
                max_length=MAX_LENGTH,
                causal=True,
                pool='eot',
                eot_id=3,
                layers=dict(width=width, depth=12, num_heads=num_heads, **layers),
            ),
        ),
    )
    config.spaces = dict(
        image_text=_scale.space('image', 'text', embedding=embedding, temperature=0.07)
    )
    config.tasks = dict(
        image_text=dict(
            stream='captions',
            encode=(('image', 'image'), ('text', 'text')),
            space='image_text',
            weight=1.0,
            objective=_scale.softmax(),
        )
    )
    config.evaluators = _common.evaluators('image_text')
    if 'published' in words:
        config.tokenizer = dict(kind='tokenizers', path='', vocab_size=49408)
        config.model.towers.text.eot_id = 49407
    if 'tiny' in words:
        shrink(config)
    return config


def shrink(config: ConfigDict) -> None:
    """A size for tests, ours."""
    config.schedule = _common.tiny_schedule()
    config.optimizer.warmup_steps = 2
    config.tokenizer.vocab_size = 4000
    config.streams.captions.update(batch_size=16, image_size=32, max_length=12)
    config.model.dtype = 'float32'
    config.spaces.image_text.embedding = 32
    config.model.towers.image.update(image_size=32, patches=(8,))
    config.model.towers.text.max_length = 12
    for tower in config.model.towers.values():
        tower.layers.update(width=32, depth=2, num_heads=2)
