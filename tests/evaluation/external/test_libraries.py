"""Models of other libraries: their vectors, and which weights are read."""

import json
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data.datasets import draw_image, encode_image
from evaluation.external.published import (
    IMAGE_SIZE,
    TEXTS,
    WORDS,
    Trap,
    import_torch,
    make_clip,
    make_siglip,
)

from mural_jax.evaluation.external import libraries
from mural_jax.evaluation.split_data import SplitExamples
from mural_jax.types import UserError


@pytest.fixture(scope='module')
def torch() -> Any:
    return import_torch()


@pytest.fixture(scope='module')
def clip(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp('clip'))


@pytest.fixture(scope='module')
def siglip(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_siglip(tmp_path_factory.mktemp('siglip'))


@pytest.fixture(scope='module')
def open_clip_folder(torch: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a random model of open_clip, which also knows it by the name tiny-of-test."""
    open_clip = pytest.importorskip('open_clip')
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp('open_clip')
    vision = {'image_size': IMAGE_SIZE, 'layers': 2, 'width': 64, 'patch_size': 8}
    text = {'context_length': 16, 'vocab_size': 49408, 'width': 16, 'heads': 2, 'layers': 2}
    config = {'embed_dim': 12, 'vision_cfg': vision, 'text_cfg': text}
    (folder / 'open_clip_config.json').write_text(json.dumps({'model_cfg': config}))
    (folder / 'tiny-of-test.json').write_text(json.dumps(config))
    open_clip.add_model_config(folder / 'tiny-of-test.json')
    model = open_clip.create_model('tiny-of-test')
    save_file(model.state_dict(), folder / 'open_clip_model.safetensors')
    return folder


def make_examples(count: int) -> SplitExamples:
    pngs = [encode_image(draw_image(number)) for number in range(count)]
    ids = [str(number) for number in range(count)]
    nothing = np.full(count, -1)

    def never(start: int, stop: int) -> Any:
        raise AssertionError('other libraries decode images themselves')

    return SplitExamples(ids, [{} for _ in ids], nothing, nothing.astype(np.float32), pngs, never)


def normalize(tensor: Any) -> np.ndarray:
    array = tensor.detach().numpy()
    return array / np.linalg.norm(array, axis=1, keepdims=True)


def test_text_vectors_equal_transformers(clip: Path, torch: Any) -> None:
    import transformers

    model = transformers.CLIPModel.from_pretrained(clip).eval()
    theirs = []
    for text in TEXTS:  # One by one, without padding, which changes nothing.
        tokens = [WORDS.index(word) for word in text.split()] + [2]
        theirs.append(normalize(model.get_text_features(torch.tensor([tokens])).pooler_output))
    ours = libraries.load_model(f'transformers:{clip}').embed_texts('any', TEXTS)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, np.concatenate(theirs), atol=1e-5)


def test_image_vectors_equal_transformers(clip: Path, torch: Any) -> None:
    import transformers

    model = transformers.CLIPModel.from_pretrained(clip).eval()
    process = transformers.AutoImageProcessor.from_pretrained(clip, backend='pil')
    pixels = process(images=[draw_image(number) for number in range(5)], return_tensors='pt')
    theirs = normalize(model.get_image_features(**pixels).pooler_output)
    ours = libraries.load_model(f'transformers:{clip}').embed_images('any', make_examples(5))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_vectors_do_not_depend_on_batch_size(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, examples = libraries.load_model(f'transformers:{clip}'), make_examples(4)
    whole = model.embed_texts('', TEXTS), model.embed_images('', examples)
    monkeypatch.setattr(libraries, 'BATCH', 3)
    parts = model.embed_texts('', TEXTS), model.embed_images('', examples)
    for one, other in zip(parts, whole):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_siglip_attends_to_padding_up_to_full_length(siglip: Path, torch: Any) -> None:
    """As it was trained."""
    import transformers

    model = transformers.SiglipModel.from_pretrained(siglip).eval()
    tokens = [[WORDS.index(word) for word in text.split()] + [2] for text in TEXTS]
    filled = torch.tensor([row + [0] * (16 - len(row)) for row in tokens])
    theirs = normalize(model.get_text_features(filled).pooler_output)
    ours = libraries.load_model(f'transformers:{siglip}').embed_texts('', TEXTS)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_vectors_equal_open_clip(open_clip_folder: Path, torch: Any) -> None:
    """By the name of the model with a file of weights, and by the folder."""
    import open_clip

    path = open_clip_folder / 'open_clip_model.safetensors'
    model, _, process = open_clip.create_model_and_transforms('tiny-of-test', pretrained=str(path))
    model.eval()
    text = normalize(model.encode_text(open_clip.get_tokenizer('tiny-of-test')(TEXTS)))
    images = torch.stack([process(draw_image(n)) for n in range(5)])
    image = normalize(model.encode_image(images))
    for name in (f'tiny-of-test:{path}', f'local-dir:{open_clip_folder}'):
        ours = libraries.load_model(f'open_clip:{name}')
        np.testing.assert_allclose(ours.embed_texts('any', TEXTS), text, atol=1e-5)
        np.testing.assert_allclose(ours.embed_images('any', make_examples(5)), image, atol=1e-5)


@pytest.fixture
def traps(
    open_clip_folder: Path, clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """A folder of models whose weights are pickles that write the file `sprung` when opened."""
    monkeypatch.setattr(sys, 'argv', [str(tmp_path / 'x')])
    for name in ('w.pt', 'w.bin', 'pytorch_model.bin', 'open_clip_pytorch_model.bin', 'w.npz'):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
    for path in (open_clip_folder / 'open_clip_config.json', *clip.glob('*.json')):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.mark.parametrize('file', ['w.pt', 'w.bin', 'w.npz', 'missing.pt'])
def test_open_clip_does_not_open_pickle(file: str, traps: Path) -> None:
    with pytest.raises(UserError, match='may be a pickle'):
        libraries.load_model(f'open_clip:tiny-of-test:{traps / file}')
    assert not (traps / 'sprung').exists()


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('open_clip:local-dir:{}', r'open_clip_model\.safetensors'),
        ('transformers:{}', 'transformers cannot read the model'),
    ],
)
def test_pickle_in_folder_is_not_opened(name: str, message: str, traps: Path) -> None:
    with pytest.raises(UserError, match=message):
        libraries.load_model(name.format(traps))
    assert not (traps / 'sprung').exists()


@pytest.mark.parametrize('name', ['ViT-B-32:laion2b_s34b_b79k', 'hf-hub:somebody/something'])
def test_published_pickle_is_refused(
    name: str, open_clip_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever open_clip would download for a tag or a repository."""
    import open_clip

    def download_pickle(*_: Any) -> str:
        return '/cache/open_clip_pytorch_model.bin'

    monkeypatch.setattr(open_clip, 'download_pretrained', download_pickle)
    monkeypatch.setattr(open_clip.pretrained, 'download_pretrained_from_hf', download_pickle)
    with pytest.raises(UserError, match='may be a pickle'):
        libraries.load_model(f'open_clip:{name}')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('open_clip:tiny-of-test:{}/cut.safetensors', 'open_clip cannot read'),
        ('timm:vit', 'must be open_clip:NAME'),
        ('open_clip:', 'must be open_clip:NAME'),
        ('open_clip:ViT-B-32', 'random weights.*laion2b'),
        ('open_clip:no-such:x.safetensors', 'open_clip cannot read'),
        ('transformers:{}', 'transformers cannot read'),
    ],
)
def test_unreadable_model_is_refused(
    name: str, message: str, open_clip_folder: Path, tmp_path: Path
) -> None:
    whole = (open_clip_folder / 'open_clip_model.safetensors').read_bytes()
    (tmp_path / 'cut.safetensors').write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=message):
        libraries.load_model(name.format(tmp_path))


def test_model_of_texts_alone_is_refused(torch: Any, tmp_path: Path) -> None:
    transformers = pytest.importorskip('transformers')
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    config = transformers.BertConfig(vocab_size=9, **small)
    transformers.BertModel(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match='BertModel: it does not embed images'):
        libraries.load_model(f'transformers:{tmp_path}')


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'open_clip', None)
    with pytest.raises(UserError, match=r'open_clip cannot be imported.*mural-jax\[parity\]'):
        libraries.load_model('open_clip:ViT-B-32:x.safetensors')
