"""Images as a model takes them, read by Pillow: what the streams do with TensorFlow."""

import io
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from mural_jax.types import UserError

MAX_PIXELS = 64_000_000  # of one image: decoding more could fill the memory (ours)

ImageInput = str | Path | bytes | Image.Image | np.ndarray


def load_squares(images: list[ImageInput], size: int, resize: int) -> np.ndarray:
    """Returns uint8 [N, size, size, 3]: each image resized to a square, and its middle cropped.

    images: paths of files, encoded bytes, Pillow images or arrays uint8 [H, W, 3].
    resize: side of the square in pixels, at least `size`.

    Raises UserError, with the index of the image, if one cannot be read or has more than
    MAX_PIXELS.
    """
    first = (resize - size) // 2
    middle = slice(first, first + size)
    image_NHHC = np.empty((len(images), size, size, 3), np.uint8)
    for number, image in enumerate(images):
        try:
            image_NHHC[number] = resize_square(load_image(image), resize)[middle, middle]
        except UserError as error:
            raise UserError(f'Image {number}: {error}') from error
    return image_NHHC


def load_upright(image: ImageInput, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns the image in RGB as people see it, turned by the orientation in its EXIF data.

    The streams and `load_squares` do not turn images. Raises UserError as `load_image` does.
    """
    return ImageOps.exif_transpose(load_image(image, max_pixels))


def load_image(image: ImageInput, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Returns the decoded image in RGB.

    Raises UserError if it cannot be decoded or has more than `max_pixels`.
    """
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise UserError(
                f'an array of {image.dtype} {list(image.shape)} is no image: give uint8 '
                '[height, width, 3].'
            )
        return Image.fromarray(image)
    if isinstance(image, bytes):
        image = io.BytesIO(image)  # type: ignore[assignment]
    try:
        # Pillow only warns about images of enormous size. Here they are refused by their header,
        # before they are decoded.
        with warnings.catch_warnings():
            warnings.simplefilter('ignore', Image.DecompressionBombWarning)
            source = image if isinstance(image, Image.Image) else Image.open(image)
        pixels = source.width * source.height
        if pixels > max_pixels:
            raise UserError(f'it has {pixels:,} pixels, more than {max_pixels:,}.')
        return source.convert('RGB')
    except UnidentifiedImageError as error:
        raise UserError('it is no image in a known format.') from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, UserError):  # a ValueError too
            raise
        raise UserError(f'it cannot be read as an image ({error}).') from error


def resize_square(image: Image.Image, side: int) -> np.ndarray:
    """Returns uint8 [side, side, 3], resized by a triangle filter with antialiasing.

    The filter is as wide as the pixels that become one, like `tf.image.resize(antialias=True)`.
    """
    if image.size == (side, side):
        return np.asarray(image)
    # Each band in floats: for whole images Pillow rounds to integers between its two passes, and
    # the result would differ from TensorFlow's by more than rounding once.
    bands = [
        np.asarray(
            Image.fromarray(np.asarray(band, np.float32)).resize(
                (side, side), Image.Resampling.BILINEAR
            )
        )
        for band in image.split()
    ]
    return np.clip(np.round(np.stack(bands, axis=-1)), 0, 255).astype(np.uint8)
