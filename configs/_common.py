"""What the configs of the papers share: freely available data, and evaluators on it.

The papers' own data is not public. These configs read `emoji_cldr`, real images with names in over
a hundred languages, unless `streams.*.sources` and `evaluators` name other data.
"""

from typing import Any

from mural_jax.configs import _scale
from mural_jax.configs.emoji import IMAGE_TEXT, TRANSLATION_ONLY

LANGUAGES = dict(image_text=IMAGE_TEXT, translation_only=TRANSLATION_ONLY)
TRAINABLE = (
    'kernel|token_VD|position_LD'  # Parameters with weight decay: no norms, biases, scalars.
)


def words_of(name: str, arg: str, sizes: str, options: str = '') -> set[str]:
    """The words of a config's argument. Raises ValueError for an unknown word or two sizes."""
    words, known = set(arg.split(',')), [*sizes.split(), *options.split()]
    if not words <= set(known):
        raise ValueError(f'{name}:{arg} is not a config; there are {", ".join(known)}.')
    if len(words & set(sizes.split())) > 1:
        raise ValueError(f'{name}:{arg} has several sizes; give one of {", ".join(sizes.split())}.')
    return words


def source(dataset: str, split: str = 'train', **filters: Any) -> dict[str, Any]:
    """One source of a stream. All filters are off, but present, so that flags can set them."""
    off = dict(
        languages=(),
        min_side=0,
        max_aspect=0.0,
        min_words=0,
        max_words=0,
        max_images_per_text=0,
        max_length_ratio=0.0,
        image_distance=-1,
        text_distance=-1,
        exclude=(),
    )
    return dict(dataset=dataset, split=split, weight=1.0, filters=off | filters)


def captions(image_size: int, max_length: int, batch_size: int, **more: Any) -> dict[str, Any]:
    """A stream of images with one text each."""
    return dict(
        kind='captions',
        sources=dict(main=source('emoji_cldr/pictures')),
        languages=IMAGE_TEXT,
        alpha=0.5,
        cap=1.0,
        max_bad=0.01,
        image_size=image_size,
        max_length=max_length,
        batch_size=batch_size,
        **more,
    )


def translations(max_length: int, batch_size: int) -> dict[str, Any]:
    """A stream of translation pairs, from English into all other languages."""
    return dict(
        kind='translations',
        sources=dict(main=source('emoji_cldr/translations')),
        alpha=0.5,
        cap=1.0,
        max_bad=0.01,
        pivots=('en',),
        languages=TRANSLATION_ONLY + IMAGE_TEXT[1:],
        max_length=max_length,
        batch_size=batch_size,
    )


def evaluators(text_space: str) -> dict[str, Any]:
    """Retrieval of held-out images and names; translations are compared in `text_space`."""
    return {
        'image_text_held_out': dict(
            kind='image_text',
            dataset='emoji_cldr/pictures',
            split='test',
            space='image_text',
            captions='first',
            every=0,
        ),
        'text_text_held_out': dict(
            kind='text_text',
            dataset='emoji_cldr/translations',
            split='test',
            space=text_space,
            every=0,
        ),
    }


def tiny_schedule() -> dict[str, int]:
    """The schedule of all sizes for tests (ours)."""
    return _scale.schedule(12, 2, 4, keep=2)
