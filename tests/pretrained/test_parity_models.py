"""Vectors and scores of whole dual encoders, compared with transformers and open_clip."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from pretrained.reference import (
    DEPTH,
    assert_agree,
    make_images,
    randomize,
    torch,
    transfer_weights,
)

from mural_jax.models import functional
from mural_jax.models.dual_encoder import DualEncoder, build_spaces
from mural_jax.models.layers import Layers
from mural_jax.models.spaces import Space
from mural_jax.models.text import Transformer
from mural_jax.models.vision import ViT

transformers = pytest.importorskip('transformers')
open_clip = pytest.importorskip('open_clip')

EOT = 99


def build_clip(activation: str) -> DualEncoder:
    """Returns CLIP ViT-B/32 with DEPTH layers and a vocabulary of 100 tokens."""
    rngs = nnx.Rngs(0)
    more: dict[str, Any] = dict(activation=activation, norm_eps=1e-5)
    image = ViT(
        rngs=rngs,
        layers=Layers(768, DEPTH, 12, **more),
        image_size=224,
        patches=(32,),
        pool='class',
        embedding_norm=True,
        patch_bias=False,
    )
    text = Transformer(
        rngs=rngs,
        vocab_size=100,
        layers=Layers(512, DEPTH, 8, **more),
        max_length=77,
        pool='eot',
        eot_id=EOT,
        causal=True,
    )
    space = Space(sides=('image', 'text'), embedding=512, temperature=0.05)
    return build_model(image, text, space)


def build_siglip(activation: str, vocab_size: int) -> DualEncoder:
    """Returns SigLIP B/16 with DEPTH layers.

    Its GELU is the tanh approximation in transformers, as it was trained, and exact in open_clip.
    """
    rngs = nnx.Rngs(0)
    layers = Layers(768, DEPTH, 12, activation=activation)
    image = ViT(rngs=rngs, layers=layers, image_size=224, pool='map')
    text = Transformer(
        rngs=rngs,
        vocab_size=vocab_size,
        layers=layers,
        max_length=64,
        pool='last',
        attend_padding=True,
    )
    heads = {'image': {'kind': 'identity'}, 'text': {'kind': 'linear', 'bias': True}}
    space = Space(sides=('image', 'text'), embedding=768, heads=heads, temperature=0.1, bias=-10.0)
    return build_model(image, text, space)


def build_model(image: ViT, text: Transformer, space: Space) -> DualEncoder:
    widths = {'image': image.width, 'text': text.width}
    return DualEncoder(
        towers={'image': image, 'text': text},
        spaces=build_spaces({'image_text': space}, widths, nnx.Rngs(0)),
    )


def compute_scores(split: tuple, image: np.ndarray, text: np.ndarray) -> tuple:
    """Returns (image vectors, text vectors, scores by temperature and bias)."""

    @jax.jit
    def compute(params: dict, statistics: dict) -> tuple:
        model = functional.merge(split[0], params, statistics)
        x, y = (
            model.represent('image_text', tower, model.encode(tower, inputs))
            for tower, inputs in (('image', image), ('text', text))
        )
        scalars = model.scalars('image_text')
        return x, y, x @ y.T / scalars['temperature'] + scalars.get('bias', 0)

    return compute(*split[1:])


def assert_agrees_with_hugging_face(
    split: tuple, image: np.ndarray, text: np.ndarray, out: Any
) -> None:
    x, y, score = compute_scores(split, image, text)
    assert_agree(x, out.image_embeds)
    assert_agree(y, out.text_embeds)
    assert_agree(score, out.logits_per_image)


def make_clip_texts(length: int = 77) -> np.ndarray:
    """Returns texts of several lengths that end with the token EOT."""
    text_BL = np.zeros((3, length), np.int32)
    for row, real in zip(text_BL, (length, 9, 2)):
        row[: real - 1] = np.random.default_rng(real).integers(0, EOT, real - 1)
        row[real - 1] = EOT
    return text_BL


def test_clip_agrees_with_hugging_face(tmp_path: Path) -> None:
    text = dict(vocab_size=100, eos_token_id=EOT, bos_token_id=98, pad_token_id=EOT)
    depth = dict(num_hidden_layers=DEPTH)
    config = transformers.CLIPConfig(text_config=text | depth, vision_config=depth)
    theirs = randomize(transformers.CLIPModel(config))
    split, report = transfer_weights(build_clip('quick_gelu'), theirs, 'model', tmp_path)
    assert not [name for name in report.unplaced if 'position_ids' not in name]
    image, theirs_image = make_images(224)
    text_BL = make_clip_texts()
    out = theirs(torch.tensor(text_BL), theirs_image)
    assert_agrees_with_hugging_face(split, image, text_BL, out)


def test_clip_agrees_with_open_clip(tmp_path: Path) -> None:
    theirs = randomize(
        open_clip.model.CLIP(
            512,
            open_clip.CLIPVisionCfg(patch_size=32, layers=DEPTH),
            open_clip.CLIPTextCfg(vocab_size=100, layers=DEPTH),
        )
    )
    split, report = transfer_weights(build_clip('gelu'), theirs, 'model', tmp_path)
    assert report.unplaced == []
    image, theirs_image = make_images(224)
    text_BL = make_clip_texts()
    expected_x, expected_y, scale = theirs(theirs_image, torch.tensor(text_BL))[:3]
    x, y, score = compute_scores(split, image, text_BL)
    assert_agree(x, expected_x)
    assert_agree(y, expected_y)
    assert_agree(score, scale * expected_x @ expected_y.T)


def make_siglip_texts() -> np.ndarray:
    """Returns texts of several lengths, padded with the token 1."""
    text_BL = np.random.default_rng(3).integers(2, 100, (3, 64)).astype(np.int32)
    text_BL[1, 5:] = 1
    text_BL[2, 1:] = 1
    return text_BL


def test_siglip_agrees_with_hugging_face(tmp_path: Path) -> None:
    text = dict(vocab_size=100, bos_token_id=1, eos_token_id=1)
    depth = dict(num_hidden_layers=DEPTH)
    config = transformers.SiglipConfig(text_config=text | depth, vision_config=depth)
    theirs = randomize(transformers.SiglipModel(config))
    split, report = transfer_weights(build_siglip('gelu_tanh', 100), theirs, 'model', tmp_path)
    assert not [name for name in report.unplaced if 'position_ids' not in name]
    image, theirs_image = make_images(224)
    text_BL = make_siglip_texts()
    out = theirs(torch.tensor(text_BL), theirs_image)
    assert_agrees_with_hugging_face(split, image, text_BL, out)


def test_siglip_agrees_with_open_clip(tmp_path: Path) -> None:
    theirs = open_clip.create_model('ViT-B-16-SigLIP')
    for holder, name in ((theirs.visual.trunk, 'blocks'), (theirs.text.transformer, 'resblocks')):
        setattr(holder, name, getattr(holder, name)[:DEPTH])
    randomize(theirs)
    split, report = transfer_weights(build_siglip('gelu', 32000), theirs, 'model', tmp_path)
    assert report.unplaced == []
    image, theirs_image = make_images(224)
    text_BL = make_siglip_texts()
    expected_x, expected_y, scale, bias = theirs(theirs_image, torch.tensor(text_BL))
    x, y, score = compute_scores(split, image, text_BL)
    assert_agree(x, expected_x)
    assert_agree(y, expected_y)
    assert_agree(score, scale * expected_x @ expected_y.T + bias)
