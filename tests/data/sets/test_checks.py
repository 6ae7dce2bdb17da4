"""Every bad picture and text is decoded right or refused with a reason; none takes the process."""

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
from mural_jax.data.sources.reader import Example

PICTURE = draw_image(1, (61, 43))
PALETTE = PICTURE.quantize(64)
ALPHA = PICTURE.copy()
ALPHA.putalpha(Image.linear_gradient('L').resize(ALPHA.size))
WIDE = Image.fromarray(np.asarray(PICTURE.convert('L')).astype(np.uint16) * 257)
TURNED = Image.Exif()
TURNED[0x112] = 6
FRAMES: dict[str, Any] = {'save_all': True, 'append_images': [PALETTE.rotate(90)] * 5}


def rgb(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert('RGB')).astype(int)


@pytest.mark.parametrize(
    ('image', 'form', 'options', 'most'),
    [
        (PICTURE, 'JPEG', {'quality': 95}, 2),
        (PICTURE, 'JPEG', {'quality': 95, 'progressive': True}, 2),
        (PICTURE.convert('L'), 'JPEG', {'quality': 95}, 2),
        # Pillow writes it inverted, as Adobe does.
        (PICTURE.convert('CMYK'), 'JPEG', {'quality': 95}, 2),
        (PALETTE, 'GIF', {}, 0),
        (PALETTE, 'GIF', FRAMES, 0),
        (PALETTE, 'PNG', {}, 0),
        (PALETTE, 'PNG', {'transparency': 3}, 0),
        (ALPHA, 'PNG', {}, 0),
        (PICTURE.convert('L'), 'PNG', {}, 0),
        (PICTURE.convert('1'), 'PNG', {}, 0),
        (PICTURE, 'WEBP', {}, 0),
        (PICTURE, 'WEBP', {'lossless': True}, 0),
        (PICTURE, 'BMP', {}, 0),
        (PICTURE.convert('L'), 'BMP', {}, 0),
    ],
)
def test_pictures_have_the_colours_that_pillow_sees(
    image: Image.Image, form: str, options: dict[str, Any], most: float
) -> None:
    """What is transparent shows the colours that are stored there, on no ground."""
    data = encode_image(image, form, **options)
    found_HWC = checks.decode_image(data)
    assert found_HWC.dtype == np.uint8
    apart_HWC = abs(found_HWC - rgb(data))
    assert apart_HWC.mean() <= most
    assert apart_HWC.max() <= 10 * most


def test_sixteen_bits_are_cut_to_eight() -> None:
    expected_HW = np.asarray(PICTURE.convert('L'))
    np.testing.assert_array_equal(checks.decode_image(encode_image(WIDE))[..., 1], expected_HW)


def test_a_picture_that_says_it_is_turned_stays_as_it_is_stored() -> None:
    """EXIF is not heeded, neither here nor in streams: portraits of phones lie on their side."""
    plain, turned = (encode_image(PICTURE, 'JPEG', exif=exif) for exif in (Image.Exif(), TURNED))
    assert b'Exif' in turned
    np.testing.assert_array_equal(checks.decode_image(plain), checks.decode_image(turned))


@pytest.mark.parametrize(
    ('data', 'reason'),
    [
        (b'', 'has no bytes'),
        (b'<html>404</html>', 'is not readable'),
        (b'\0' * 1000, 'is not readable'),
        (encode_image(PICTURE, 'JPEG')[:-300], 'is broken'),
        (encode_image(PICTURE, 'JPEG')[:30], 'is not readable'),
        (encode_image(PICTURE)[:-300], 'is broken'),
        (encode_image(PALETTE, 'GIF')[:30], 'is not readable|is broken'),
        (encode_image(PICTURE, 'WEBP')[:100], 'is not readable|is broken'),
        (encode_image(PICTURE, 'BMP')[:500], 'is broken'),
        (encode_image(PICTURE, 'TIFF'), 'is TIFF'),
        # TensorFlow would take the numbers of its colours for grey values.
        (encode_image(PALETTE, 'BMP'), 'is BMP with a palette'),
        (encode_image(ALPHA, 'WEBP', lossless=True), 'is broken'),  # TensorFlow reads no alpha there
        (encode_image(PICTURE, 'WEBP', **FRAMES), 'is broken'),
    ],
)
def test_bad_pictures_are_refused_with_a_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadRecord, match=reason):
        checks.decode_image(data)
    stored = checks.make_record(
        Example('1', [('en', 'x', 'a')], data), RecordLimits(), has_image=True
    )
    assert stored['bad'].startswith('image ')
    assert stored['image'] == data
    assert stored['width'] == stored['hash'] == 0


