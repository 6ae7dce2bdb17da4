"""Images read by Pillow: the same as those of the streams; unreadable ones are refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mural_jax.data.fields import images
from mural_jax.inference.images import MAX_PIXELS, ImageInput, load_squares, load_upright
from mural_jax.types import UserError

ORIENTATION = 0x0112  # the EXIF tag


def encode_noise(mode: str, width: int, height: int, kind: str = 'PNG') -> bytes:
    """Returns a file with random pixels."""
    rng = np.random.default_rng(width)
    noise = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
    stream = io.BytesIO()
    noise.convert(mode).save(stream, kind)
    return stream.getvalue()


# Larger and smaller than the square, grey, with a palette, in several formats.
FILES = {
    'same size': encode_noise('RGB', 32, 32),
    'larger': encode_noise('RGB', 90, 41),
    'smaller': encode_noise('RGB', 11, 17),
    'grey': encode_noise('L', 50, 50),
    'palette': encode_noise('P', 70, 30),
    'BMP': encode_noise('RGB', 45, 33, 'BMP'),
    'JPEG': encode_noise('RGB', 64, 48, 'JPEG'),
    'grey JPEG': encode_noise('L', 32, 32, 'JPEG'),
    'CMYK JPEG': encode_noise('CMYK', 40, 40, 'JPEG'),
}


@pytest.mark.parametrize(('size', 'resize'), [(32, 32), (24, 32), (64, 64)])
def test_images_agree_with_the_streams_up_to_rounding(size: int, resize: int) -> None:
    encoded = list(FILES.values())
    decoded = images.decode_images(tf.constant(encoded), resize)
    expected = images.crop_middle(decoded, size).numpy()
    squares = load_squares(encoded, size, resize)
    assert np.abs(squares.astype(int) - expected).max() <= 1


@pytest.mark.parametrize('size', [32, 24])
def test_image_that_needs_no_resizing_keeps_its_pixels(size: int) -> None:
    encoded = [FILES['same size']]
    decoded = images.decode_images(tf.constant(encoded), 32)
    expected = images.crop_middle(decoded, size).numpy()
    np.testing.assert_array_equal(load_squares(encoded, size, 32), expected)


def test_every_form_of_an_image_gives_the_same_pixels(tmp_path: Path) -> None:
    data = encode_noise('RGB', 20, 20)
    path = tmp_path / 'a.png'
    path.write_bytes(data)
    image = Image.open(path)
    squares = load_squares([data, path, str(path), image, np.asarray(image)], 16, 16)
    for square in squares[1:]:
        np.testing.assert_array_equal(square, squares[0])


def test_upright_image_is_turned_by_its_orientation() -> None:
    exif, stream = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = 6  # A quarter turn clockwise shows it upright.
    Image.new('RGB', (30, 20)).save(stream, 'JPEG', exif=exif)
    assert load_upright(stream.getvalue()).size == (20, 30)


def encode_bomb() -> bytes:
    """Returns a PNG of a few bytes whose header says 10,000 x 10,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))

    head = struct.pack('>IIBBBBB', 10_000, 10_000, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'\0'))


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (b'', 'no image in a known format'),
        (b'not an image at all', 'no image in a known format'),
        (encode_noise('RGB', 30, 30)[:200], 'cannot be read as an image'),
        (encode_bomb(), f'more than {MAX_PIXELS:,}'),
        ('nowhere.png', 'nowhere.png'),
        (np.zeros((4, 4), np.uint8), 'give uint8'),
        (np.zeros((4, 4, 3), np.float32), 'give uint8'),
    ],
    ids=['empty', 'text', 'truncated', 'bomb', 'missing', 'two dimensions', 'floats'],
)
def test_unreadable_image_is_refused_with_its_number(image: ImageInput, message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        load_squares([encode_noise('RGB', 8, 8), image], 8, 8)
    assert str(error.value).startswith('Image 1: ')
