"""Counterparts of our models in other libraries, and our weights by their names."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mural_jax.exports.trained import TrainedModel
from mural_jax.inference.arrays import flatten
from mural_jax.pretrained.place import place_arrays
from mural_jax.types import UserError

# What the config of a model has to say, so that another library's model computes the same.
NO_BIAS = dict(kind='linear', bias=False)
CLIP_IMAGE = dict(kind='vit', pool='class', embedding_norm=True, patch_bias=False)
SIGLIP_IMAGE = dict(kind='vit', pool='map', embedding_norm=False, patch_bias=True)
BERT = dict(kind='bert', pool='pooler')
# Defaults of towers and heads, for settings that a config leaves out.
DEFAULTS = dict(
    pool='mean',
    embedding_norm=False,
    patch_bias=True,
    causal=False,
    attend_padding=False,
    bias=False,
)
# Indices are placed as two digits of this base, because arrays are placed in float32, which holds
# integers exactly up to 2^24.
BASE = 1 << 22
# Arrays of theirs that our model may lack: counters, and a bias, which is then zero.
OPTIONAL = ('position_ids', 'logit_bias')


class Architecture(NamedTuple):
    """Settings that the towers and heads of a model must have."""

    name: str
    towers: Mapping[str, Mapping[str, Any]]
    heads: Mapping[str, Mapping[str, Any]]


CLIP = Architecture(
    'CLIP',
    {'image': CLIP_IMAGE, 'text': dict(kind='transformer', pool='eot', causal=True)},
    {'image': NO_BIAS, 'text': NO_BIAS},
)
SIGLIP = Architecture(
    'SigLIP',
    {
        'image': SIGLIP_IMAGE,
        'text': dict(kind='transformer', pool='last', causal=False, attend_padding=True),
    },
    {'image': dict(kind='identity'), 'text': dict(kind='linear', bias=True)},
)
CLIP_BERT = Architecture(
    'ViT of CLIP and BERT', {'image': CLIP_IMAGE, 'text': BERT}, {'image': NO_BIAS, 'text': NO_BIAS}
)


def match_architecture(
    source: TrainedModel, architectures: tuple[Architecture, ...], library: str
) -> Architecture:
    """Returns the first architecture that the model has.

    Raises UserError if it has none. The message names the nearest one and what differs.
    """
    if len(source.towers) != 2:
        raise UserError(f'A model of {library} has both towers: leave out --tower.')
    if source.description.regions:
        raise UserError(f'{library} has no model of one transformer for images and texts.')
    misfits = {one.name: _list_misfits(source, one) for one in architectures}
    for architecture in architectures:
        if not misfits[architecture.name]:
            return architecture
    nearest = min(misfits, key=lambda name: sum(misfit.weight for misfit in misfits[name]))
    differences = '; '.join(misfit.text for misfit in misfits[nearest])
    raise UserError(
        f'{library} has no counterpart of this model. The nearest is {nearest}, but '
        f'{differences}. Use --format=safetensors, stablehlo, onnx or savedmodel.'
    )


class Misfit(NamedTuple):
    """A difference between a model and an architecture.

    text: the difference, as a clause. weight: its distance, to find the nearest architecture.
    """

    text: str
    weight: int = 1


def _list_misfits(source: TrainedModel, architecture: Architecture) -> list[Misfit]:
    """Returns what differs between a model and an architecture."""
    model, space = source.description.model, source.description.spaces[source.space]
    misfits: list[Misfit] = []
    for name, required in architecture.towers.items():
        misfits += _list_differences(f'towers.{name}', model['towers'][name], required)
    for name, required in architecture.heads.items():
        misfits += _list_differences(
            f'spaces.{source.space}.heads.{name}', space.heads.get(name, NO_BIAS), required
        )
    if len(model['towers']['image'].get('patches', (16,))) > 1:
        misfits.append(Misfit('towers.image.patches has several levels'))
    return misfits


def _list_differences(
    path: str, node: Mapping[str, Any], required: Mapping[str, Any]
) -> list[Misfit]:
    """Returns what differs between the config node of a tower or head and required settings."""
    if node.get('kind') != required['kind']:
        # A tower of another kind is further away than one with other settings.
        return [Misfit(f'{path} is of kind {node.get("kind")}, not {required["kind"]}', weight=10)]
    return [
        Misfit(f'{path}.{key} is {node.get(key, DEFAULTS.get(key))!r}, not {value!r}')
        for key, value in required.items()
        if key != 'kind' and node.get(key, DEFAULTS.get(key)) != value
    ]


def rename_weights(
    source: TrainedModel, theirs: Mapping[str, np.ndarray], library: str
) -> dict[str, Any]:
    """Returns our weights by the names and in the shapes of another library, in float32.

    theirs: the arrays of a model of the library; only names, shapes and sizes matter.

    The rules in `pretrained` only lead from their arrays to ours. To go the other way, every number
    of theirs gets an index, and the rules place the indices in our arrays. Each entry of ours then
    tells where it belongs among theirs, through any transposition, splitting or stacking.

    Raises UserError if an array of ours has no place in theirs, or one of theirs stays empty.
    """
    space = source.space
    ours = {
        path: value
        for path, value in flatten(source.params).items()
        if path.startswith('towers/') or path.split('/')[1] == space
    }
    # Indices run through all arrays of theirs; `starts` has the first index of each.
    starts, start = {}, 0
    for name, array in theirs.items():
        starts[name], start = start, start + array.size
    high, low = (_place_indices(theirs, starts, ours, space, library, part) for part in (0, 1))
    if homeless := sorted(ours.keys() - low.keys()):
        raise UserError(f'{library} has no place for {homeless[0]}: the model cannot be exported.')
    flat = np.full(start, np.nan, np.float32)
    for path, array in low.items():
        # Placing negates the log temperature. Its index is then negative, which tells to negate
        # the value on the way back.
        index = np.abs(high[path]).astype(np.int64) * BASE + np.abs(array).astype(np.int64) - 1
        value = np.asarray(ours[path], np.float32).reshape(array.shape)
        flat[index.reshape(-1)] = (np.sign(array) * value).reshape(-1)
    filled = {
        name: flat[starts[name] : starts[name] + array.size].reshape(array.shape)
        for name, array in theirs.items()
    }
    return {
        name: _check_filled(name, filled[name], array, library) for name, array in theirs.items()
    }


def _place_indices(
    theirs: Mapping[str, np.ndarray],
    starts: Mapping[str, int],
    ours: dict[str, Any],
    space: str,
    library: str,
    part: int,
) -> dict[str, np.ndarray]:
    """Returns the indices of their numbers, placed in arrays like ours, by our paths.

    part: 0 for the high digit of an index, 1 for the low digit plus 1, which is never zero and so
        has a sign.
    """
    digits = {}
    for name, array in theirs.items():
        index = starts[name] + np.arange(array.size).reshape(array.shape)
        digits[name] = (index % BASE + 1 if part else index // BASE).astype(np.float32)
    return place_arrays(digits, ours, 'model', library, [space])[0]


def _check_filled(name: str, filled: np.ndarray, theirs: np.ndarray, library: str) -> np.ndarray:
    """Returns the array, or a default for one of OPTIONAL that our model lacks.

    Raises UserError if a part of any other array is missing.
    """
    missing = np.isnan(filled)
    if name.endswith(OPTIONAL) and missing.all():
        return theirs if name.endswith('position_ids') else np.zeros_like(theirs)
    if missing.any():
        raise UserError(
            f'{library} needs {name}, and this model has nothing for it: it is of another '
            'architecture.'
        )
    return filled
