"""A trained model from a folder of its own. Needs neither TensorFlow nor the trainer.

model = mural_jax.load('DIR')
image_ND = model.encode_image(['cat.png', 'dog.jpg'])
text_ND = model.encode_text(['a cat', 'paka', 'mushuk'])
score_NN = text_ND @ image_ND.T
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np
from PIL import Image

from mural_jax.data.tokenizer import Tokenizer
from mural_jax.inference.arrays import SCALES, dequantize, flatten, unflatten_like
from mural_jax.inference.description import DESCRIPTION, VOCABULARY, WEIGHTS, ModelDescription
from mural_jax.inference.encode import build_encode_functions
from mural_jax.inference.images import ImageInput, load_squares
from mural_jax.models.build import abstract_model
from mural_jax.models.functional import Params
from mural_jax.pretrained.files import read_arrays
from mural_jax.types import UserError

MAX_BATCH = 256  # examples that pass through a tower together (ours)


class Model:
    """Encodes images, and texts of any language, into the same space.

    description: what the folder says about the model.
    tokenizer: turns texts into tokens.
    """

    def __init__(
        self,
        description: ModelDescription,
        params: Params,
        statistics: Params,
        tokenizer: Tokenizer,
    ):
        """`params` and `statistics` have the structure that `abstract_model` returns."""
        self.description, self.tokenizer = description, tokenizer
        self._arrays = params, statistics
        graphdef = abstract_model(description.model, description.spaces, description.vocab_size)[0]
        self._encode_functions = {
            space: {
                tower: jax.jit(encode)
                for tower, encode in build_encode_functions(graphdef, description, space).items()
            }
            for space in description.spaces
        }

    @property
    def spaces(self) -> list[str]:
        """Names of the spaces in which examples can be compared; the first is the default."""
        return [*self.description.spaces]

    def encode_image(
        self, images: ImageInput | Sequence[ImageInput], space: str | None = None
    ) -> np.ndarray:
        """Returns unit vectors, float32 [N, D].

        images: paths of files, encoded bytes, Pillow images or arrays uint8 [H, W, 3]. A single
            image gives N = 1.
        space: one of `spaces`; None for the default.

        Raises UserError if an image cannot be read, or the space has no image tower.
        """
        is_array = isinstance(images, np.ndarray) and images.ndim == 3
        is_single = is_array or isinstance(images, str | Path | bytes | Image.Image)
        inputs: list[ImageInput] = [images] if is_single else list(images)  # type: ignore[list-item, arg-type]
        size, resize = self.description.image_size, self.description.resize

        def prepare(start: int, stop: int) -> np.ndarray:
            return load_squares(inputs[start:stop], size, resize)

        return self._encode('image', space, prepare, len(inputs))

    def encode_text(self, texts: str | Sequence[str], space: str | None = None) -> np.ndarray:
        """Returns unit vectors, float32 [N, D].

        texts: a single text gives N = 1. A text with more tokens than the model takes is cut.
        space: one of `spaces`; None for the default.

        Raises UserError for anything but strings, or if the space has no text tower.
        """
        inputs = [texts] if isinstance(texts, str) else list(texts)
        if wrong := [text for text in inputs if not isinstance(text, str)]:
            raise UserError(f'{wrong[0]!r} is no text: give str.')

        def prepare(start: int, stop: int) -> np.ndarray:
            return self.tokenizer(inputs[start:stop], self.description.text_length)

        return self._encode('text', space, prepare, len(inputs))

    def _encode(
        self, tower: str, space: str | None, prepare: Callable[[int, int], np.ndarray], count: int
    ) -> np.ndarray:
        """Encodes `count` examples; `prepare(start, stop)` gives inputs of the tower."""
        space = space or self.spaces[0]
        if tower not in self._encode_functions.get(space, {}):
            spaces = [name for name, towers in self._encode_functions.items() if tower in towers]
            raise UserError(
                f'This model has no tower {tower!r} in a space {space!r}; it has one in '
                f'{", ".join(spaces) or "none"}.'
            )
        encode = self._encode_functions[space][tower]
        vectors = []
        for start in range(0, count, MAX_BATCH):
            inputs = prepare(start, min(start + MAX_BATCH, count))
            # Every new shape is compiled, so the batch is filled up to a power of two.
            size = min(MAX_BATCH, 1 << (len(inputs) - 1).bit_length())
            padded = np.zeros((size, *inputs.shape[1:]), inputs.dtype)
            padded[: len(inputs)] = inputs
            vectors.append(np.asarray(encode(*self._arrays, padded))[: len(inputs)])
        if vectors:
            return np.concatenate(vectors)
        one = jax.eval_shape(encode, *self._arrays, self.description.input_shape(tower, 1))
        return np.zeros((0, *one.shape[1:]), one.dtype)


def load(folder: str | Path) -> Model:
    """Returns the model in a folder that `mural export --format=safetensors` wrote.

    Raises UserError if the folder is incomplete, inconsistent, or has another layout.
    """
    folder = Path(folder).expanduser()
    description = ModelDescription.read(folder)
    tokenizer = Tokenizer.load(folder / VOCABULARY, description.tokenizer)
    _, params, statistics = abstract_model(
        description.model, description.spaces, description.vocab_size
    )
    stored = read_arrays(folder / WEIGHTS)
    tree = {'params': params, 'statistics': statistics}
    shapes = flatten(tree)
    # Every array, and scales only for arrays that are there.
    names = {name.removeprefix(SCALES) for name in stored}
    if wrong := (set(shapes) ^ names) | (set(shapes) - set(stored)):
        raise UserError(f'{folder / WEIGHTS} does not fit {DESCRIPTION}: see {sorted(wrong)[0]}.')
    for name, shape in shapes.items():
        if stored[name].shape != shape.shape:
            raise UserError(
                f'{folder / WEIGHTS} does not fit {DESCRIPTION}: {name} has another shape.'
            )
    # Dequantized once, so that a pass through the model does not do it each time.
    tree = unflatten_like(tree, dequantize(stored))
    return Model(description, tree['params'], tree['statistics'], tokenizer)
