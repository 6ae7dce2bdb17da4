"""Placing the arrays of a published file in a model, each one accounted for."""

import dataclasses
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from mural_jax.pretrained.files import Arrays
from mural_jax.pretrained.layouts import LAYOUTS, Layout, Rule
from mural_jax.types import UserError

Flat = dict[str, Any]  # path -> array


class Piece(NamedTuple):
    """One of their arrays on its way: turned our way, with its place in a stacked one of ours."""

    name: str
    array: np.ndarray
    layer: int | None
    part: int | None


@dataclasses.dataclass
class Report:
    """What happened to the arrays of a file."""

    layout: str
    placed: int = 0
    unplaced: list[str] = dataclasses.field(default_factory=list)
    notices: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """For the console, every array that was left out by name."""
        lines = [f'{self.placed} arrays placed ({self.layout})', *self.notices]
        if self.unplaced:
            lines.append(f'{len(self.unplaced)} not placed: {", ".join(_grouped(self.unplaced))}')
        return lines


def place(
    source: Arrays, ours: Flat, role: str, file: str, paired: Collection[str] = ()
) -> tuple[Flat, Report]:
    """(the arrays that `source` fills, by our path; the report).

    ours: path -> array or `jax.ShapeDtypeStruct` of the whole model, parameters and batch
    statistics. role: 'model', or the tower to fill. file: for messages. paired: the tasks that
    compare pictures with texts, which get temperature and bias of a whole model.

    Raises UserError where the file is of no known layout, where an array has another shape than
    ours, or where the tower and the file are not of one architecture.
    """
    layout, prefix = _layout(source, file)
    rules, roots = _rules(layout, prefix, role, file)
    report = Report(layout.name)
    placed = set()
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for name, original, array in _canonical(source):
        target = _target(name, array, rules, ours, paired)
        if target is None:
            report.unplaced.append(original)
            continue
        for path, piece in target:
            pieces[path].append(piece._replace(name=original))
        placed.add(original)
    report.placed = len(placed)
    lacking = [
        path for path in ours if path not in pieces and any(path.startswith(r) for r in roots)
    ]
    if lacking:
        raise UserError(
            f'{file} ({layout.name}) has nothing for {", ".join(_grouped(lacking))}: it is of '
            'another architecture than config.model.towers. Nothing was placed.'
        )
    filled = {
        path: _assemble(path, found, ours, report, file) for path, found in sorted(pieces.items())
    }
    return filled, report


def _layout(source: Arrays, file: str) -> tuple[Layout, str]:
    for layout in LAYOUTS:
        for prefix in layout.prefixes:
            if all(prefix + name in source for name in layout.has):
                return layout, prefix
    some = ', '.join(sorted(source)[:3])
    raise UserError(
        f'{file} is of no layout that is known: its arrays are {some}, ... Known are '
        f'{"; ".join(layout.name for layout in LAYOUTS)}.'
    )


def _rules(layout: Layout, prefix: str, role: str, file: str) -> tuple[list[Rule], list[str]]:
    """The rules with our paths from the root of the model on, and the roots that must be full."""
    sides = {'image': layout.image, 'text': layout.text}
    if role == 'model':
        if not layout.image:
            raise UserError(
                f'{file} is one tower ({layout.name}), not a whole model. Give it as '
                'config.init_from.image or config.init_from.text.'
            )
        roots = [f'towers/{side}/' for side in sides]
        rules = [_at(r, prefix, root) for root, s in zip(roots, sides.values()) for r in s]
        return rules + list(layout.model), roots
    chosen = layout.tower or sides.get(role, ())
    if not chosen:
        raise UserError(f'{file} ({layout.name}) has no tower {role!r}; it has image and text.')
    root = f'towers/{role}/'
    return [_at(rule, prefix, root) for rule in chosen], [root]


def _at(rule: Rule, prefix: str, root: str) -> Rule:
    return rule._replace(theirs=prefix + rule.theirs, ours=root + rule.ours)


