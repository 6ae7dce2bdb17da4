"""Checks of images and texts, which are decoded right, or refused with a reason."""

import io
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from data.datasets import draw_image, encode_image
from PIL import Image, ImageFile

from mural_jax.data.sets import checks
from mural_jax.data.sets.checks import BadRecord, RecordLimits
from mural_jax.data.sources.reader import Example, Text

IMAGE = draw_image(1, (61, 43))
PALETTE = IMAGE.quantize(64)
ALPHA = IMAGE.copy()
ALPHA.putalpha(Image.linear_gradient('L').resize(ALPHA.size))
WIDE = Image.fromarray(np.asarray(IMAGE.convert('L')).astype(np.uint16) * 257)
TURNED = Image.Exif()
TURNED[0x112] = 6
FRAMES: dict[str, Any] = {'save_all': True, 'append_images': [PALETTE.rotate(90)] * 5}


def decode_with_pillow(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB')).astype(int)


@pytest.mark.parametrize(
    ('image', 'form', 'options', 'most'),
    [
        (IMAGE, 'JPEG', {'quality': 95}, 2),
        (IMAGE, 'JPEG', {'quality': 95, 'progressive': True}, 2),
        (IMAGE.convert('L'), 'JPEG', {'quality': 95}, 2),
        # Pillow inverts CMYK, as Adobe does.
        (IMAGE.convert('CMYK'), 'JPEG', {'quality': 95}, 2),
        (PALETTE, 'GIF', {}, 0),
        (PALETTE, 'GIF', FRAMES, 0),
        (PALETTE, 'PNG', {}, 0),
        (PALETTE, 'PNG', {'transparency': 3}, 0),
        (ALPHA, 'PNG', {}, 0),
        (IMAGE.convert('L'), 'PNG', {}, 0),
        (IMAGE.convert('1'), 'PNG', {}, 0),
        (IMAGE, 'WEBP', {}, 0),
        (IMAGE, 'WEBP', {'lossless': True}, 0),
        (IMAGE, 'BMP', {}, 0),
        (IMAGE.convert('L'), 'BMP', {}, 0),
    ],
)
def test_colours_are_those_of_pillow(
    image: Image.Image, form: str, options: dict[str, Any], most: float
) -> None:
    """Transparent pixels show their stored colours, without a background."""
    data = encode_image(image, form, **options)
    found_HWC = checks.decode_image(data)
    assert found_HWC.dtype == np.uint8
    apart_HWC = abs(found_HWC - decode_with_pillow(data))
    assert apart_HWC.mean() <= most
    assert apart_HWC.max() <= 10 * most


def test_sixteen_bits_are_cut_to_eight() -> None:
    expected_HW = np.asarray(IMAGE.convert('L'))
    np.testing.assert_array_equal(checks.decode_image(encode_image(WIDE))[..., 1], expected_HW)


def test_exif_rotation_is_ignored() -> None:
    """Streams ignore it too, so portraits from phones lie on their side."""
    plain, turned = (encode_image(IMAGE, 'JPEG', exif=exif) for exif in (Image.Exif(), TURNED))
    assert b'Exif' in turned
    np.testing.assert_array_equal(checks.decode_image(plain), checks.decode_image(turned))


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'', 'has no bytes'),
        (b'<html>404</html>', 'is not readable'),
        (b'\0' * 1000, 'is not readable'),
        (encode_image(IMAGE, 'JPEG')[:-300], 'is broken'),
        (encode_image(IMAGE, 'JPEG')[:30], 'is not readable'),
        (encode_image(IMAGE)[:-300], 'is broken'),
        (encode_image(PALETTE, 'GIF')[:30], 'is not readable|is broken'),
        (encode_image(IMAGE, 'WEBP')[:100], 'is not readable|is broken'),
        (encode_image(IMAGE, 'BMP')[:500], 'is broken'),
        (encode_image(IMAGE, 'TIFF'), 'is TIFF'),
        # TensorFlow would mistake palette indices for grey values.
        (encode_image(PALETTE, 'BMP'), 'is BMP with a palette'),
        (encode_image(ALPHA, 'WEBP', lossless=True), 'is broken'),  # TensorFlow reads no alpha.
        (encode_image(IMAGE, 'WEBP', **FRAMES), 'is broken'),
    ],
)
def test_bad_images_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        checks.decode_image(data)
    stored = checks.make_record(
        Example('1', [('en', 'x', 'a')], data), RecordLimits(), has_image=True
    )
    assert stored['bad'].startswith('image ')
    assert stored['image'] == data
    assert stored['width'] == stored['hash'] == 0


def make_png_header(width: int, height: int) -> bytes:
    """A PNG whose header claims a size, with two bytes of pixels."""
    body = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    pixels = b'IDAT' + zlib.compress(b'\0\0')
    chunks = [
        struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
        for chunk in (body, pixels, b'IEND')
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunks)


