"""Pictures as a model takes them, by Pillow: what the streams do with TensorFlow."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mural_jax.types import UserError

MOST_PIXELS = 64_000_000  # of one picture; decoding more can fill the memory. Ours.

Picture = str | Path | bytes | Image.Image | np.ndarray


def squares(pictures: list[Picture], size: int, resize: int) -> np.ndarray:
    """uint8 [N, size, size, 3]: each resized to a square of `resize`, its middle cut out.

    A picture is a file, its bytes, a Pillow image or uint8 [H, W, 3]. Raises UserError, with the
    number of the picture, where one cannot be read or has more than MOST_PIXELS.
    """
    first = (resize - size) // 2
    middle = slice(first, first + size)
    image_NSSC = np.empty((len(pictures), size, size, 3), np.uint8)
    for number, picture in enumerate(pictures):
        try:
            image_NSSC[number] = resized(opened(picture), resize)[middle, middle]
        except UserError as error:
            raise UserError(f'Picture {number}: {error}') from error
    return image_NSSC


def upright(picture: Picture, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The picture as people see it: turned as its camera was held. Streams do not turn theirs."""
    return ImageOps.exif_transpose(opened(picture, most_pixels))


def opened(picture: Picture, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The picture in RGB, decoded. Raises UserError where that cannot be, or it is too large."""
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
            raise UserError(
                f'an array of {picture.dtype} {list(picture.shape)} is no picture: give uint8 '
                '[height, width, 3].'
            )
        return Image.fromarray(picture)
    if isinstance(picture, bytes):
        picture = io.BytesIO(picture)  # type: ignore[assignment]
    try:
        # Pillow warns of bombs; here they are refused before they are decoded.
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            image = picture if isinstance(picture, Image.Image) else Image.open(picture)
        pixels = image.width * image.height
        if pixels > most_pixels:
            raise UserError(f'it has {pixels:,} pixels, more than {most_pixels:,}.')
        return image.convert('RGB')
    except UnidentifiedImageError as error:
        raise UserError('it is no picture of a kind that can be read.') from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f'it cannot be read as a picture ({error}).') from error


def resized(image: Image.Image, side: int) -> np.ndarray:
    """uint8 [side, side, 3], a triangle filter as wide as what becomes one pixel."""
    if image.size == (side, side):
        return np.asarray(image)
    # Band by band in floats: Pillow rounds to whole numbers between its two passes otherwise.
    bands = [
        np.asarray(
            Image.fromarray(np.asarray(band, np.float32)).resize(
                (side, side), Image.Resampling.BILINEAR
            )
        )
        for band in image.split()
    ]
    return np.clip(np.round(np.stack(bands, axis=-1)), 0, 255).astype(np.uint8)
