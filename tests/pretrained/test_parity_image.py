"""Outputs and gradients of image towers, compared with timm and transformers."""

from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import ALL
from flax import nnx
from pretrained.reference import (
    DEPTH,
    assert_agree,
    assert_gradients_agree,
    encode,
    make_images,
    randomize,
    transfer_weights,
)

from mural_jax.models import functional
from mural_jax.models.convnets import EfficientNet, ResNet
from mural_jax.models.layers import Layers
from mural_jax.models.sizes import EFFICIENTNET, VIT
from mural_jax.models.vision import ViT

timm = pytest.importorskip('timm')
transformers = pytest.importorskip('transformers')

SETTINGS = {  # by name of timm
    'efficientnet_b0': dict(padding='symmetric', norm_eps=1e-5),
    'tf_efficientnet_b0.ns_jft_in1k': {},
    'tf_efficientnet_b3.ns_jft_in1k': {},
}


# B3 differs from B0 in its sizes alone, and the gradient below is that of training.
MODES = [('tf_efficientnet_b0.ns_jft_in1k', False)]
ALL_MODES = [(name, training) for name in SETTINGS for training in (False, True)]


def build_efficientnet(name: str, **more) -> EfficientNet:
    size = EFFICIENTNET[name.split('_')[-1 if name.startswith('eff') else 2][:2].upper()]
    return EfficientNet(rngs=nnx.Rngs(0), pixels='half', **size, **SETTINGS[name], **more)


@pytest.mark.parametrize(('name', 'training'), ALL_MODES if ALL else MODES)
def test_efficientnet_agrees_with_timm(name: str, training: bool, tmp_path: Path) -> None:
    theirs = randomize(timm.create_model(name))
    theirs.train(training)
    ours = build_efficientnet(name, drop_path=0.0)
    split, report = transfer_weights(ours, theirs, 'image', tmp_path)
    assert set(report.unplaced) - set(theirs.state_dict()) == set()
    assert all('num_batches' in n or 'classifier' in n for n in report.unplaced)
    image, theirs_image = make_images(64, 4)
    encoding = encode(split, image, training)
    features = theirs.forward_features(theirs_image)
    assert_agree(encoding.pooled_BD, features.mean((2, 3)))
    assert_agree(encoding.tokens_BLD, features.flatten(2).mT)


def test_efficientnet_without_head_pools_the_last_blocks(tmp_path: Path) -> None:
    name = 'efficientnet_b0'
    theirs = randomize(timm.create_model(name))
    ours = build_efficientnet(name, head=False)
    split, report = transfer_weights(ours, theirs, 'image', tmp_path)
    assert 'conv_head.weight' in report.unplaced
    image, theirs_image = make_images(64)
    x = theirs.blocks(theirs.bn1(theirs.conv_stem(theirs_image)))
    assert_agree(encode(split, image).pooled_BD, x.mean((2, 3)))


@pytest.mark.parametrize('training', [False, True] if ALL else [False])
def test_resnet_agrees_with_timm(training: bool, tmp_path: Path) -> None:
    theirs = randomize(timm.create_model('resnet50'))
    theirs.train(training)
    split, _ = transfer_weights(ResNet(rngs=nnx.Rngs(0), pixels='half'), theirs, 'image', tmp_path)
    image, theirs_image = make_images(64, 4)
    encoding = encode(split, image, training)
    assert_agree(encoding.tokens_BLD, theirs.forward_features(theirs_image).flatten(2).mT)


B16 = Layers(**VIT['B'] | {'depth': DEPTH}, activation='gelu')


def build_vit(image_size: int = 224, **more) -> ViT:
    settings = dict(layers=B16, image_size=image_size, pool='class') | more
    return ViT(rngs=nnx.Rngs(0), **settings)


def test_vit_agrees_with_timm(tmp_path: Path) -> None:
    theirs = randomize(timm.create_model('vit_base_patch16_224', depth=DEPTH))
    split, report = transfer_weights(build_vit(), theirs, 'image', tmp_path)
    assert set(report.unplaced) == {'head.weight', 'head.bias'}
    image, theirs_image = make_images(224, 2)
    encoding = encode(split, image)
    features = theirs.forward_features(theirs_image)
    assert_agree(encoding.tokens_BLD, features)
    assert_agree(encoding.pooled_BD, features[:, 0])


def test_vit_agrees_with_hugging_face(tmp_path: Path) -> None:
    config = transformers.ViTConfig(num_hidden_layers=2, layer_norm_eps=1e-6)
    theirs = randomize(transformers.ViTModel(config))
    layers = Layers(768, 2, 12, activation='gelu')
    split, report = transfer_weights(build_vit(layers=layers), theirs, 'image', tmp_path)
    assert set(report.unplaced) == {'pooler.dense.weight', 'pooler.dense.bias'}
    image, theirs_image = make_images(224, 2)
    assert_agree(encode(split, image).tokens_BLD, theirs(theirs_image).last_hidden_state)


def test_positions_are_interpolated_as_timm_does(tmp_path: Path) -> None:
    settings = dict(embed_dim=64, depth=2, num_heads=4)
    theirs = randomize(timm.create_model('vit_tiny_patch16_224', **settings))
    layers = Layers(64, 2, 4, activation='gelu')
    split, report = transfer_weights(build_vit(288, layers=layers), theirs, 'image', tmp_path)
    assert any('14x14 to 18x18' in notice for notice in report.notices)
    theirs.set_input_size((288, 288))
    image, theirs_image = make_images(288, 2)
    assert_agree(encode(split, image).tokens_BLD, theirs.forward_features(theirs_image))


def test_gradient_of_vit_agrees_with_timm(tmp_path: Path) -> None:
    theirs = randomize(timm.create_model('vit_base_patch16_224', depth=DEPTH))
    tower = build_vit()
    split, _ = transfer_weights(tower, theirs, 'image', tmp_path)
    image, theirs_image = make_images(224, 2)
    gradient, pooled_BD = compute_gradient(split, image, training=False)
    expected_BD = theirs.forward_features(theirs_image)[:, 0]
    assert_agree(pooled_BD, expected_BD)
    (expected_BD**2).mean().backward()
    assert_gradients_agree(gradient, theirs, tower, 'image', tmp_path)


def test_gradient_of_efficientnet_agrees_with_timm(tmp_path: Path) -> None:
    """In training mode, where gradients pass through the statistics of batch norms."""
    theirs = randomize(timm.create_model('efficientnet_b0'))
    theirs.train()
    tower = build_efficientnet('efficientnet_b0', drop_path=0.0)
    split, _ = transfer_weights(tower, theirs, 'image', tmp_path)
    image, theirs_image = make_images(64, 4)
    gradient, pooled_BD = compute_gradient(split, image, training=True)
    expected_BD = theirs.forward_features(theirs_image).mean((2, 3))
    assert_agree(pooled_BD, expected_BD)
    (expected_BD**2).mean().backward()
    assert_gradients_agree(gradient, theirs, tower, 'image', tmp_path)


def compute_gradient(split: tuple, image: np.ndarray, training: bool) -> tuple[dict, jax.Array]:
    """(gradient of the mean square of the pooled vectors, these vectors)."""

    def loss(params: dict) -> tuple[jax.Array, jax.Array]:
        model = functional.merge(split[0], params, split[2])
        keys = jax.random.split(jax.random.key(0), len(image))
        pooled_BD = model(image, keys if training else None).pooled_BD
        return (pooled_BD**2).mean(), pooled_BD

    return jax.jit(jax.grad(loss, has_aux=True))(split[1])