def _canonical(source: Arrays) -> Iterator[tuple[str, str, np.ndarray]]:
    """(name as the rules know it, their name, array): what libraries write in several ways."""
    for original, array in source.items():
        name = original
        # Blocks that do not expand: names count from the depthwise convolution on.
        block = re.match(r'(blocks\.\d+\.\d+\.)(.*)', name)
        depthwise = f'{block[1]}conv_dw.weight' in source if block else False
        if block and depthwise and f'{block[1]}conv_pwl.weight' not in source:
            names = {'bn1': 'bn2', 'bn2': 'bn3', 'conv_pw': 'conv_pwl'}
            first, dot, rest = block[2].partition('.')
            name = block[1] + names.get(first, first) + dot + rest
        # The checkpoints of the ViT paper: big_vision's names, counted otherwise.
        name = name.replace('MultiHeadDotProductAttention_1', 'MultiHeadDotProductAttention_0')
        name = name.replace('MlpBlock_3', 'MlpBlock_0').replace('Transformer/posembed_input/', '')
        if 'encoderblock' in name:
            name = name.replace('LayerNorm_2', 'LayerNorm_1')
        if '/encoderblock/' in name:  # Scanned: all layers in one array.
            for layer, part in enumerate(array):
                yield name.replace('/encoderblock/', f'/encoderblock_{layer}/'), original, part
        elif name.endswith(('head.attention.in_proj_weight', 'head.attention.in_proj_bias')):
            base, leaf = name.split('in_proj_')
            third = len(array) // 3
            yield f'{base}q.{leaf}', original, array[:third]
            yield f'{base}kv.{leaf}', original, array[third:]
        else:
            yield name, original, array


def _target(
    name: str, array: np.ndarray, rules: Iterable[Rule], ours: Flat, paired: Collection[str]
) -> list[tuple[str, Piece]] | None:
    """Where an array goes, in all tasks that have the place; None for nowhere."""
    for rule in rules:
        match = rule.pattern.fullmatch(name)
        if not match:
            continue
        found = match.groupdict()
        path, layer = _path(rule.ours, found)
        leaf = found.get('leaf')
        if leaf:
            path = f'{path}/{rule.kind.leaves[leaf]}'
        turned = leaf == 'weight' if rule.kind.turned is None else rule.kind.turned
        part = rule.parts.index(found['part']) if found.get('part') else None
        piece = Piece(name, _turn(array) if turned else array, layer, part)
        paths = _expand(path, ours, paired)
        if paths:
            return [(path, piece) for path in paths]
        if rule.optional or '*' in path:
            return None
        raise UserError(
            f'{name} has no place in the model, which has no {path}: the tower is of another '
            'architecture than the file. See the keys of config.model.towers.'
        )
    return None


def _path(ours: str, found: Mapping[str, str | None]) -> tuple[str, int | None]:
    layer = int(found['layer'] or 0) if 'layer' in found else None
    if found.get('stage'):
        stage = int(found['stage'] or 0)
        ours = ours.replace('%-1', str(stage - 1)).replace('%', str(stage))
    if '@' in ours and layer is not None:
        if layer == 0:
            return ours.replace('@', 'first'), None
        return ours.replace('@', 'blocks'), layer - 1
    return ours, layer


def _expand(path: str, ours: Flat, paired: Collection[str]) -> list[str]:
    """The paths of ours that `path`, with * for a task, stands for."""
    if '*' not in path:
        return [path] if path in ours else []
    pattern = re.compile(re.escape(path).replace(r'\*', '([^/]+)'))
    found = [match for match in map(pattern.fullmatch, ours) if match]
    return [match[0] for match in found if path.startswith('heads') or match[1] in paired]


