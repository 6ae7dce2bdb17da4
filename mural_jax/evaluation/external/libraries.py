"""Other libraries' models behind the two methods that evaluators ask for: images and texts.

Their weights are read from safetensors alone: a pickle runs whatever code its author put in.
"""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mural_jax.evaluation.split_data import Items
from mural_jax.types import UserError

BATCH = 64  # pictures or texts in a pass; ours
SAFE = '.safetensors'
LOCAL, HUB = 'local-dir:', 'hf-hub:'  # What open_clip calls a folder, and a repository.
OPEN_CLIP_FILE = f'open_clip_model{SAFE}'  # What open_clip prefers in either.
INSTALL = "pip install 'mural-jax[parity]', with torch and torchvision of one build (CPU or CUDA)"


class Other:
    """Pictures and texts -> float32 unit vectors in the one space of another library's model.

    encode_images, encode_texts: a list of pictures in RGB, or of texts, to a tensor [B, D].
    """

    def __init__(self, encode_images: Callable, encode_texts: Callable):
        self._encode_images, self._encode_texts = encode_images, encode_texts

    def images(self, task: str, items: Items) -> np.ndarray:
        """The pictures of items, float32 [N, D]; the library's own preprocessing. No `task`."""
        return self.pictures(items.png)

    def pictures(self, encoded: list[bytes]) -> np.ndarray:
        """N files of pictures -> float32 [N, D]."""
        return _embedded(self._encode_images, encoded, _decoded)

    def texts(self, task: str, texts: list[str]) -> np.ndarray:
        """N texts -> float32 [N, D]; the library's own tokenizer. No `task`."""
        return _embedded(self._encode_texts, texts, list)


def load(name: str) -> Other:
    """The model of `open_clip:NAME:PRETRAINED` or `transformers:FOLDER`, on a GPU if there is one.

    Raises UserError where its library is missing, or it cannot be read without a pickle.
    """
    library, _, rest = name.partition(':')
    if library not in LIBRARIES or not rest:
        raise UserError(f'--model={name} must be open_clip:NAME:PRETRAINED or transformers:FOLDER.')
    try:
        import torch

        module = __import__(library)
    except (ImportError, RuntimeError) as error:
        raise _missing(library, error) from error
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        return LIBRARIES[library](module, rest, device)
    except UserError:
        raise
    except ModuleNotFoundError as error:  # transformers imports its parts when they are asked for.
        raise _missing(library, error) from error
    except Exception as error:  # Libraries raise what they like of files that are not theirs.
        raise UserError(f'{library} cannot read the model {rest}: {error}') from error


def open_clip(
    library: Any, name: str, device: str, clean: Callable[[str], str] | None = None
) -> Other:
    """NAME:TAG, NAME:FILE.safetensors, local-dir:FOLDER or hf-hub:OWNER/NAME.

    clean: what is done to a text first, in place of what open_clip does.
    """
    pretrained = ''
    if not name.startswith((LOCAL, HUB)):
        name, _, pretrained = name.partition(':')
    _check_weights(library, name, pretrained)
    # Nothing else is read: weights of a tower alone would be replaced anyway.
    model, _, preprocess = library.create_model_and_transforms(
        name, pretrained=pretrained or None, pretrained_text=False, device=device
    )
    model.eval()
    tokenize = library.get_tokenizer(name)
    if clean:
        tokenize.clean_fn = clean

    def images(pictures: list[Image.Image]) -> Any:
        import torch

        return model.encode_image(torch.stack([preprocess(p) for p in pictures]).to(device))

    return Other(images, lambda texts: model.encode_text(tokenize(texts).to(device)))


