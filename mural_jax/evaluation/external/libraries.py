"""Models of other libraries as embedders of images and texts.

Their weights are read from safetensors alone: a pickle runs whatever code its author put in.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mural_jax.evaluation.split_data import SplitExamples
from mural_jax.types import UserError

BATCH = 64  # images or texts in one pass (ours)
SAFE = '.safetensors'
LOCAL, HUB = 'local-dir:', 'hf-hub:'  # how open_clip marks a folder, and a repository
OPEN_CLIP_FILE = f'open_clip_model{SAFE}'  # the file that open_clip prefers in either
INSTALL = "pip install 'mural-jax[parity]', with torch and torchvision of one build (CPU or CUDA)"


class ExternalModel:
    """Embeds images and texts in the one space of another library's model.

    It satisfies `split_data.Embedder`.
    """

    def __init__(self, encode_images: Callable, encode_texts: Callable):
        """Each function takes a list, of RGB images or of texts, and returns a tensor [B, D]."""
        self._encode_images, self._encode_texts = encode_images, encode_texts

    def embed_images(self, space: str, examples: SplitExamples) -> np.ndarray:
        """Returns float32 [N, D], with the library's own preprocessing; `space` is ignored."""
        return self.embed_files(examples.pngs)

    def embed_files(self, encoded: list[bytes]) -> np.ndarray:
        """Returns float32 [N, D], the embeddings of N encoded images."""
        return _embed_in_batches(self._encode_images, encoded, _decode_images)

    def embed_texts(self, space: str, texts: list[str]) -> np.ndarray:
        """Returns float32 [N, D], with the library's own tokenizer; `space` is ignored."""
        return _embed_in_batches(self._encode_texts, texts, list)


def load_model(name: str) -> ExternalModel:
    """Returns the model `open_clip:NAME:PRETRAINED` or `transformers:FOLDER`, on a GPU if any.

    Raises UserError if its library is missing, or if it cannot be read without a pickle.
    """
    library, _, rest = name.partition(':')
    if library not in LIBRARIES or not rest:
        raise UserError(f'--model={name} must be open_clip:NAME:PRETRAINED or transformers:FOLDER.')
    try:
        import torch

        # Both libraries are optional, and slow to import.
        module = __import__(library)
    except (ImportError, RuntimeError) as error:
        raise _missing_library_error(library, error) from error
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        return LIBRARIES[library](module, rest, device)
    except UserError:
        raise
    except ModuleNotFoundError as error:  # transformers imports its parts only when used.
        raise _missing_library_error(library, error) from error
    except Exception as error:  # Libraries raise any type of error for files they cannot read.
        raise UserError(f'{library} cannot read the model {rest}: {error}') from error


def load_open_clip(
    library: Any, name: str, device: str, clean: Callable[[str], str] | None = None
) -> ExternalModel:
    """Returns a model of open_clip.

    Args:
      library: the module open_clip.
      name: NAME:TAG, NAME:FILE.safetensors, local-dir:FOLDER or hf-hub:OWNER/NAME.
      device: of torch.
      clean: replaces open_clip's own cleaning of a text before it is tokenized.
    """
    pretrained = ''
    if not name.startswith((LOCAL, HUB)):
        name, _, pretrained = name.partition(':')
    _require_safe_weights(library, name, pretrained)
    # Not the weights of a text tower alone: the whole model's would replace them anyway.
    model, _, preprocess = library.create_model_and_transforms(
        name, pretrained=pretrained or None, pretrained_text=False, device=device
    )
    model.eval()
    tokenize = library.get_tokenizer(name)
    # Exports pass `str` here: their own tokenizer prepares the text.
    if clean:
        tokenize.clean_fn = clean

    def encode_images(images: list[Image.Image]) -> Any:
        import torch

        return model.encode_image(torch.stack([preprocess(p) for p in images]).to(device))

    return ExternalModel(encode_images, lambda texts: model.encode_text(tokenize(texts).to(device)))


