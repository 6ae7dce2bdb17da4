"""One array of ours from the arrays of a published file: stacked, reshaped, interpolated."""

import math
from collections import defaultdict
from typing import Any, NamedTuple

import jax
import numpy as np

from mural_jax.types import UserError

FlatArrays = dict[str, Any]  # path -> array


class Piece(NamedTuple):
    """One of their arrays, transposed to our order, with its place in the array of ours.

    layer: its index in our stack of layers; None for an array that is not stacked.
    part: its index among arrays that lie side by side in ours, such as query, key and value; None
        if ours has one part.
    """

    name: str
    array: np.ndarray
    layer: int | None
    part: int | None


def assemble(
    path: str, pieces: list[Piece], ours: FlatArrays, notices: list[str], file: str
) -> np.ndarray:
    """Returns our array at `path`, in float32.

    pieces: the arrays of theirs that belong to it.
    ours: path -> array or shape of the whole model.
    notices: takes a line for each array that is changed to fit.
    file: its name, for messages.

    Raises UserError if layers or shapes do not fit.
    """
    shape = tuple(ours[path].shape)
    if pieces[0].layer is None:
        return _join_parts(path, pieces, shape, ours, notices, file)
    layers: dict[int, list[Piece]] = defaultdict(list)
    for piece in pieces:
        layers[piece.layer or 0].append(piece)
    if sorted(layers) != list(range(shape[0])):
        raise UserError(
            f'{file} has {len(layers)} layers for {path}, the model {shape[0]}. '
            'Set the depth of the tower to that of the file.'
        )
    stack = [
        _join_parts(path, layers[layer], shape[1:], ours, notices, file)
        for layer in range(shape[0])
    ]
    return np.stack(stack)


def _join_parts(
    path: str,
    pieces: list[Piece],
    shape: tuple[int, ...],
    ours: FlatArrays,
    notices: list[str],
    file: str,
) -> np.ndarray:
    """Returns one layer: its parts side by side along the last axis but one."""
    if pieces[0].part is None:
        # If several of their arrays go to this place, the last one counts.
        return _fit_shape(path, pieces[-1], shape, ours, notices, file)
    part_shape = (*shape[:-2], shape[-1])
    ordered = sorted(pieces, key=lambda piece: piece.part or 0)
    if len(ordered) != shape[-2]:
        raise UserError(f'{file} has {len(ordered)} of the {shape[-2]} arrays of {path}.')
    parts = [_fit_shape(path, piece, part_shape, ours, notices, file) for piece in ordered]
    return np.stack(parts, axis=-2)


def _fit_shape(
    path: str, piece: Piece, shape: tuple[int, ...], ours: FlatArrays, notices: list[str], file: str
) -> np.ndarray:
    """Returns the array in our shape: splits or joins dimensions, interpolates positions."""
    array = piece.array
    if path.endswith('/log_temperature'):
        array = -array  # They learn log(1 / temperature).
    array = np.asarray(array, np.float32)
    if path.endswith('position_LD') and array.size != math.prod(shape):
        positions_LD = array.reshape(-1, array.shape[-1])
        return _resize_positions(positions_LD, shape, path, ours, notices, file)
    # Equal sizes are not enough: [20, 8] must not become [8, 20]. Splitting or joining neighbouring
    # dimensions keeps all sizes of trailing dimensions, or adds some.
    their_sizes, our_sizes = _suffix_sizes(array.shape), _suffix_sizes(shape)
    if array.size == math.prod(shape) and (their_sizes <= our_sizes or their_sizes >= our_sizes):
        return array.reshape(shape)
    raise UserError(
        f'{file}: {piece.name} is {array.shape}, but {path} is {shape}. Sizes of config.model and '
        'of the file must agree. Nothing was placed.'
    )


def _suffix_sizes(shape: tuple[int, ...]) -> set[int]:
    """Returns the sizes of all trailing dimensions: {1, d_n, d_n-1 * d_n, ...}."""
    return {math.prod(shape[i:]) for i in range(len(shape) + 1)}


def _resize_positions(
    theirs_LD: np.ndarray,
    shape: tuple[int, ...],
    path: str,
    ours: FlatArrays,
    notices: list[str],
    file: str,
) -> np.ndarray:
    """Returns position embeddings for another number of patches or tokens, float32 [L, D].

    Positions of a text are cut, or interpolated linearly if more are needed. Positions of an image
    are interpolated bicubically over the grid, as timm does. The class token keeps its position, or
    gets zero if theirs has none (big_vision).
    """
    length, width = shape
    if theirs_LD.shape[1] != width:
        raise UserError(
            f'{file}: positions are {theirs_LD.shape}, but {path} is {shape}. Nothing was placed.'
        )
    root = path.removesuffix('position_LD')
    # A tower with a table of tokens reads text.
    if f'{root}token_VD' in ours:
        if length <= len(theirs_LD):
            notices.append(f'{path}: the first {length} of {len(theirs_LD)} positions')
            return theirs_LD[:length]
        notices.append(f'{path}: {len(theirs_LD)} positions interpolated to {length}')
        return np.asarray(jax.image.resize(theirs_LD, (length, width), 'linear'))
    class_LD = np.zeros((0, width), np.float32)
    if f'{root}class_D' in ours:
        # A grid is square. If their number is not, one position more belongs to the class token.
        has_class = not _is_square(len(theirs_LD))
        class_LD = theirs_LD[:1] if has_class else np.zeros((1, width), np.float32)
        theirs_LD = theirs_LD[1:] if has_class else theirs_LD
    side, theirs_side = math.isqrt(length - len(class_LD)), math.isqrt(len(theirs_LD))
    if not _is_square(len(theirs_LD)) or not _is_square(length - len(class_LD)):
        raise UserError(
            f'{file}: {len(theirs_LD)} positions are no square grid, nor can they become {shape} '
            f'for {path}. Nothing was placed.'
        )
    grid_HWD = theirs_LD.reshape(theirs_side, theirs_side, width)
    if side != theirs_side:
        notices.append(
            f'{path}: positions interpolated from {theirs_side}x{theirs_side} to {side}x{side}'
        )
        grid_HWD = np.asarray(jax.image.resize(grid_HWD, (side, side, width), 'cubic'))
    return np.concatenate([class_LD, grid_HWD.reshape(-1, width)])


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number
