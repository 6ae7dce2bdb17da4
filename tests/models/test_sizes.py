"""Encoders at their published sizes have the published number of parameters (shapes alone)."""

import math
from collections.abc import Callable
from pathlib import Path

import jax
import pytest
from flax import nnx

from mural_jax.config.load import load_config
from mural_jax.models import functional
from mural_jax.models.convnets import EfficientNet, ResNet
from mural_jax.models.layers import Layers
from mural_jax.models.sizes import BERT, EFFICIENTNET, VIT, XLM_R
from mural_jax.models.text import Bert
from mural_jax.models.vision import ViT
from mural_jax.runs.run import Run


def count_parameters(build: Callable[[nnx.Rngs], nnx.Module]) -> int:
    params = functional.split(nnx.eval_shape(lambda: build(nnx.Rngs(0))))[1]
    return sum(math.prod(value.shape) for value in jax.tree.leaves(params))


def is_documented(published: int) -> bool:
    """Whether the table in docs/models.md has the number."""
    page = Path(__file__).parents[2] / 'docs' / 'models.md'
    return f' {published:,} ' in page.read_text(encoding='utf-8')


def count_classifier(width: int) -> int:
    """Parameters of a classifier of 1,000 classes, which our towers do not have."""
    return width * 1000 + 1000


# Counts of timm's models with their classifiers; torchvision's are equal.
@pytest.mark.parametrize(
    ('size', 'published'),
    [
        ('B0', 5_288_548),
        ('B1', 7_794_184),
        ('B2', 9_109_994),
        ('B3', 12_233_232),
        ('B4', 19_341_616),
        ('B5', 30_389_784),
        ('B6', 43_040_704),
        ('B7', 66_347_960),
        ('L2', 480_309_308),
    ],
)
def test_efficientnet_has_published_size(size: str, published: int) -> None:
    width = nnx.eval_shape(lambda: EfficientNet(rngs=nnx.Rngs(0), **EFFICIENTNET[size])).width
    counted = count_parameters(lambda rngs: EfficientNet(rngs=rngs, **EFFICIENTNET[size]))
    assert counted + count_classifier(width) == published
    assert is_documented(published)


def test_resnet_has_published_size() -> None:
    assert count_parameters(lambda rngs: ResNet(rngs=rngs)) + count_classifier(2048) == 25_557_032
    assert is_documented(25_557_032)


# Counts of timm's models; H and those with pool='map' are published without a classifier.
@pytest.mark.parametrize(
    ('size', 'patch', 'pool', 'published'),
    [
        ('Ti', 16, 'class', 5_717_416),
        ('S', 16, 'class', 22_050_664),
        ('B', 16, 'class', 86_567_656),
        ('B', 32, 'class', 88_224_232),
        ('L', 16, 'class', 304_326_632),
        ('H', 14, 'class', 630_764_800),
        ('B', 16, 'map', 92_884_224),
        ('So400m', 14, 'map', 427_680_704),
    ],
)
def test_vit_has_published_size(size: str, patch: int, pool: str, published: int) -> None:
    layers = Layers(**VIT[size])
    counted = count_parameters(
        lambda rngs: ViT(rngs=rngs, layers=layers, image_size=224, patches=(patch,), pool=pool)
    )
    without_classifier = size == 'H' or pool == 'map'
    assert counted + (0 if without_classifier else count_classifier(layers.width)) == published
    assert is_documented(published)


# Counts of Hugging Face's BertModel and XLMRobertaModel, poolers included.
@pytest.mark.parametrize(
    ('layers', 'vocab_size', 'options', 'published'),
    [
        (BERT['base'], 30522, {}, 109_482_240),
        (BERT['large'], 30522, {}, 335_141_888),
        (XLM_R['base'], 250002, dict(num_segments=1, position_offset=2), 278_043_648),
        (XLM_R['large'], 250002, dict(num_segments=1, position_offset=2), 559_890_432),
    ],
)
def test_bert_has_published_size(
    layers: dict, vocab_size: int, options: dict, published: int
) -> None:
    counted = count_parameters(
        lambda rngs: Bert(
            rngs=rngs,
            vocab_size=vocab_size,
            layers=Layers(**layers),
            max_length=512,
            pool='pooler',
            **options,
        )
    )
    assert counted == published
    assert is_documented(published)


# Counts of OpenAI's CLIP and Google's SigLIP as a whole: towers, heads, temperature, bias.
@pytest.mark.parametrize(
    ('name', 'published'),
    [
        ('clip:b32', 151_277_313),
        ('clip:b16', 149_620_737),
        ('clip:l14', 427_616_513),
        ('siglip:b16', 203_155_970),
    ],
)
def test_whole_model_has_published_size(name: str, published: int) -> None:
    run = Run.of(load_config(name, []))
    _, params, _ = run.build_model(run.tokenizer.vocab_size, abstract=True)
    assert sum(math.prod(value.shape) for value in jax.tree.leaves(params)) == published
    assert is_documented(published)