def _check_weights(library: Any, name: str, pretrained: str) -> None:
    """Raises UserError where open_clip would read no weights, or others than safetensors.

    It reads what it finds: pickles by torch.load, arrays of big_vision by numpy.
    """
    if name.startswith(LOCAL):
        path = Path(name.removeprefix(LOCAL)) / OPEN_CLIP_FILE
        if not path.is_file():
            raise UserError(f'There is no {path}; other files of weights are not read.')
    elif name.startswith(HUB):
        _check_safe(library.pretrained.download_pretrained_from_hf(name.removeprefix(HUB)))
    elif not pretrained:
        tags = ', '.join(library.list_pretrained_tags_by_model(name)) or 'FILE.safetensors'
        raise UserError(
            f'{name} alone has random weights, whose scores mean nothing. Name what is read: '
            f'--model=open_clip:{name}:PRETRAINED, with one of {tags}.'
        )
    elif tag := library.get_pretrained_cfg(name, pretrained):
        _check_safe(library.download_pretrained(tag))
    else:
        _check_safe(pretrained)


def _check_safe(path: str) -> None:
    if Path(path).suffix != SAFE:
        raise UserError(
            f'{path} is not read: it may be a pickle, which runs whatever code its author put in. '
            f'Give a file *{SAFE}, or a model that is published as one.'
        )


def transformers(library: Any, folder: str, device: str) -> Other:
    """CLIP, SigLIP, VisionTextDualEncoder: what has get_image_features and get_text_features."""
    import torch

    safe: dict[str, Any] = {'trust_remote_code': False}
    model = library.AutoModel.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32, **safe
    )
    if not (hasattr(model, 'get_image_features') and hasattr(model, 'get_text_features')):
        raise UserError(
            f'{folder} is a {type(model).__name__}: it does not embed pictures and texts. Models '
            'like CLIP and SigLIP do.'
        )
    model.to(device).eval()
    tokenizer = library.AutoTokenizer.from_pretrained(folder, **safe)
    # As most were published: by Pillow, which torchvision resizes a little unlike.
    process = library.AutoImageProcessor.from_pretrained(folder, backend='pil', **safe)
    words = _tokenizing(model.config, tokenizer.model_max_length)

    def images(pictures: list[Image.Image]) -> Any:
        pixels = process(images=pictures, return_tensors='pt')['pixel_values'].to(device)
        return model.get_image_features(pixel_values=pixels).pooler_output

    def texts(texts: list[str]) -> Any:
        return model.get_text_features(**tokenizer(texts, **words).to(device)).pooler_output

    return Other(images, texts)


def _tokenizing(config: Any, most: int) -> dict[str, Any]:
    """How texts become tokens. SigLIP was trained on full lengths, padding attended."""
    positions = getattr(config.get_text_config(), 'max_position_embeddings', most)
    padded = config.model_type.startswith('siglip')
    return {
        'padding': 'max_length' if padded else True, 'truncation': True,
        'max_length': min(most, positions), 'return_tensors': 'pt',
        'return_attention_mask': not padded,
    }  # fmt: skip


LIBRARIES: dict[str, Callable[[Any, str, str], Other]] = {
    'open_clip': open_clip,
    'transformers': transformers,
}


def _embedded(encode: Callable, given: list, prepare: Callable) -> np.ndarray:
    """Raises UserError where a vector is not finite or has no direction."""
    import torch

    parts = []
    for start in range(0, len(given), BATCH):
        with torch.inference_mode():
            vector_BD = encode(prepare(given[start : start + BATCH]))
        parts.append(vector_BD.float().cpu().numpy())
    return unit(np.concatenate(parts), 'embeddings of the model')


def _decoded(pngs: list[bytes]) -> list[Image.Image]:
    return [Image.open(io.BytesIO(png)).convert('RGB') for png in pngs]


def unit(vector_ND: np.ndarray, what: str) -> np.ndarray:
    """The vectors at length 1, float32 [N, D].

    Raises UserError where one is not finite or is zero, which has no direction.
    """
    vector_ND = vector_ND.astype(np.float64)
    length_N = np.linalg.norm(vector_ND, axis=1)
    bad = int((~(np.isfinite(length_N) & (length_N > 0))).sum())
    if bad:
        raise UserError(
            f'{bad} of {len(vector_ND)} {what} are zero or not finite: they have no direction, '
            'and no score would mean anything.'
        )
    return (vector_ND / length_N[:, None]).astype(np.float32)


def _missing(library: str, error: Exception) -> UserError:
    return UserError(f'{library} cannot be imported ({error}). {INSTALL}')
