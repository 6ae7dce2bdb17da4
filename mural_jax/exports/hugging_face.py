"""A folder that transformers loads: CLIPModel, SiglipModel, VisionTextDualEncoderModel."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mural_jax.evaluation.external import libraries
from mural_jax.exports import counterparts, tokenizer_json
from mural_jax.exports.counterparts import CLIP, CLIP_BERT, SIGLIP
from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import Subject
from mural_jax.models.vision import PIXELS

LIBRARY = 'transformers'
ACTIVATIONS = {
    'gelu': 'gelu', 'gelu_tanh': 'gelu_pytorch_tanh', 'quick_gelu': 'quick_gelu'
}  # fmt: skip
BILINEAR = 2  # Pillow's number of it
USE = """\
    pip install torch transformers

    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained('{folder}')
    tokenizer = AutoTokenizer.from_pretrained('{folder}')
    process = AutoImageProcessor.from_pretrained('{folder}', backend='pil')
    how = dict(padding='max_length', truncation=True, return_tensors='pt'{more})
    text_ND = model.get_text_features(**tokenizer(['a cat', 'paka'], **how)).pooler_output
    pixels = process(Image.open('cat.png'), return_tensors='pt')
    image_ND = model.get_image_features(**pixels).pooler_output

Vectors are not of length 1 yet: divide by their norm."""


def write(subject: Subject, folder: Path, dtype: str) -> None:
    shape = counterparts.chosen(subject, (CLIP, SIGLIP, CLIP_BERT), LIBRARY)
    torch, library = tokenizer_json.needed('torch'), tokenizer_json.needed(LIBRARY)
    library.utils.logging.disable_progress_bar()
    model = MAKERS[shape.name](library, subject)
    theirs = {name: value.numpy() for name, value in model.state_dict().items()}
    named = counterparts.named(subject, theirs, LIBRARY)
    model.load_state_dict({name: torch.tensor(value) for name, value in named.items()})
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / 'preprocessor_config.json').write_text(
        json.dumps(_processing(subject, shape is SIGLIP), indent=1) + '\n'
    )
    tokenizer_json.write(subject, folder)


def _layers(node: Mapping[str, Any]) -> dict[str, Any]:
    layers = node['layers']
    width, activation = layers['width'], layers.get('activation', 'gelu_tanh')
    return dict(
        hidden_size=width, intermediate_size=int(width * layers.get('mlp_ratio', 4.0)),
        num_hidden_layers=layers['depth'], num_attention_heads=layers['num_heads'],
        hidden_act=ACTIVATIONS[activation], layer_norm_eps=layers.get('norm_eps', 1e-6),
    )  # fmt: skip


def _image(subject: Subject) -> dict[str, Any]:
    node = subject.about.model['towers']['image']
    (patch,) = node.get('patches', (16,))
    return dict(**_layers(node), image_size=node['image_size'], patch_size=patch)


def _text(subject: Subject) -> dict[str, Any]:
    node, read = subject.about.model['towers']['text'], subject.tokenizer
    offset = node.get('position_offset', 0)
    return dict(
        **_layers(node), vocab_size=subject.about.vocab_size, pad_token_id=subject.pad_id,
        max_position_embeddings=node['max_length'] + offset, bos_token_id=None,
        eos_token_id=node.get('eot_id', read.eos_id),
    )  # fmt: skip


def _clip(library: Any, subject: Subject) -> Any:
    size = subject.about.model['embedding']
    return library.CLIPModel(library.CLIPConfig(
        vision_config=dict(**_image(subject), projection_dim=size),
        text_config=dict(**_text(subject), projection_dim=size), projection_dim=size,
    ))  # fmt: skip


def _siglip(library: Any, subject: Subject) -> Any:
    size = subject.about.model['embedding']
    return library.SiglipModel(library.SiglipConfig(
        vision_config=_image(subject), text_config=dict(**_text(subject), projection_size=size),
    ))  # fmt: skip


def _clip_bert(library: Any, subject: Subject) -> Any:
    size, node = subject.about.model['embedding'], subject.about.model['towers']['text']
    kind = library.XLMRobertaConfig if node.get('position_offset') else library.BertConfig
    return library.VisionTextDualEncoderModel(library.VisionTextDualEncoderConfig(
        vision_config=library.CLIPVisionConfig(**_image(subject)).to_dict(),
        text_config=kind(
            **_text(subject), type_vocab_size=node.get('num_segments', 2)
        ).to_dict(), projection_dim=size,
    ))  # fmt: skip


MAKERS: dict[str, Callable[[Any, Subject], Any]] = {
    CLIP.name: _clip, SIGLIP.name: _siglip, CLIP_BERT.name: _clip_bert,
}  # fmt: skip


def _processing(subject: Subject, siglip: bool) -> dict[str, Any]:
    about = subject.about
    mean, deviation = PIXELS[about.model['towers']['image'].get('pixels', 'half')]
    square = dict(height=about.resize, width=about.resize)
    words: dict[str, Any] = dict(
        image_processor_type='CLIPImageProcessor', do_convert_rgb=True, do_resize=True, size=square,
        resample=BILINEAR, do_center_crop=True, do_rescale=True, rescale_factor=1 / 255,
        crop_size=dict(height=about.image_size, width=about.image_size), do_normalize=True,
        image_mean=mean, image_std=deviation,
    )  # fmt: skip
    if siglip and about.resize == about.image_size:
        words['image_processor_type'] = 'SiglipImageProcessor'
    return words


def read(subject: Subject, folder: Path) -> dict[str, Encoder]:
    return encoders(libraries.load(f'{LIBRARY}:{folder}'))


def encoders(other: libraries.Other) -> dict[str, Encoder]:
    """Of examples, by a model of another library."""
    return {
        'image': lambda pictures: other.pictures([*pictures]),
        'text': lambda texts: other.texts('', [*texts]),
    }


def use(subject: Subject, folder: str) -> str:
    attending = subject.about.model['towers']['text'].get('attend_padding', False)
    more = ', return_attention_mask=False' if attending else ''
    return USE.format(folder=folder, more=more)