def make_gif(*frames: Image.Image) -> bytes:
    """A GIF of 8 x 8 pixels with frames of any size."""
    data = b'GIF89a' + struct.pack('<HHBBB', 8, 8, 0xF0, 0, 0) + bytes(6)
    for frame in frames:
        body = encode_image(frame.convert('L'), 'GIF', optimize=False)
        start = body.index(b',', 13 + 768)  # Behind the palette.
        data += b',' + struct.pack('<HHHHB', 0, 0, *frame.size, 0) + body[start + 10 : -1]
    return data + b';'


def make_bombs() -> dict[str, bytes]:
    """Small files of images that have at least 100 megapixels once decoded."""
    large = Image.new('L', (10_000, 10_000))
    return {
        'header': make_png_header(10_000, 10_000),
        'beyond what Pillow opens': make_png_header(60_000, 60_000),
        'png': encode_image(large),
        'jpeg': encode_image(large, 'JPEG'),
        'webp': encode_image(large.convert('RGB'), 'WEBP', lossless=True, method=0),
        'gif': encode_image(large, 'GIF'),
        'a second frame': make_gif(Image.new('L', (8, 8)), large),
        'many frames': make_gif(*[Image.new('L', (1200, 1200))] * 70),
    }


MEASURE = """
import resource, sys
from pathlib import Path
from mural_jax.data.sets import checks
checks.decode_image(Path(sys.argv[1]).read_bytes())
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sys.argv[2:]:
    try:
        checks.decode_image(Path(path).read_bytes())
    except checks.BadRecord as error:
        assert 'too many pixels' in str(error), (path, error)
    else:
        raise AssertionError(path)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_large_images_are_refused_before_decoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {'good': encode_image(IMAGE), **make_bombs()}
    paths = [tmp_path / name for name in files]
    for path, data in zip(paths, files.values()):
        assert len(data) < 2_000_000
        path.write_bytes(data)
    command = [sys.executable, '-c', MEASURE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30_000, 'kilobytes; the smallest image would take 100,000'

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('a pixel was decoded')

    monkeypatch.setattr(tf.io, 'decode_image', fail)
    monkeypatch.setattr(ImageFile.ImageFile, 'load', fail)
    for path in paths[1:]:
        with pytest.raises(BadRecord, match='too many pixels'):
            checks.decode_image(path.read_bytes())


@pytest.mark.parametrize(
    ('text', 'cleaned'),
    [
        ('a dog', 'a dog'),
        ('  a \t\r\n dog\u3000\u00a0', 'a dog'),
        ('a\0dog\x07', 'a dog'),
        ('a\u2028dog\x85', 'a dog'),
        ('\u202bكلب (dog)\u202c \u200fبُنِّيّ', '\u202bكلب (dog)\u202c \u200fبُنِّيّ'),
        ('नमस्ते क्‍ष', 'नमस्ते क्‍ष'),
        ('e\u0301a\u0323', 'e\u0301a\u0323'),
        ('👩‍👩‍👧 🏳️‍🌈', '👩‍👩‍👧 🏳️‍🌈'),
        ('😀', '😀'),
        ('?', '?'),
        ('\ufeffdog', '\ufeffdog'),
    ],
)
def test_clean_text_keeps_marks_and_joiners(text: str, cleaned: str) -> None:
    assert checks.clean_text(text, 1000) == cleaned
    assert checks.clean_text(cleaned, 1000) == cleaned


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'empty'),
        (' \n\u3000', 'empty'),
        ('\0\0', 'empty'),
        ('\u200d', 'empty'),
        ('\u0301', 'empty'),
        ('\u202b\u202c', 'empty'),
        ('\ufeff', 'empty'),
        (b'caf\xe9'.decode('utf-8', 'surrogateescape'), 'not UTF-8'),
        ('\ud83d', 'not UTF-8'),
    ],
)
def test_bad_texts_are_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        checks.clean_text(text, 1000)


def test_megabyte_of_text_is_cut() -> None:
    assert checks.clean_text('dog ' * 250_000, 10_000) == ('dog ' * 2500)
    assert checks.clean_text('\0' * 100 + 'dog' + ' ' * 10**6, 50) == 'dog'
    assert len(checks.clean_text('犬' * 10**6, 10_000)) == 10_000


def test_good_texts_of_a_record_stay() -> None:
    texts = [('en', 'x', ' '), ('de', 'x', 'ein\0Hund'), ('en', 'x', '\udce9')]
    example = Example('1', texts, encode_image(IMAGE), where='dir\udcff/a.jsonl, row 1')
    stored = checks.make_record(example, RecordLimits(), has_image=True)
    assert stored['bad'] == ''
    assert stored['texts'] == {'language': ['de'], 'kind': ['x'], 'text': ['ein Hund']}
    assert (stored['width'], stored['height']) == (61, 43)
    assert stored['where'] == 'dir?/a.jsonl, row 1'


@pytest.mark.parametrize(
    ('texts', 'reason'), [([('en', 'x', '\udce9')], 'text is not UTF-8'), ([], 'no text')]
)
def test_record_without_good_text_is_bad(texts: list[Text], reason: str) -> None:
    stored = checks.make_record(Example('1', texts), RecordLimits(), has_image=True)
    assert stored['bad'] == reason