def png_header(width: int, height: int) -> bytes:
    """A PNG that says it is so large, with two bytes of pixels."""
    body = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    pixels = b'IDAT' + zlib.compress(b'\0\0')
    chunks = [
        struct.pack('>I', len(chunk) - 4) + chunk + struct.pack('>I', zlib.crc32(chunk))
        for chunk in (body, pixels, b'IEND')
    ]
    return b'\x89PNG\r\n\x1a\n' + b''.join(chunks)


def gif_of_frames(*frames: Image.Image) -> bytes:
    """A GIF of 8 x 8 pixels with frames of any size."""
    data = b'GIF89a' + struct.pack('<HHBBB', 8, 8, 0xF0, 0, 0) + bytes(6)
    for frame in frames:
        body = encode_image(frame.convert('L'), 'GIF', optimize=False)
        start = body.index(b',', 13 + 768)  # behind its colours
        data += b',' + struct.pack('<HHHHB', 0, 0, *frame.size, 0) + body[start + 10 : -1]
    return data + b';'


def bombs() -> dict[str, bytes]:
    """Small files with pictures of at least 100 megapixels, once they are decoded."""
    large = Image.new('L', (10_000, 10_000))
    return {
        'header': png_header(10_000, 10_000),
        'beyond what Pillow opens': png_header(60_000, 60_000),
        'png': encode_image(large),
        'jpeg': encode_image(large, 'JPEG'),
        'webp': encode_image(large.convert('RGB'), 'WEBP', lossless=True, method=0),
        'gif': encode_image(large, 'GIF'),
        'a second frame': gif_of_frames(Image.new('L', (8, 8)), large),
        'many frames': gif_of_frames(*[Image.new('L', (1200, 1200))] * 70),
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


def test_large_pictures_are_refused_before_a_pixel_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {'good': encode_image(PICTURE), **bombs()}
    paths = [tmp_path / name for name in files]
    for path, data in zip(paths, files.values()):
        assert len(data) < 2_000_000
        path.write_bytes(data)
    command = [sys.executable, '-c', MEASURE, *map(str, paths)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 30_000, 'kilobytes; the least of the pictures takes 100,000'

    def never(*args: Any, **kwargs: Any) -> None:
        raise AssertionError('a pixel was decoded')

    monkeypatch.setattr(tf.io, 'decode_image', never)
    monkeypatch.setattr(ImageFile.ImageFile, 'load', never)
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
def test_texts_are_cleaned_and_their_marks_stay(text: str, cleaned: str) -> None:
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


def test_a_megabyte_of_text_is_cut() -> None:
    assert checks.clean_text('dog ' * 250_000, 10_000) == ('dog ' * 2500)
    assert checks.clean_text('\0' * 100 + 'dog' + ' ' * 10**6, 50) == 'dog'
    assert len(checks.clean_text('犬' * 10**6, 10_000)) == 10_000


def test_the_good_texts_of_a_record_stay() -> None:
    texts = [('en', 'x', ' '), ('de', 'x', 'ein\0Hund'), ('en', 'x', '\udce9')]
    example = Example('1', texts, encode_image(PICTURE), where='dir\udcff/a.jsonl, row 1')
    stored = checks.make_record(example, RecordLimits(), has_image=True)
    assert stored['bad'] == ''
    assert stored['texts'] == {'language': ['de'], 'kind': ['x'], 'text': ['ein Hund']}
    assert (stored['width'], stored['height']) == (61, 43)
    assert stored['where'] == 'dir?/a.jsonl, row 1'
    lost = checks.make_record(Example('1', texts[2:]), RecordLimits(), has_image=True)
    assert lost['bad'] == 'text is not UTF-8'
    assert checks.make_record(Example('1', []), RecordLimits(), has_image=True)['bad'] == 'no text'
