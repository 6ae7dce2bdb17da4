"""Whole dual encoders against transformers and open_clip: both towers, heads, and the logits."""

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from pretrained.reference import agree, brought_over, pictures, scramble, torch

from mural_jax.models import functional
from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.models.heads import Identity, Linear
from mural_jax.models.layers import Layers
from mural_jax.models.text import Transformer
from mural_jax.models.vision import ViT

transformers = pytest.importorskip('transformers')
open_clip = pytest.importorskip('open_clip')

EOT = 99


def clip(activation: str) -> DualEncoder:
    """CLIP ViT-B/32, its vocabulary cut to 100."""
    rngs = nnx.Rngs(0)
    more: dict[str, Any] = dict(activation=activation, norm_eps=1e-5)
    image = ViT(
        rngs=rngs, layers=Layers(768, 12, 12, **more), image_size=224, patches=(32,),
        pool='class', embedding_norm=True, patch_bias=False,
    )  # fmt: skip
    text = Transformer(
        rngs=rngs, vocab_size=100, layers=Layers(512, 12, 8, **more), max_length=77,
        pool='eot', eot_id=EOT, causal=True,
    )  # fmt: skip
    heads = {
        'image': Linear(width=768, embedding=512, rngs=rngs),
        'text': Linear(width=512, embedding=512, rngs=rngs),
    }
    return DualEncoder(
        towers={'image': image, 'text': text}, heads={'image_text': heads},
        temperature={'image_text': 0.05}, bias={},
    )  # fmt: skip


def siglip(activation: str, vocab_size: int) -> DualEncoder:
    """SigLIP B/16. Its GELU is the tanh one in transformers, as trained, the exact in open_clip."""
    rngs = nnx.Rngs(0)
    layers = Layers(768, 12, 12, activation=activation)
    image = ViT(rngs=rngs, layers=layers, image_size=224, pool='map')
    text = Transformer(
        rngs=rngs, vocab_size=vocab_size, layers=layers, max_length=64, pool='last',
        attend_padding=True,
    )  # fmt: skip
    size: dict[str, Any] = dict(width=768, embedding=768, rngs=rngs)
    heads = {'image': Identity(**size), 'text': Linear(**size, bias=True)}
    return DualEncoder(
        towers={'image': image, 'text': text}, heads={'image_text': heads},
        temperature={'image_text': 0.1}, bias={'image_text': -10.0},
    )  # fmt: skip


def logits(split: tuple, image: np.ndarray, text: np.ndarray) -> tuple:
    """(image vectors, text vectors, scores of the first task), as the objectives have them."""

    @jax.jit
    def compute(params: dict, statistics: dict) -> tuple:
        model = functional.merge(split[0], params, statistics)
        x, y = (
            model.project('image_text', tower, model.encode(tower, inputs)).pooled_BD
            for tower, inputs in (('image', image), ('text', text))
        )
        scalars = model.scalars('image_text')
        return x, y, x @ y.T / scalars['temperature'] + scalars.get('bias', 0)

    return compute(*split[1:])


def same_as_hugging_face(split: tuple, image: np.ndarray, text: np.ndarray, out: Any) -> None:
    x, y, score = logits(split, image, text)
    agree(x, out.image_embeds)
    agree(y, out.text_embeds)
    agree(score, out.logits_per_image)


def clip_texts(length: int = 77) -> np.ndarray:
    text_BL = np.zeros((3, length), np.int32)
    for row, real in zip(text_BL, (length, 9, 2)):
        row[: real - 1] = np.random.default_rng(real).integers(0, EOT, real - 1)
        row[real - 1] = EOT
    return text_BL


def test_hugging_face_clip(tmp_path: Path) -> None:
    text = dict(vocab_size=100, eos_token_id=EOT, bos_token_id=98, pad_token_id=EOT)
    theirs = scramble(transformers.CLIPModel(transformers.CLIPConfig(text_config=text)))
    split, report = brought_over(clip('quick_gelu'), theirs, 'model', tmp_path)
    assert not [name for name in report.unplaced if 'position_ids' not in name]
    image, theirs_image = pictures(224)
    text_BL = clip_texts()
    out = theirs(torch.tensor(text_BL), theirs_image)
    same_as_hugging_face(split, image, text_BL, out)


def test_open_clip(tmp_path: Path) -> None:
    theirs = scramble(
        open_clip.model.CLIP(
            512, open_clip.CLIPVisionCfg(patch_size=32),
            open_clip.CLIPTextCfg(vocab_size=100),
        )
    )  # fmt: skip
    split, report = brought_over(clip('gelu'), theirs, 'model', tmp_path)
    assert report.unplaced == []
    image, theirs_image = pictures(224)
    text_BL = clip_texts()
    right_x, right_y, scale = theirs(theirs_image, torch.tensor(text_BL))[:3]
    x, y, score = logits(split, image, text_BL)
    agree(x, right_x)
    agree(y, right_y)
    agree(score, scale * right_x @ right_y.T)


def siglip_texts() -> np.ndarray:
    text_BL = np.random.default_rng(3).integers(2, 100, (3, 64)).astype(np.int32)
    text_BL[1, 5:] = 1
    text_BL[2, 1:] = 1
    return text_BL


def test_hugging_face_siglip(tmp_path: Path) -> None:
    text = dict(vocab_size=100, bos_token_id=1, eos_token_id=1)
    theirs = scramble(
        transformers.SiglipModel(transformers.SiglipConfig(text_config=text, vision_config={}))
    )
    split, report = brought_over(siglip('gelu_tanh', 100), theirs, 'model', tmp_path)
    assert not [name for name in report.unplaced if 'position_ids' not in name]
    image, theirs_image = pictures(224)
    text_BL = siglip_texts()
    out = theirs(torch.tensor(text_BL), theirs_image)
    same_as_hugging_face(split, image, text_BL, out)


def test_open_clip_siglip(tmp_path: Path) -> None:
    theirs = scramble(open_clip.create_model('ViT-B-16-SigLIP'))
    split, report = brought_over(siglip('gelu', 32000), theirs, 'model', tmp_path)
    assert report.unplaced == []
    image, theirs_image = pictures(224)
    text_BL = siglip_texts()
    right_x, right_y, scale, bias = theirs(theirs_image, torch.tensor(text_BL))
    x, y, score = logits(split, image, text_BL)
    agree(x, right_x)
    agree(y, right_y)
    agree(score, scale * right_x @ right_y.T + bias)
