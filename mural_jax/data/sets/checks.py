"""Checks and cleans examples, by the same rules when data is ingested and when it is read."""

import dataclasses
import io
import re
import struct
import unicodedata
import warnings
from typing import Any

import tensorflow as tf
from PIL import Image

from mural_jax.data.sets import hashes, schema
from mural_jax.data.sources.reader import Example, Text

# Pillow's names of the formats that TensorFlow decodes; MPO is JPEG with more than one image.
FORMATS = ('JPEG', 'MPO', 'PNG', 'GIF', 'WEBP', 'BMP')
MAX_PIXELS = 50_000_000  # 150 MB once decoded (ours).
SURROGATE = re.compile('[\ud800-\udfff]')  # what Python puts for bytes that are not UTF-8
MAX_CHARACTERS = 10_000  # Far more than the tokens of any text tower (ours).


class BadRecord(ValueError):
    """The example cannot be used.

    The message is the reason. There are only a few different reasons, so that they can be counted.
    """


@dataclasses.dataclass(frozen=True)
class RecordLimits:
    """Limits of a record.

    max_pixels: Largest number of pixels of an image; a larger image makes the record bad.
    max_characters: Length at which a text is cut.
    """

    max_pixels: int = MAX_PIXELS
    max_characters: int = MAX_CHARACTERS


def make_record(example: Example, limits: RecordLimits, *, has_image: bool) -> dict[str, Any]:
    """The record of an example as it is stored: with clean texts, and `bad` set to what is wrong.

    An example is bad if none of its texts is usable, or, with `has_image`, if its image is not.
    """
    texts, reasons = clean_texts(example.texts, limits.max_characters)
    bad, size, hash_ = example.bad, (0, 0), 0
    if not texts and not bad:
        bad = reasons[0] if reasons else 'no text'
    if has_image and not bad:
        try:
            image_HWC = decode_image(example.image, limits.max_pixels)
            size, hash_ = image_HWC.shape[1::-1], hashes.image_hash(image_HWC)
        except BadRecord as error:
            bad = str(error)
    # Surrogate escapes cannot be stored as UTF-8; in an id or a place they become '?'.
    identity, where = (x.encode(errors='replace').decode() for x in (example.id, example.where))
    cleaned = dataclasses.replace(example, texts=texts, bad=bad, id=identity, where=where)
    return schema.make_record(
        cleaned, has_image=has_image, width=size[0], height=size[1], hash=hash_
    )


def clean_texts(texts: list[Text], max_characters: int) -> tuple[list[Text], list[str]]:
    """(clean texts, reasons why the other texts are left out)."""
    clean, reasons = [], []
    for language, kind, text in texts:
        try:
            clean.append((language, kind, clean_text(text, max_characters)))
        except BadRecord as error:
            reasons.append(str(error))
    return clean, reasons


def clean_text(text: str, max_characters: int) -> str:
    """A text without control characters, with single spaces, cut to `max_characters`.

    Marks of direction, joiners and combining marks stay, because they change how a text reads.

    Raises:
      BadRecord: The text is empty, or its bytes were not UTF-8.
    """
    # A first generous cut, so that a text of megabytes costs no more than a long one.
    text = text[: 4 * max_characters]
    if SURROGATE.search(text):
        raise BadRecord('text is not UTF-8')
    if not text.isprintable():
        text = ''.join(
            ' ' if unicodedata.category(character) in ('Cc', 'Zl', 'Zp') else character
            for character in text
        )
    text = ' '.join(text.split())[:max_characters]
    if not any(unicodedata.category(character)[0] not in 'CZM' for character in text):
        raise BadRecord('text is empty')
    return text


def decode_image(encoded: bytes, max_pixels: int = MAX_PIXELS) -> Any:
    """An image as uint8 [H, W, 3], decoded by the decoder of the streams.

    The header is read first: an image with more than `max_pixels` is never decoded, so a small
    file cannot take gigabytes of memory.

    Raises:
      BadRecord: The image is unusable.
    """
    if not encoded:
        raise BadRecord('image has no bytes')
    form, width, height = read_header(encoded)
    if form not in FORMATS:
        raise BadRecord(f'image is {form}')
    if width * height > max_pixels:
        raise BadRecord('image has too many pixels')
    if form == 'GIF' and _count_gif_pixels(encoded) > max_pixels:
        raise BadRecord('image has too many pixels')
    try:
        with tf.device('cpu'):
            return tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
    except (tf.errors.OpError, ValueError) as error:
        raise BadRecord('image is broken') from error


def read_header(encoded: bytes) -> tuple[str, int, int]:
    """(format, width, height) from the header alone.

    Raises:
      BadRecord: Pillow cannot read the header, or finds the image too large.
    """
    try:
        with warnings.catch_warnings():
            # Pillow warns of large images, which `decode_image` refuses itself.
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(encoded)) as image:
                form = image.format or 'unknown'
                # TensorFlow mistakes palette indices and run lengths (compressions 1 and 2) for
                # colours.
                if form == 'BMP' and (image.mode == 'P' or image.info.get('compression') in (1, 2)):
                    form = 'BMP with a palette'
                return form, image.width, image.height
    except Exception as error:  # Pillow raises many kinds of errors for broken headers.
        if isinstance(error, Image.DecompressionBombError):
            raise BadRecord('image has too many pixels') from error
        raise BadRecord('image is not readable') from error


def _count_gif_pixels(encoded: bytes) -> int:
    """An upper bound of the pixels of all frames of a GIF.

    TensorFlow decodes all frames before it takes the first one. Each frame has a size of its own,
    which the header does not bound, so this is frames * largest width * largest height.
    """
    frames, width, height = 0, 0, 0
    try:
        # A header of 13 bytes and the global palette, then blocks: extensions ('!'), images (',').
        place = 13 + _gif_palette_size(encoded[10])
        while encoded[place] in b'!,':
            if encoded[place] == ord(','):
                size = struct.unpack_from('<HH', encoded, place + 5)
                frames, width, height = frames + 1, max(width, size[0]), max(height, size[1])
                place += 11 + _gif_palette_size(encoded[place + 9])
            else:
                place += 2
            # The data of a block is a chain of pieces, each with its length; 0 ends it.
            while encoded[place]:
                place += encoded[place] + 1
            place += 1
    except (IndexError, struct.error):
        pass  # The file is cut off: only the frames that are there count.
    return frames * width * height


def _gif_palette_size(flags: int) -> int:
    """Bytes of a GIF's palette, 3 for each of its 2, 4, ... 256 colours; 0 without a palette."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