def _require_safe_weights(library: Any, name: str, pretrained: str) -> None:
    """Raises UserError if open_clip would read no weights, or weights other than safetensors.

    open_clip reads whatever it finds: pickles with torch.load, arrays of big_vision with numpy.
    """
    if name.startswith(LOCAL):
        path = Path(name.removeprefix(LOCAL)) / OPEN_CLIP_FILE
        if not path.is_file():
            raise UserError(f'There is no {path}; other files of weights are not read.')
    elif name.startswith(HUB):
        _require_safe_file(library.pretrained.download_pretrained_from_hf(name.removeprefix(HUB)))
    elif not pretrained:
        tags = ', '.join(library.list_pretrained_tags_by_model(name)) or 'FILE.safetensors'
        raise UserError(
            f'{name} alone has random weights, whose scores mean nothing. Name the weights: '
            f'--model=open_clip:{name}:PRETRAINED, with one of {tags}.'
        )
    elif tag := library.get_pretrained_cfg(name, pretrained):
        _require_safe_file(library.download_pretrained(tag))
    else:
        _require_safe_file(pretrained)


def _require_safe_file(path: str) -> None:
    if Path(path).suffix != SAFE:
        raise UserError(
            f'{path} is not read: it may be a pickle, which runs whatever code its author put in. '
            f'Give a file *{SAFE}, or a model that is published as one.'
        )


def load_transformers(library: Any, folder: str, device: str) -> ExternalModel:
    """Returns a model of transformers with get_image_features and get_text_features.

    CLIP, SigLIP and VisionTextDualEncoder are such models. Code that comes with a model never runs.
    """
    import torch

    safe: dict[str, Any] = {'trust_remote_code': False}
    model = library.AutoModel.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, **safe
    )
    if not (hasattr(model, 'get_image_features') and hasattr(model, 'get_text_features')):
        raise UserError(
            f'{folder} is a {type(model).__name__}: it does not embed images and texts. Models '
            'like CLIP and SigLIP do.'
        )
    model.to(device).eval()
    tokenizer = library.AutoTokenizer.from_pretrained(folder, **safe)
    # Most models were published with Pillow's resizing; torchvision's differs a little.
    process = library.AutoImageProcessor.from_pretrained(folder, backend='pil', **safe)
    settings = _tokenizer_settings(model.config, tokenizer.model_max_length)

    def encode_images(images: list[Image.Image]) -> Any:
        pixels = process(images=images, return_tensors='pt')['pixel_values'].to(device)
        return model.get_image_features(pixel_values=pixels).pooler_output

    def encode_texts(texts: list[str]) -> Any:
        return model.get_text_features(**tokenizer(texts, **settings).to(device)).pooler_output

    return ExternalModel(encode_images, encode_texts)


def _tokenizer_settings(config: Any, longest: int) -> dict[str, Any]:
    """Returns the arguments of the tokenizer; `longest` is its own limit in tokens.

    SigLIP was trained on full lengths, with attention to the padding.
    """
    positions = getattr(config.get_text_config(), 'max_position_embeddings', longest)
    padded = config.model_type.startswith('siglip')
    return {
        'padding': 'max_length' if padded else True,
        'truncation': True,
        'max_length': min(longest, positions),
        'return_tensors': 'pt',
        'return_attention_mask': not padded,
    }


LIBRARIES: dict[str, Callable[[Any, str, str], ExternalModel]] = {
    'open_clip': load_open_clip,
    'transformers': load_transformers,
}


def _embed_in_batches(encode: Callable, inputs: list, prepare: Callable) -> np.ndarray:
    """Returns unit vectors, float32 [N, D]. Raises UserError if a vector has no direction."""
    import torch

    parts = []
    for start in range(0, len(inputs), BATCH):
        with torch.inference_mode():
            vector_BD = encode(prepare(inputs[start : start + BATCH]))
        parts.append(vector_BD.float().cpu().numpy())
    return normalize_rows(np.concatenate(parts), 'embeddings of the model')


def _decode_images(pngs: list[bytes]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(png)).convert('RGB') for png in pngs]


def normalize_rows(vector_ND: np.ndarray, what: str) -> np.ndarray:
    """Returns the vectors at length 1, float32 [N, D].

    Raises UserError if one is not finite, or is zero and has no direction; `what` names them.
    """
    # In float64, so that lengths are 1 within float32 rounding.
    vector_ND = vector_ND.astype(np.float64)
    length_N = np.linalg.norm(vector_ND, axis=1)
    bad = int((~(np.isfinite(length_N) & (length_N > 0))).sum())
    if bad:
        raise UserError(
            f'{bad} of {len(vector_ND)} {what} are zero or not finite: they have no direction, '
            'and no score would mean anything.'
        )
    return (vector_ND / length_N[:, None]).astype(np.float32)


def _missing_library_error(library: str, error: Exception) -> UserError:
    return UserError(f'{library} cannot be imported ({error}). {INSTALL}')
