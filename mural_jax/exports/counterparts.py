"""Architectures that other libraries have too, and our weights under their names."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mural_jax.exports.trained import Subject
from mural_jax.inference.model import flat
from mural_jax.pretrained.place import place
from mural_jax.types import UserError

NO_BIAS = dict(kind='linear', bias=False)
CLIP_IMAGE = dict(kind='vit', pool='class', embedding_norm=True, patch_bias=False)
SIGLIP_IMAGE = dict(kind='vit', pool='map', embedding_norm=False, patch_bias=True)
BERT = dict(kind='bert', pool='pooler')
DEFAULTS = dict(
    pool='mean',
    embedding_norm=False,
    patch_bias=True,
    causal=False,
    attend_padding=False,
    bias=False,
)  # of towers and heads, where a config does not name them
BASE = 1 << 22  # Numbers below it are exact in float32, in which arrays are placed.
# Theirs that ours may lack: counters, and a bias that is then zero.
OPTIONAL = ('position_ids', 'logit_bias')


class Shape(NamedTuple):
    """What a model has to be: settings of its towers and heads."""

    name: str
    towers: Mapping[str, Mapping[str, Any]]
    heads: Mapping[str, Mapping[str, Any]]


CLIP = Shape(
    'CLIP',
    {'image': CLIP_IMAGE, 'text': dict(kind='transformer', pool='eot', causal=True)},
    {'image': NO_BIAS, 'text': NO_BIAS},
)
SIGLIP = Shape(
    'SigLIP',
    {
        'image': SIGLIP_IMAGE,
        'text': dict(kind='transformer', pool='last', causal=False, attend_padding=True),
    },
    {'image': dict(kind='identity'), 'text': dict(kind='linear', bias=True)},
)
CLIP_BERT = Shape(
    'ViT of CLIP and BERT', {'image': CLIP_IMAGE, 'text': BERT}, {'image': NO_BIAS, 'text': NO_BIAS}
)


def chosen(subject: Subject, shapes: tuple[Shape, ...], library: str) -> Shape:
    """The shape that the model has. Raises UserError, saying what does not fit, where it has none.

    Where no shape fits, the nearest one is told.
    """
    if len(subject.towers) != 2:
        raise UserError(f'A model of {library} has both towers: leave --tower out.')
    if subject.about.regions:
        raise UserError(f'{library} has no model of one transformer for pictures and texts.')
    wrong = {shape.name: _misfits(subject, shape) for shape in shapes}
    for shape in shapes:
        if not wrong[shape.name]:
            return shape
    # A tower of another kind is further away than any of its settings.
    near = min(wrong, key=lambda name: sum(10 if ' is a ' in x else 1 for x in wrong[name]))
    raise UserError(
        f'{library} has no counterpart of this model. The nearest is {near}, but '
        f'{"; ".join(wrong[near])}. Use --format=safetensors, stablehlo, onnx or savedmodel.'
    )


def _misfits(subject: Subject, shape: Shape) -> list[str]:
    """What is otherwise, a sentence each."""
    model, found = subject.about.model, []
    for name, wanted in shape.towers.items():
        found += _differences(f'towers.{name}', model['towers'][name], wanted)
    for name, wanted in shape.heads.items():
        found += _differences(f'heads.{name}', model.get('heads', {}).get(name, NO_BIAS), wanted)
    if len(model['towers']['image'].get('patches', (16,))) > 1:
        found.append('towers.image.patches has several levels')
    return found


def _differences(where: str, node: Mapping[str, Any], wanted: Mapping[str, Any]) -> list[str]:
    if node.get('kind') != wanted['kind']:
        return [f'{where} is a {node.get("kind")}, not a {wanted["kind"]}']
    return [
        f'{where}.{key} is {node.get(key, DEFAULTS.get(key))!r}, not {value!r}'
        for key, value in wanted.items()
        if key != 'kind' and node.get(key, DEFAULTS.get(key)) != value
    ]


def named(subject: Subject, theirs: Mapping[str, np.ndarray], library: str) -> dict[str, Any]:
    """Our weights in the shapes of another library's, float32, by its names.

    The rules that read such weights say where each number goes: numbers that count up are placed
    by them, and what lands where is where ours go back to. Raises UserError where something of
    ours has no place there.
    """
    space = subject.space
    ours = {
        path: value
        for path, value in flat(subject.params).items()
        if path.startswith('towers/') or path.split('/')[1] == space
    }
    starts, start = {}, 0
    for name, array in theirs.items():
        starts[name], start = start, start + array.size
    high, low = (_placed(theirs, starts, ours, space, library, part) for part in (0, 1))
    if lost := sorted(ours.keys() - low.keys()):
        raise UserError(f'{library} has no place for {lost[0]}: the model cannot be exported.')
    whole = np.full(start, np.nan, np.float32)
    for path, array in low.items():
        # What is learned with the other sign there comes back with it.
        number = np.abs(high[path]).astype(np.int64) * BASE + np.abs(array).astype(np.int64) - 1
        value = np.asarray(ours[path], np.float32).reshape(array.shape)
        whole[number.reshape(-1)] = (np.sign(array) * value).reshape(-1)
    filled = {
        name: whole[starts[name] : starts[name] + array.size].reshape(array.shape)
        for name, array in theirs.items()
    }
    return {name: _whole(name, filled[name], array, library) for name, array in theirs.items()}


def _placed(
    theirs: Mapping[str, np.ndarray], starts: Mapping[str, int], ours: dict[str, Any], space: str,
    library: str, part: int,
) -> dict[str, np.ndarray]:  # fmt: skip
    """Numbers of theirs by our paths: their high part, or their low one and 1, so none is zero."""
    numbered = {}
    for name, array in theirs.items():
        number = starts[name] + np.arange(array.size).reshape(array.shape)
        numbered[name] = (number % BASE + 1 if part else number // BASE).astype(np.float32)
    return place(numbered, ours, 'model', library, [space])[0]


def _whole(name: str, filled: np.ndarray, theirs: np.ndarray, library: str) -> np.ndarray:
    missing = np.isnan(filled)
    if name.endswith(OPTIONAL) and missing.all():
        return theirs if name.endswith('position_ids') else np.zeros_like(theirs)
    if missing.any():
        raise UserError(f'{library} has {name}, and this model nothing for it: it is of another '
                        'architecture.')  # fmt: skip
    return filled
