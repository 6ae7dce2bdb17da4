"""A folder that open_clip loads: its own CLIP, with a tokenizer of Hugging Face."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mural_jax.evaluation.external import libraries
from mural_jax.exports import counterparts, tokenizer_json
from mural_jax.exports.counterparts import CLIP
from mural_jax.exports.hugging_face import wrap_library
from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import TrainedModel
from mural_jax.models.vision import PIXEL_STATISTICS
from mural_jax.types import UserError

LIBRARY = 'open_clip'
GELU, QUICK_GELU = 'gelu', 'quick_gelu'
USE = """\
    pip install open_clip_torch transformers

    import open_clip
    from PIL import Image

    model, _, process = open_clip.create_model_and_transforms('local-dir:{folder}')
    tokenize = open_clip.get_tokenizer('local-dir:{folder}')
    text_ND = model.encode_text(tokenize(['a cat', 'paka']), normalize=True)
    image_ND = model.encode_image(process(Image.open('cat.png'))[None], normalize=True)

open_clip mends texts before it reads them (ftfy, HTML's entities), which mural_jax does not: where
that changes one, its embedding changes too."""


def write_folder(source: TrainedModel, folder: Path, dtype: str) -> None:
    counterparts.match_architecture(source, (CLIP,), LIBRARY)
    config = _model_settings(source)
    torch, library = tokenizer_json.needed('torch'), tokenizer_json.needed(LIBRARY)
    safetensors = tokenizer_json.needed('safetensors.torch').torch
    model = library.CLIP(**config)
    theirs = {name: value.numpy() for name, value in model.state_dict().items()}
    named = counterparts.rename_weights(source, theirs, LIBRARY)
    weights = {name: torch.tensor(value).to(getattr(torch, dtype)) for name, value in named.items()}
    safetensors.save_file(weights, folder / libraries.OPEN_CLIP_FILE, metadata={'format': 'pt'})
    (folder / libraries.OPEN_CLIP_FILE).chmod(0o644)
    words = dict(model_cfg=config, preprocess_cfg=_image_processing(source))
    (folder / 'open_clip_config.json').write_text(json.dumps(words, indent=1) + '\n')
    tokenizer_json.write_tokenizer(source, folder)


def _model_settings(source: TrainedModel) -> dict[str, Any]:
    description, model = source.description, source.description.model
    image, text = model['towers']['image'], model['towers']['text']
    if description.resize != description.image_size:
        raise UserError(
            f'{LIBRARY} resizes pictures to what the model takes, {description.image_size} pixels; this '
            f'one cuts the middle out of {description.resize}. Use --format=transformers.'
        )
    acts = {node['layers'].get('activation', 'gelu_tanh') for node in (image, text)}
    if len(acts) > 1 or not acts <= {GELU, QUICK_GELU}:
        raise UserError(
            f'{LIBRARY} has the activations {GELU} and {QUICK_GELU}, one for both towers; this '
            f'model has {", ".join(sorted(acts))}. Use --format=transformers.'
        )
    (patch,) = image.get('patches', (16,))
    layers = image['layers']
    return dict(
        embed_dim=model['embedding'],
        quick_gelu=acts == {QUICK_GELU},
        vision_cfg=dict(
            **_layer_settings(layers),
            head_width=layers['width'] // layers['num_heads'],
            image_size=image['image_size'],
            patch_size=patch,
        ),
        text_cfg=dict(
            **_layer_settings(text['layers']),
            heads=text['layers']['num_heads'],
            context_length=text['max_length'],
            vocab_size=description.vocab_size,
            pool_type='eos',
            eos_id=text['eot_id'],
            pad_id=source.pad_id,
            hf_tokenizer_name='.',
        ),
    )


def _layer_settings(layers: Mapping[str, Any]) -> dict[str, Any]:
    return dict(
        layers=layers['depth'],
        width=layers['width'],
        mlp_ratio=layers.get('mlp_ratio', 4.0),
        norm_kwargs=dict(eps=layers.get('norm_eps', 1e-6)),
    )


def _image_processing(source: TrainedModel) -> dict[str, Any]:
    mean, deviation = PIXEL_STATISTICS[source.description.model['towers']['image'].get('pixels', 'half')]
    return dict(
        mean=mean,
        std=deviation,
        interpolation='bilinear',
        resize_mode='squash',
        size=source.description.image_size,
    )


def read_encoders(source: TrainedModel, folder: Path) -> dict[str, Encoder]:
    # Texts as they are: those that open_clip mends have other embeddings, as the card says.
    return wrap_library(
        libraries.load_open_clip(
            tokenizer_json.needed(LIBRARY), f'{libraries.LOCAL}{folder}', 'cpu', str
        )
    )


def describe_usage(source: TrainedModel, folder: str) -> str:
    return USE.format(folder=folder)