def _turn(array: np.ndarray) -> np.ndarray:
    """PyTorch's [out, in] and OIHW as ours, [in, out] and HWIO."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _assemble(path: str, pieces: list[Piece], ours: Flat, report: Report, file: str) -> np.ndarray:
    """One array of ours from those of theirs, in float32."""
    shape = tuple(ours[path].shape)
    if pieces[0].layer is None:
        return _side_by_side(path, pieces, shape, ours, report, file)
    layers: dict[int, list[Piece]] = defaultdict(list)
    for piece in pieces:
        layers[piece.layer or 0].append(piece)
    if sorted(layers) != list(range(shape[0])):
        raise UserError(
            f'{file} has {len(layers)} layers for {path}, the model {shape[0]}. '
            'Set the depth of the tower to that of the file.'
        )
    stack = [
        _side_by_side(path, layers[layer], shape[1:], ours, report, file)
        for layer in range(shape[0])
    ]
    return np.stack(stack)


def _side_by_side(
    path: str, pieces: list[Piece], shape: tuple[int, ...], ours: Flat, report: Report, file: str
) -> np.ndarray:
    if pieces[0].part is None:
        return _fit(path, pieces[-1], shape, ours, report, file)
    each = (*shape[:-2], shape[-1])
    ordered = sorted(pieces, key=lambda piece: piece.part or 0)
    if len(ordered) != shape[-2]:
        raise UserError(f'{file} has {len(ordered)} of the {shape[-2]} arrays of {path}.')
    parts = [_fit(path, piece, each, ours, report, file) for piece in ordered]
    return np.stack(parts, axis=-2)


def _fit(
    path: str, piece: Piece, shape: tuple[int, ...], ours: Flat, report: Report, file: str
) -> np.ndarray:
    """The array in our shape: dimensions are split or joined, positions interpolated."""
    array = piece.array
    if path.startswith('log_temperature'):
        array = -array  # They learn log(1 / temperature).
    array = np.asarray(array, np.float32)
    if path.endswith('position_LD') and array.size != math.prod(shape):
        return _positions(array.reshape(-1, array.shape[-1]), shape, path, ours, report, file)
    steps, wanted = _steps(array.shape), _steps(shape)
    if array.size == math.prod(shape) and (steps <= wanted or steps >= wanted):
        return array.reshape(shape)
    raise UserError(
        f'{file}: {piece.name} is {array.shape}, but {path} is {shape}. Sizes of config.model and '
        'of the file must agree. Nothing was placed.'
    )


def _steps(shape: tuple[int, ...]) -> set[int]:
    """The sizes of a shape's trailing parts: those of a reshaped array lie between them."""
    return {math.prod(shape[i:]) for i in range(len(shape) + 1)}


def _positions(
    theirs_LD: np.ndarray, shape: tuple[int, ...], path: str, ours: Flat, report: Report,
    file: str,
) -> np.ndarray:  # fmt: skip
    """Positions for another number of patches or of tokens, float32 [L, D].

    Of a picture: bicubic over the grid (timm's way); a class token keeps its own, or gets zero
    where theirs has none (big_vision). Of a text: the first ones, or more by linear interpolation.
    """
    length, width = shape
    if theirs_LD.shape[1] != width:
        raise UserError(
            f'{file}: positions are {theirs_LD.shape}, but {path} is {shape}. Nothing was placed.'
        )
    root = path.removesuffix('position_LD')
    if f'{root}token_VD' in ours:
        if length <= len(theirs_LD):
            report.notices.append(f'{path}: the first {length} of {len(theirs_LD)} positions')
            return theirs_LD[:length]
        report.notices.append(f'{path}: {len(theirs_LD)} positions interpolated to {length}')
        return np.asarray(jax.image.resize(theirs_LD, (length, width), 'linear'))
    first_LD = np.zeros((0, width), np.float32)
    if f'{root}class_D' in ours:
        own = not _is_square(len(theirs_LD))
        first_LD = theirs_LD[:1] if own else np.zeros((1, width), np.float32)
        theirs_LD = theirs_LD[1:] if own else theirs_LD
    side, theirs_side = math.isqrt(length - len(first_LD)), math.isqrt(len(theirs_LD))
    if not _is_square(len(theirs_LD)) or not _is_square(length - len(first_LD)):
        raise UserError(
            f'{file}: {len(theirs_LD)} positions are no square grid, nor can they become {shape} '
            f'for {path}. Nothing was placed.'
        )
    grid_HWD = theirs_LD.reshape(theirs_side, theirs_side, width)
    if side != theirs_side:
        report.notices.append(
            f'{path}: positions interpolated from {theirs_side}x{theirs_side} to {side}x{side}'
        )
        grid_HWD = np.asarray(jax.image.resize(grid_HWD, (side, side, width), 'cubic'))
    return np.concatenate([first_LD, grid_HWD.reshape(-1, width)])


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def _grouped(names: list[str]) -> list[str]:
    """Names; those that differ in numbers alone as one, with their count."""
    counts = Counter(re.sub(r'\d+', '#', name) for name in names)
    shown = {re.sub(r'\d+', '#', name): name for name in names}
    return [shown[key] if count == 1 else f'{key} ({count})' for key, count in counts.items()]
