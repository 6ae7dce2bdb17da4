"""A trained model as the formats export it, with examples to check an export."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mural_jax.data.tokenizer import Tokenizer
from mural_jax.inference.description import ModelDescription
from mural_jax.inference.images import load_squares
from mural_jax.models.functional import Params
from mural_jax.runs.run import Run
from mural_jax.types import UserError

TOWERS = ('image', 'text')
# Encodes prepared inputs, uint8 [N, H, H, 3] or int32 [N, L], to float32 [N, D].
Program = Callable[[np.ndarray], Any]


class Examples(NamedTuple):
    """Encoded images and texts, with the trainer's embeddings of them in `space`."""

    space: str
    images: Sequence[bytes]
    image_ND: np.ndarray
    texts: Sequence[str]
    text_ND: np.ndarray


@dataclasses.dataclass(frozen=True)
class TrainedModel:
    """A model to be exported.

    params, statistics: nested dicts of arrays with the structure of the described model.
    examples: what the check of the export encodes.
    workdir, step, config: where the model comes from, for the card.
    scores: of this checkpoint, as in the file `eval/STEP.json`; may be empty.
    """

    description: ModelDescription
    params: Params
    statistics: Params
    tokenizer: Tokenizer
    examples: Examples
    workdir: str
    step: int
    config: Mapping[str, Any]
    scores: Mapping[str, Any]

    @property
    def vocabulary(self) -> bytes:
        """The content of the vocabulary's file."""
        return self.tokenizer.model

    @property
    def pad_id(self) -> int:
        return self.tokenizer.pad_id

    @property
    def towers(self) -> list[str]:
        """The towers that are exported."""
        return [tower for tower in TOWERS if tower in self.description.spaces[self.space].sides]

    @property
    def space(self) -> str:
        """The default space."""
        return next(iter(self.description.spaces))

    @property
    def embedding(self) -> int:
        """Width of a vector in the default space."""
        return self.description.spaces[self.space].embedding


def build_encoders(
    source: TrainedModel, programs: Mapping[str, Program]
) -> dict[str, Callable[[Sequence], np.ndarray]]:
    """Returns encoders of images and texts by tower, which prepare the inputs of `programs`."""
    description = source.description

    def encode_images(images: Sequence) -> np.ndarray:
        image_NHHC = load_squares(list(images), description.image_size, description.resize)
        return np.asarray(programs['image'](image_NHHC))

    def encode_texts(texts: Sequence) -> np.ndarray:
        text_NL = source.tokenizer(list(texts), description.text_length)
        return np.asarray(programs['text'](text_NL))

    return {'image': encode_images, 'text': encode_texts}


def describe_model(run: Run, vocab_size: int, tower: str | None) -> ModelDescription:
    """Returns the description of a run's model, or of one tower of it.

    Raises UserError if the model needs more than an image, or if no space has the tower.
    """
    regions = run.regions
    if regions and (regions.by != 'patches' or run.tags):
        raise UserError(
            'This model takes regions or tags, and an image alone has none. Only models whose '
            "images are cut into patches (regions.by='patches') can be exported."
        )
    if regions and run.image_size % regions.side:
        raise UserError(
            f'Images of {run.image_size} pixels are no whole number of patches of '
            f'{regions.side}: such a model cannot be exported.'
        )
    # Spaces of images and texts come first: the first space is the default of the model.
    paired = run.paired_spaces
    spaces = {
        name: run.spaces[name].only(sides)
        for name in [*paired, *(name for name in run.spaces if name not in paired)]
        if (sides := _select_towers(run.spaces[name].sides, tower))
    }
    if not spaces:
        which = f' of the tower {tower!r}' if tower else ''
        raise UserError(f'No task of this run compares embeddings{which}: nothing can be exported.')
    for name, space in spaces.items():
        form = space.build_similarity().form
        # An exported encoder gives one vector for an image or a text.
        if form != 'dense':
            raise UserError(
                f'The space {name} compares {form}, and exports hold models that give one vector. '
                'Export a run whose spaces have a similarity of kind cosine or dot.'
            )
    return ModelDescription(
        model=_trim_model_config(run, tower),
        spaces=spaces,
        vocab_size=vocab_size,
        tokenizer=dataclasses.replace(run.tokenizer, path=''),
        text_length=run.text_length,
        image_size=run.image_size,
        resize=run.image_resize,
        regions=regions,
    )


def _select_towers(towers: Sequence[str], tower: str | None) -> tuple[str, ...]:
    return tuple(name for name in towers if name in TOWERS and tower in (None, name))


def _trim_model_config(run: Run, tower: str | None) -> dict[str, Any]:
    """Returns the config's node `model`, without towers that are not exported."""
    # Fused attention of one vendor would bind the export to its devices.
    node = {**run.model, 'attention': 'xla'}
    # The one tower of other kinds encodes images and texts.
    only = tower if run.model['kind'] == 'dual_encoder' else None
    node['towers'] = {
        name: settings for name, settings in node['towers'].items() if only in (None, name)
    }
    return node


def select_leaves(tree: Params, structure: Params) -> Params:
    """Returns the part of a tree that has the structure of `structure`."""
    return {
        key: select_leaves(tree[key], value) if isinstance(value, dict) else tree[key]
        for key, value in structure.items()
    }
