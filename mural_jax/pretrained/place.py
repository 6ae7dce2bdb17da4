"""Placement of the arrays of a published file in a model, with a report on each array."""

import dataclasses
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping

import numpy as np

from mural_jax.pretrained.assemble import FlatArrays, Piece, assemble
from mural_jax.pretrained.files import Arrays
from mural_jax.pretrained.layouts import LAYOUTS
from mural_jax.pretrained.rules import Rule, WeightLayout, prefix_rules
from mural_jax.types import UserError


@dataclasses.dataclass
class PlacementReport:
    """What happened to the arrays of a file.

    placed: number of their arrays that were placed.
    unplaced: names of their arrays that were left out.
    notices: arrays that were changed to fit, such as interpolated positions.
    """

    layout: str
    placed: int = 0
    unplaced: list[str] = dataclasses.field(default_factory=list)
    notices: list[str] = dataclasses.field(default_factory=list)

    def lines(self) -> list[str]:
        """Returns lines for the console, with the name of every array that was left out."""
        lines = [f'{self.placed} arrays placed ({self.layout})', *self.notices]
        if self.unplaced:
            names = ', '.join(_group_names(self.unplaced))
            lines.append(f'{len(self.unplaced)} not placed: {names}')
        return lines


def place_arrays(
    source: Arrays, ours: FlatArrays, role: str, file: str, paired: Collection[str] = ()
) -> tuple[FlatArrays, PlacementReport]:
    """Returns (the arrays of ours that `source` fills, by path; the report).

    source: the arrays of the file by their names.
    ours: path -> array or `jax.ShapeDtypeStruct` of the whole model, parameters and batch
        statistics.
    role: 'model', or the tower to fill.
    file: its name, for messages.
    paired: the spaces that compare images with texts. They get the temperature and the bias of a
        whole model.

    Raises UserError if no layout matches the file, if an array has another shape than ours, or if
    the file holds another architecture than the tower.
    """
    layout, prefix = _find_layout(source, file)
    rules, roots = _select_rules(layout, prefix, role, file)
    report = PlacementReport(layout.name)
    placed = set()
    pieces: dict[str, list[Piece]] = defaultdict(list)
    for name, original, array in canonicalize_names(source):
        targets = _find_targets(name, array, rules, ours, paired)
        if targets is None:
            report.unplaced.append(original)
            continue
        for path, piece in targets:
            pieces[path].append(piece._replace(name=original))
        # One of their arrays may be split in several; it counts once.
        placed.add(original)
    report.placed = len(placed)
    missing = [
        path for path in ours if path not in pieces and any(path.startswith(root) for root in roots)
    ]
    if missing:
        raise UserError(
            f'{file} ({layout.name}) has nothing for {", ".join(_group_names(missing))}: it is of '
            'another architecture than config.model.towers. Nothing was placed.'
        )
    filled = {
        path: assemble(path, parts, ours, report.notices, file)
        for path, parts in sorted(pieces.items())
    }
    return filled, report


def _find_layout(source: Arrays, file: str) -> tuple[WeightLayout, str]:
    """Returns the layout of the file and the prefix of its names."""
    for layout in LAYOUTS:
        for prefix in layout.prefixes:
            if all(prefix + name in source for name in layout.signature):
                return layout, prefix
    examples = ', '.join(sorted(source)[:3])
    raise UserError(
        f'{file} has no known layout: its arrays are {examples}, ... The known layouts are '
        f'{"; ".join(layout.name for layout in LAYOUTS)}.'
    )


def _select_rules(
    layout: WeightLayout, prefix: str, role: str, file: str
) -> tuple[list[Rule], list[str]]:
    """Returns the rules, with our paths from the root of the model, and the subtrees to fill.

    A subtree has to be filled completely. The heads are not among them: a model may have heads
    that the file lacks.
    """
    sides = {'image': layout.image, 'text': layout.text}
    if role == 'model':
        if not layout.image:
            raise UserError(
                f'{file} is one tower ({layout.name}), not a whole model. Give it as '
                'config.init_from.image or config.init_from.text.'
            )
        roots = [f'towers/{side}/' for side in sides]
        rules = [
            rule
            for root, side_rules in zip(roots, sides.values())
            for rule in prefix_rules(side_rules, prefix, root)
        ]
        return rules + list(layout.model), roots
    tower_rules = layout.tower or sides.get(role, ())
    if not tower_rules:
        raise UserError(f'{file} ({layout.name}) has no tower {role!r}; it has image and text.')
    root = f'towers/{role}/'
    return list(prefix_rules(tower_rules, prefix, root)), [root]


