"""A folder for transformers: CLIPModel, SiglipModel or VisionTextDualEncoderModel."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mural_jax.evaluation.external import libraries
from mural_jax.exports import counterparts, tokenizer_json
from mural_jax.exports.counterparts import CLIP, CLIP_BERT, SIGLIP
from mural_jax.exports.packages import import_package
from mural_jax.exports.parity import Encoder
from mural_jax.exports.trained import TrainedModel
from mural_jax.models.vision import PIXEL_STATISTICS

LIBRARY = 'transformers'
ACTIVATIONS = {'gelu': 'gelu', 'gelu_tanh': 'gelu_pytorch_tanh', 'quick_gelu': 'quick_gelu'}
BILINEAR = 2  # Pillow's number of the filter
USAGE = """\
    pip install torch transformers

    from PIL import Image
    from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained('{folder}')
    tokenizer = AutoTokenizer.from_pretrained('{folder}')
    process = AutoImageProcessor.from_pretrained('{folder}', backend='pil')
    options = dict(padding='max_length', truncation=True, return_tensors='pt'{more})
    text_ND = model.get_text_features(**tokenizer(['a cat', 'paka'], **options)).pooler_output
    pixels = process(Image.open('cat.png'), return_tensors='pt')
    image_ND = model.get_image_features(**pixels).pooler_output

The vectors are not normalised: divide them by their norm."""


def write_folder(source: TrainedModel, folder: Path, dtype: str) -> None:
    """Writes weights, config, image processor and tokenizer.

    Raises UserError if transformers has no counterpart of the model, or a package is missing.
    """
    architecture = counterparts.match_architecture(source, (CLIP, SIGLIP, CLIP_BERT), LIBRARY)
    torch = import_package('torch', tokenizer_json.INSTALL)
    library = import_package(LIBRARY, tokenizer_json.INSTALL)
    library.utils.logging.disable_progress_bar()
    # A model of theirs with random weights, whose arrays tell names and shapes.
    model = BUILDERS[architecture.name](library, source)
    theirs = {name: value.numpy() for name, value in model.state_dict().items()}
    weights = counterparts.rename_weights(source, theirs, LIBRARY)
    model.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    model.to(getattr(torch, dtype)).save_pretrained(folder)
    (folder / 'preprocessor_config.json').write_text(
        json.dumps(_image_processing(source, architecture is SIGLIP), indent=1) + '\n'
    )
    tokenizer_json.write_tokenizer(source, folder)


def _layer_settings(node: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the settings of the transformer in the config node of a tower."""
    layers = node['layers']
    width, activation = layers['width'], layers.get('activation', 'gelu_tanh')
    return dict(
        hidden_size=width,
        intermediate_size=int(width * layers.get('mlp_ratio', 4.0)),
        num_hidden_layers=layers['depth'],
        num_attention_heads=layers['num_heads'],
        hidden_act=ACTIVATIONS[activation],
        layer_norm_eps=layers.get('norm_eps', 1e-6),
    )


def _image_settings(source: TrainedModel) -> dict[str, Any]:
    node = source.description.model['towers']['image']
    (patch,) = node.get('patches', (16,))
    return dict(**_layer_settings(node), image_size=node['image_size'], patch_size=patch)


def _text_settings(source: TrainedModel) -> dict[str, Any]:
    node = source.description.model['towers']['text']
    # RoBERTa numbers positions from behind the id of padding, so its table is longer.
    offset = node.get('position_offset', 0)
    return dict(
        **_layer_settings(node),
        vocab_size=source.description.vocab_size,
        pad_token_id=source.pad_id,
        max_position_embeddings=node['max_length'] + offset,
        bos_token_id=None,
        eos_token_id=node.get('eot_id', source.tokenizer.eos_id),
    )


def _build_clip(library: Any, source: TrainedModel) -> Any:
    size = source.embedding
    return library.CLIPModel(
        library.CLIPConfig(
            vision_config=dict(**_image_settings(source), projection_dim=size),
            text_config=dict(**_text_settings(source), projection_dim=size),
            projection_dim=size,
        )
    )


def _build_siglip(library: Any, source: TrainedModel) -> Any:
    size = source.embedding
    return library.SiglipModel(
        library.SiglipConfig(
            vision_config=_image_settings(source),
            text_config=dict(**_text_settings(source), projection_size=size),
        )
    )


def _build_clip_bert(library: Any, source: TrainedModel) -> Any:
    size, node = source.embedding, source.description.model['towers']['text']
    kind = library.XLMRobertaConfig if node.get('position_offset') else library.BertConfig
    return library.VisionTextDualEncoderModel(
        library.VisionTextDualEncoderConfig(
            vision_config=library.CLIPVisionConfig(**_image_settings(source)).to_dict(),
            text_config=kind(
                **_text_settings(source), type_vocab_size=node.get('num_segments', 2)
            ).to_dict(),
            projection_dim=size,
        )
    )


BUILDERS: dict[str, Callable[[Any, TrainedModel], Any]] = {
    CLIP.name: _build_clip,
    SIGLIP.name: _build_siglip,
    CLIP_BERT.name: _build_clip_bert,
}


def _image_processing(source: TrainedModel, siglip: bool) -> dict[str, Any]:
    """Returns the settings of the image processor."""
    description = source.description
    mean, deviation = PIXEL_STATISTICS[description.model['towers']['image'].get('pixels', 'half')]
    square = dict(height=description.resize, width=description.resize)
    settings: dict[str, Any] = dict(
        image_processor_type='CLIPImageProcessor',
        do_convert_rgb=True,
        do_resize=True,
        size=square,
        resample=BILINEAR,
        do_center_crop=True,
        do_rescale=True,
        rescale_factor=1 / 255,
        crop_size=dict(height=description.image_size, width=description.image_size),
        do_normalize=True,
        image_mean=mean,
        image_std=deviation,
    )
    if siglip and description.resize == description.image_size:
        # SigLIP's own processor resizes and does not crop.
        settings['image_processor_type'] = 'SiglipImageProcessor'
    return settings


def read_encoders(source: TrainedModel, folder: Path) -> dict[str, Encoder]:
    """Returns encoders by tower that run the model in a folder with transformers."""
    return wrap_library(libraries.load_model(f'{LIBRARY}:{folder}'))


def wrap_library(other: libraries.ExternalModel) -> dict[str, Encoder]:
    """Returns encoders by tower that use a model of another library."""
    return {
        'image': lambda images: other.embed_files([*images]),
        'text': lambda texts: other.embed_texts('', [*texts]),
    }


def describe_usage(source: TrainedModel, folder: str) -> str:
    """Returns how to use the folder, as Markdown."""
    # SigLIP was trained to attend to padding.
    attending = source.description.model['towers']['text'].get('attend_padding', False)
    more = ', return_attention_mask=False' if attending else ''
    return USAGE.format(folder=folder, more=more)
