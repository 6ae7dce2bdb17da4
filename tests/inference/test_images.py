"""Pictures by Pillow are those that the streams make with TensorFlow; what is none is refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from mural_jax.data.fields import images
from mural_jax.inference.images import MAX_PIXELS, load_squares
from mural_jax.types import UserError


def encoded(mode: str, width: int, height: int, kind: str = 'PNG') -> bytes:
    rng = np.random.default_rng(width)
    noise = Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
    stream = io.BytesIO()
    noise.convert(mode).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(('size', 'resize'), [(32, 32), (24, 32), (64, 64)])
def test_they_are_those_of_the_streams(size: int, resize: int) -> None:
    """Larger and smaller ones, grey ones, palettes; within the rounding of a filter."""
    pictures = [
        encoded('RGB', 32, 32),
        encoded('RGB', 90, 41),
        encoded('RGB', 11, 17),
        encoded('L', 50, 50),
        encoded('P', 70, 30),
        encoded('RGB', 45, 33, 'BMP'),
        encoded('RGB', 64, 48, 'JPEG'),
        encoded('L', 32, 32, 'JPEG'),
        encoded('CMYK', 40, 40, 'JPEG'),
    ]
    wanted = images.crop_middle(images.decode_images(tf.constant(pictures), resize), size).numpy()
    found = load_squares(pictures, size, resize)
    assert np.abs(found.astype(int) - wanted).max() <= 1
    np.testing.assert_array_equal(found[0], wanted[0]) if resize == 32 else None


def test_it_takes_what_a_picture_can_be(tmp_path: Path) -> None:
    data = encoded('RGB', 20, 20)
    path = tmp_path / 'a.png'
    path.write_bytes(data)
    opened = Image.open(path)
    each = load_squares([data, path, str(path), opened, np.asarray(opened)], 16, 16)
    for one in each[1:]:
        np.testing.assert_array_equal(one, each[0])


def bomb() -> bytes:
    """A PNG of a few bytes that says it is as wide as a street."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))

    head = struct.pack('>IIBBBBB', 10_000, 10_000, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(b'\0'))


@pytest.mark.parametrize(
    ('picture', 'said'),
    [
        (b'', 'no picture of a kind'),
        (b'no picture at all', 'no picture of a kind'),
        (encoded('RGB', 30, 30)[:200], 'cannot be read as a picture'),
        (bomb(), f'more than {MAX_PIXELS:,}'),
        ('nowhere.png', 'nowhere.png'),
        (np.zeros((4, 4), np.uint8), 'give uint8'),
        (np.zeros((4, 4, 3), np.float32), 'give uint8'),
    ],
    ids=['empty', 'text', 'cut', 'bomb', 'missing', 'flat', 'floats'],
)
def test_what_is_none_is_refused_by_its_number(picture: object, said: str) -> None:
    with pytest.raises(UserError, match=said) as error:
        load_squares([encoded('RGB', 8, 8), picture], 8, 8)  # type: ignore[list-item]
    assert str(error.value).startswith('Picture 1: ')
