"""A folder for open_clip: its CLIP, with a tokenizer of Hugging Face."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mural_jax.evaluation.external import libraries
from mural_jax.exports import counterparts, tokenizer_json
from mural_jax.exports.counterparts import CLIP
from mural_jax.exports.hugging_face import wrap_library
from mural_jax.exports.packages import import_package
from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import TrainedModel
from mural_jax.models.vision import PIXEL_STATISTICS
from mural_jax.types import UserError

LIBRARY = 'open_clip'
GELU, QUICK_GELU = 'gelu', 'quick_gelu'
USAGE = """\
    pip install open_clip_torch transformers

    import open_clip
    from PIL import Image

    model, _, process = open_clip.create_model_and_transforms('local-dir:{folder}')
    tokenize = open_clip.get_tokenizer('local-dir:{folder}')
    text_ND = model.encode_text(tokenize(['a cat', 'paka']), normalize=True)
    image_ND = model.encode_image(process(Image.open('cat.png'))[None], normalize=True)

open_clip repairs texts before it tokenizes them (ftfy, HTML entities), and mural_jax does not. The
embedding of a text that is repaired differs from mural_jax's."""


def write_folder(source: TrainedModel, folder: Path, dtype: str) -> None:
    """Writes weights, config and tokenizer.

    Raises UserError if open_clip has no counterpart of the model, or a package is missing.
    """
    counterparts.match_architecture(source, (CLIP,), LIBRARY)
    config = _model_settings(source)
    torch = import_package('torch', tokenizer_json.INSTALL)
    library = import_package(LIBRARY, tokenizer_json.INSTALL)
    safetensors = import_package('safetensors.torch', tokenizer_json.INSTALL)
    # A model of theirs with random weights, whose arrays tell names and shapes.
    model = library.CLIP(**config)
    theirs = {name: value.numpy() for name, value in model.state_dict().items()}
    arrays = counterparts.rename_weights(source, theirs, LIBRARY)
    weights = {
        name: torch.tensor(array).to(getattr(torch, dtype)) for name, array in arrays.items()
    }
    path = folder / libraries.OPEN_CLIP_FILE
    safetensors.save_file(weights, path, metadata={'format': 'pt'})
    path.chmod(0o644)  # The library lets nobody else read it, unlike the other files.
    settings = dict(model_cfg=config, preprocess_cfg=_image_processing(source))
    (folder / 'open_clip_config.json').write_text(json.dumps(settings, indent=1) + '\n')
    tokenizer_json.write_tokenizer(source, folder)


def _model_settings(source: TrainedModel) -> dict[str, Any]:
    """Returns the arguments of open_clip's CLIP.

    Raises UserError if it cannot express the model.
    """
    description, model = source.description, source.description.model
    image, text = model['towers']['image'], model['towers']['text']
    if description.resize != description.image_size:
        raise UserError(
            f'{LIBRARY} resizes images to the {description.image_size} pixels that a model takes. '
            f'This model crops the middle of {description.resize} pixels. Use '
            '--format=transformers.'
        )
    activations = {node['layers'].get('activation', 'gelu_tanh') for node in (image, text)}
    if len(activations) > 1 or not activations <= {GELU, QUICK_GELU}:
        raise UserError(
            f'{LIBRARY} has the activations {GELU} and {QUICK_GELU}, and both towers must have the '
            f'same. This model has {", ".join(sorted(activations))}. Use --format=transformers.'
        )
    (patch,) = image.get('patches', (16,))
    layers = image['layers']
    return dict(
        embed_dim=source.embedding,
        quick_gelu=activations == {QUICK_GELU},
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
    """Returns the settings of the image transform."""
    node = source.description.model['towers']['image']
    mean, deviation = PIXEL_STATISTICS[node.get('pixels', 'half')]
    return dict(
        mean=mean,
        std=deviation,
        interpolation='bilinear',
        resize_mode='squash',
        size=source.description.image_size,
    )


def read_encoders(source: TrainedModel, folder: Path) -> dict[str, Encoder]:
    """Returns encoders by tower that run the model in a folder with open_clip."""
    # `str` instead of open_clip's repair of texts: the check is about the model. The card says that
    # repaired texts have other embeddings.
    library = import_package(LIBRARY, tokenizer_json.INSTALL)
    name = f'{libraries.LOCAL}{folder}'
    return wrap_library(libraries.load_open_clip(library, name, 'cpu', str))


def describe_usage(source: TrainedModel, folder: str) -> str:
    """Returns how to use the folder, as Markdown."""
    return USAGE.format(folder=folder)
