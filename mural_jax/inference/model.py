"""A trained model in a folder of its own: weights, a vocabulary, a description. Needs jax alone.

model = mural_jax.load('DIR')
image_ND = model.encode_image(['cat.png', 'dog.jpg'])
text_ND = model.encode_text(['a cat', 'paka', 'mushuk'])
score_NN = text_ND @ image_ND.T
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mural_jax.config.build import plain
from mural_jax.data.fields.region_settings import Regions
from mural_jax.data.tokenizer import Tokenizer, Vocabulary
from mural_jax.inference.pictures import Picture, squares
from mural_jax.models.build import abstract
from mural_jax.models.functional import Params, merge
from mural_jax.pretrained import files
from mural_jax.types import Array, UserError

WEIGHTS, VOCABULARY, ABOUT = 'model.safetensors', 'vocabulary', 'mural.json'
SCALES = 'scales/'  # before the name of an array of 8 bits: what it is multiplied by
LAYOUT = 1  # of the folder; another is not read
BATCH = 256  # examples of one pass, at most; ours


@dataclasses.dataclass(frozen=True)
class Space:
    """Where towers meet: a task that compares embeddings, as `tasks.Contrast` has it."""

    towers: tuple[str, ...]
    temperature: float
    bias: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What a folder says of its model.

    model: the node of the config. spaces: by the name of the task; the first is the one that is
    meant where none is named. tokenizer, vocab_size: of the vocabulary. text_length: tokens of a
    text, at most. image_size, resize: pixels, of a picture and before its middle is cut out.
    regions: how a picture becomes patches, None for a model that takes it whole.
    """

    model: Mapping[str, Any]
    spaces: Mapping[str, Space]
    tokenizer: Vocabulary
    vocab_size: int
    text_length: int
    image_size: int
    resize: int
    regions: Regions | None = None
    layout: int = LAYOUT

    @classmethod
    def read(cls, folder: Path) -> 'About':
        """Raises UserError where the folder holds no model that can be read."""
        path = folder / ABOUT
        try:
            words = json.loads(path.read_text(encoding='utf-8'))
            if words['layout'] != LAYOUT:
                raise UserError(
                    f'{path} is of layout {words["layout"]}, this version reads {LAYOUT}. Export '
                    'again, or use the version of mural_jax that exported it.'
                )
            given = plain(words)  # Lists become tuples, as a config has them.
            given['spaces'] = {name: Space(**space) for name, space in given['spaces'].items()}
            given['tokenizer'] = Vocabulary(**given['tokenizer'])
            given['regions'] = given['regions'] and Regions(**given['regions'])
            return cls(**given)
        except FileNotFoundError as error:
            raise UserError(
                f'{folder} holds no exported model: it has no {ABOUT}. '
                '`mural export --format=safetensors` makes one.'
            ) from error
        except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
            raise UserError(
                f'{path} cannot be read ({error!r}). Export the model again.'
            ) from error

    def inputs(self, tower: str, count: Any) -> jax.ShapeDtypeStruct:
        """The shape of so many pictures, or texts as tokens; `count` may be a symbol."""
        if tower == 'text':
            return jax.ShapeDtypeStruct((count, self.text_length), np.int32)
        return jax.ShapeDtypeStruct((count, self.image_size, self.image_size, 3), np.uint8)

    def text(self) -> str:
        """As `read` takes it."""
        return json.dumps(dataclasses.asdict(self), indent=1, sort_keys=False) + '\n'


Encode = Callable[[Params, Params, Any], Array]


def encoders(graphdef: Any, about: About, space: str) -> dict[str, Encode]:
    """By tower, pure functions of (parameters, statistics, inputs) -> unit vectors float32 [B, D].

    'image' takes uint8 [B, H, H, 3], 'text' int32 [B, L].
    """

    def encode(tower: str, params: Params, statistics: Params, inputs: Array) -> Array:
        if tower == 'image' and about.regions:
            inputs = patches(inputs, about.regions)
        model = merge(graphdef, params, statistics)
        return model.project(space, tower, model.encode(tower, inputs)).pooled_BD

    return {tower: partial(encode, tower) for tower in about.spaces[space].towers}


def patches(image_BHWC: Array, settings: Regions) -> Array:
    """Squares of the pictures and where they are, float32 [B, R, F + geometry].

    What `data.regions` makes of `by='patches'`, where the picture is a whole number of squares.
    """
    batch, size = image_BHWC.shape[:2]  # The batch may be a symbol.
    side = settings.side
    cells = size // side
    split = image_BHWC.reshape(batch, cells, side, cells, side, 3).swapaxes(2, 3)
    feature_BRF = split.reshape(batch, cells**2, -1).astype(jnp.float32) / 127.5 - 1
    row_R, column_R = np.divmod(np.arange(cells**2), cells)
    box_R4 = np.stack([column_R, row_R, column_R + 1, row_R + 1], -1) / np.float32(cells)
    width_R2 = box_R4[:, 2:] - box_R4[:, :2]
    sizes = width_R2.prod(1, keepdims=True) if settings.geometry == 5 else width_R2
    geometry_RG = np.concatenate([box_R4, sizes], axis=1)
    place_BRG = jnp.broadcast_to(geometry_RG[None], (batch, *geometry_RG.shape))
    return jnp.concatenate([feature_BRF, place_BRG], axis=-1)[:, : settings.most]