def canonicalize_names(source: Arrays) -> Iterator[tuple[str, str, np.ndarray]]:
    """Yields (name as the rules have it, name in the file, array).

    Libraries write some arrays in several ways; each becomes the one that the rules know.
    """
    for original, array in source.items():
        name = original
        # timm's EfficientNet numbers the parts of a block from its first one. A block that does not
        # expand its channels starts with the depthwise convolution, so its numbers are one lower.
        block = re.match(r'(blocks\.\d+\.\d+\.)(.*)', name)
        depthwise = f'{block[1]}conv_dw.weight' in source if block else False
        if block and depthwise and f'{block[1]}conv_pwl.weight' not in source:
            names = {'bn1': 'bn2', 'bn2': 'bn3', 'conv_pw': 'conv_pwl'}
            first, dot, rest = block[2].partition('.')
            name = block[1] + names.get(first, first) + dot + rest
        # The checkpoints of the ViT paper have big_vision's names with other numbers.
        name = name.replace('MultiHeadDotProductAttention_1', 'MultiHeadDotProductAttention_0')
        name = name.replace('MlpBlock_3', 'MlpBlock_0').replace('Transformer/posembed_input/', '')
        if 'encoderblock' in name:
            name = name.replace('LayerNorm_2', 'LayerNorm_1')
        if '/encoderblock/' in name:
            # big_vision scanned the layers, so one array holds all of them.
            for layer, part in enumerate(array):
                yield name.replace('/encoderblock/', f'/encoderblock_{layer}/'), original, part
        elif name.endswith(('head.attention.in_proj_weight', 'head.attention.in_proj_bias')):
            # SigLIP's attention pooling: PyTorch fuses q, k and v; ours has q and kv.
            base, leaf = name.split('in_proj_')
            third = len(array) // 3
            yield f'{base}q.{leaf}', original, array[:third]
            yield f'{base}kv.{leaf}', original, array[third:]
        else:
            yield name, original, array


def _find_targets(
    name: str, array: np.ndarray, rules: Iterable[Rule], ours: FlatArrays, paired: Collection[str]
) -> list[tuple[str, Piece]] | None:
    """Returns our paths for an array with its piece of each, or None if it has no place."""
    for rule in rules:
        match = rule.pattern.fullmatch(name)
        if not match:
            continue
        groups = match.groupdict()
        path, layer = _resolve_path(rule.ours, groups)
        leaf = groups.get('leaf')
        if leaf:
            path = f'{path}/{rule.kind.leaves[leaf]}'
        transposed = leaf == 'weight' if rule.kind.transposed is None else rule.kind.transposed
        part = rule.parts.index(groups['part']) if groups.get('part') else None
        piece = Piece(name, _transpose(array) if transposed else array, layer, part)
        paths = _expand_spaces(path, ours, paired)
        if paths:
            return [(path, piece) for path in paths]
        # Our model may have no such head or scalar, but its towers must be those of the file.
        if rule.optional or '*' in path:
            return None
        raise UserError(
            f'{name} has no place in the model, which has no {path}: the tower is of another '
            'architecture than the file. See the keys of config.model.towers.'
        )
    return None


def _resolve_path(ours: str, groups: Mapping[str, str | None]) -> tuple[str, int | None]:
    """Returns the path with the numbers of a name filled in, and the layer within a stack."""
    layer = int(groups['layer'] or 0) if 'layer' in groups else None
    if groups.get('stage'):
        stage = int(groups['stage'] or 0)
        ours = ours.replace('%-1', str(stage - 1)).replace('%', str(stage))
    if '@' in ours and layer is not None:
        # The first block of a stage has a shape of its own (stride, width) and stands alone; the
        # others are stacked and counted from 0.
        if layer == 0:
            return ours.replace('@', 'first'), None
        return ours.replace('@', 'blocks'), layer - 1
    return ours, layer


def _expand_spaces(path: str, ours: FlatArrays, paired: Collection[str]) -> list[str]:
    """Returns our paths that match `path`, in which * stands for the name of a space.

    Heads go to all spaces, temperature and bias to those that compare images with texts.
    """
    if '*' not in path:
        return [path] if path in ours else []
    pattern = re.compile(re.escape(path).replace(r'\*', '([^/]+)'))
    matches = [match for match in map(pattern.fullmatch, ours) if match]
    return [match[0] for match in matches if '/heads/' in path or match[1] in paired]


def _transpose(array: np.ndarray) -> np.ndarray:
    """Returns PyTorch's [out, in] or OIHW as our [in, out] or HWIO."""
    return array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T


def _group_names(names: list[str]) -> list[str]:
    """Returns the names; those that differ only in numbers become one, with their count."""
    counts = Counter(re.sub(r'\d+', '#', name) for name in names)
    examples = {re.sub(r'\d+', '#', name): name for name in names}
    return [examples[key] if count == 1 else f'{key} ({count})' for key, count in counts.items()]