class Model:
    """Encodes pictures and texts of any language into one space."""

    def __init__(self, about: About, params: Params, statistics: Params, tokenizer: Tokenizer):
        """`params` and `statistics` as `assembly.abstract` shapes them."""
        self.about, self.tokenizer = about, tokenizer
        self._arrays = params, statistics
        graphdef = abstract(about.model, about.spaces, about.vocab_size)[0]
        self._passes = {
            name: {tower: jax.jit(one) for tower, one in encoders(graphdef, about, name).items()}
            for name in about.spaces
        }

    @property
    def spaces(self) -> list[str]:
        """The tasks in whose spaces can be compared; the first where none is named."""
        return [*self.about.spaces]

    def encode_image(
        self, pictures: Picture | Sequence[Picture], space: str | None = None
    ) -> np.ndarray:
        """Unit vectors, float32 [N, D].

        A picture is a file, its bytes, a Pillow image or uint8 [H, W, 3]; one alone gives N = 1.
        Raises UserError where one cannot be read.
        """
        array = isinstance(pictures, np.ndarray) and pictures.ndim == 3
        one = array or isinstance(pictures, str | Path | bytes | Image.Image)
        given: list[Picture] = [pictures] if one else list(pictures)  # type: ignore[list-item, arg-type]
        about = self.about

        def part(start: int, stop: int) -> np.ndarray:
            return squares(given[start:stop], about.image_size, about.resize)

        return self._encode('image', space, part, len(given))

    def encode_text(self, texts: str | Sequence[str], space: str | None = None) -> np.ndarray:
        """Unit vectors, float32 [N, D]; one text alone gives N = 1. What is too long is cut."""
        given = [texts] if isinstance(texts, str) else list(texts)
        if wrong := [text for text in given if not isinstance(text, str)]:
            raise UserError(f'{wrong[0]!r} is no text: give str.')

        def part(start: int, stop: int) -> np.ndarray:
            return self.tokenizer(given[start:stop], self.about.text_length)

        return self._encode('text', space, part, len(given))

    def _encode(
        self, tower: str, space: str | None, part: Callable[[int, int], np.ndarray], count: int
    ) -> np.ndarray:
        space = space or self.spaces[0]
        if space not in self._passes or tower not in self._passes[space]:
            found = [name for name, own in self._passes.items() if tower in own]
            raise UserError(
                f'This model has no tower {tower!r} in a space {space!r}; it has one in '
                f'{", ".join(found) or "none"}.'
            )
        encode = self._passes[space][tower]
        rows = []
        for start in range(0, count, BATCH):
            inputs = part(start, min(start + BATCH, count))
            # Batches of few sizes: each is compiled once.
            size = min(BATCH, 1 << (len(inputs) - 1).bit_length())
            filled = np.zeros((size, *inputs.shape[1:]), inputs.dtype)
            filled[: len(inputs)] = inputs
            rows.append(np.asarray(encode(*self._arrays, filled))[: len(inputs)])
        if rows:
            return np.concatenate(rows)
        none = jax.eval_shape(encode, *self._arrays, self.about.inputs(tower, 1))
        return np.zeros((0, *none.shape[1:]), none.dtype)


def load(folder: str | Path) -> Model:
    """The model that `mural export --format=safetensors` put into a folder.

    Raises UserError where it is not whole, or of another layout.
    """
    folder = Path(folder).expanduser()
    about = About.read(folder)
    tokenizer = Tokenizer.load(folder / VOCABULARY, about.tokenizer)
    _, params, statistics = abstract(about.model, about.spaces, about.vocab_size)
    given = files.read(folder / WEIGHTS)
    wanted = {'params': params, 'statistics': statistics}
    named = flat(wanted)
    found = {name.removeprefix(SCALES) for name in given}
    if wrong := (set(named) ^ found) | (set(named) - set(given)):
        raise UserError(f'{folder / WEIGHTS} does not go with {ABOUT}: {sorted(wrong)[0]}.')
    for name, shape in named.items():
        if given[name].shape != shape.shape:
            raise UserError(f'{folder / WEIGHTS} does not go with {ABOUT}: the shape of {name}.')
    # Once on the device, not with each pass.
    tree = unflat(wanted, full(given))
    return Model(about, tree['params'], tree['statistics'], tokenizer)


def full(stored: Mapping[str, Any]) -> dict[str, Array]:
    """Float32 arrays by name from those that are stored; those of 8 bits times their scales."""
    # In a program they stay as small as they are stored.
    arrays = {name: jnp.asarray(array).astype(jnp.float32) for name, array in stored.items()}
    return {
        name: array * arrays[SCALES + name] if SCALES + name in arrays else array
        for name, array in arrays.items() if not name.startswith(SCALES)
    }  # fmt: skip


def flat(tree: Mapping[str, Any], above: str = '') -> dict[str, Any]:
    """Leaves of nested dicts by path, 'params/towers/image/...'."""
    found: dict[str, Any] = {}
    for key, value in tree.items():
        own = above + key
        found |= flat(value, f'{own}/') if isinstance(value, Mapping) else {own: value}
    return found


def unflat(tree: Mapping[str, Any], leaves: Mapping[str, Any], above: str = '') -> dict[str, Any]:
    """The same nested dicts with these leaves."""
    return {
        key: unflat(value, leaves, f'{above}{key}/')
        if isinstance(value, Mapping) else leaves[above + key]
        for key, value in tree.items()
    }  # fmt: skip
