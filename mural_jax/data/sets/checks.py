"""What is wrong with an example: the same rules when data is ingested and when it is read."""

import dataclasses
import io
import struct
import unicodedata
import warnings
from typing import Any

import tensorflow as tf
from PIL import Image

from mural_jax.data.sets import hashes, schema
from mural_jax.data.sources.reader import Example, Text

FORMATS = ('JPEG', 'MPO', 'PNG', 'GIF', 'WEBP', 'BMP')  # What TensorFlow decodes; MPO is JPEG.
MAX_PIXELS = 50_000_000  # ours: 150 MB decoded
MAX_CHARACTERS = 10_000  # ours: far beyond any tower's tokens


class BadRecord(ValueError):
    """This example cannot be used; the message is the reason, one of few for all data."""


@dataclasses.dataclass(frozen=True)
class RecordLimits:
    """What is too much. max_pixels: of a picture. max_characters: of a text, cut there."""

    max_pixels: int = MAX_PIXELS
    max_characters: int = MAX_CHARACTERS


def make_fields(example: Example, limits: RecordLimits, *, has_image: bool) -> dict[str, Any]:
    """The example as it is stored, texts cleaned, `bad` set to what is wrong with it."""
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
    identity, where = (x.encode(errors='replace').decode() for x in (example.id, example.where))
    cleaned = dataclasses.replace(example, texts=texts, bad=bad, id=identity, where=where)
    return schema.make_fields(
        cleaned, has_image=has_image, width=size[0], height=size[1], hash=hash_
    )


def clean_texts(texts: list[Text], max_characters: int) -> tuple[list[Text], list[str]]:
    """The usable texts, cleaned, and the reasons why others are left out."""
    kept, reasons = [], []
    for language, kind, text in texts:
        try:
            kept.append((language, kind, clean_text(text, max_characters)))
        except BadRecord as error:
            reasons.append(str(error))
    return kept, reasons


def clean_text(text: str, max_characters: int) -> str:
    """A text without control characters, spaces collapsed, cut to `max_characters`.

    Marks of direction, joiners and combining marks stay: they are part of how a text reads.
    Raises BadRecord for an empty text and for bytes that were no UTF-8.
    """
    # More is cut than is kept, so that a text of megabytes costs no more than a long one.
    text = text[: 4 * max_characters]
    if any('\ud800' <= character <= '\udfff' for character in text):
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
    """A picture as uint8 [H, W, 3], by the decoder that streams use.

    Raises BadRecord. The header is read first: what says it has more than `max_pixels` is never
    decoded, so that a small file cannot take gigabytes.
    """
    if not encoded:
        raise BadRecord('picture has no bytes')
    form, width, height = read_header(encoded)
    if form not in FORMATS:
        raise BadRecord(f'picture is {form}')
    if width * height > max_pixels:
        raise BadRecord('picture has too many pixels')
    if form == 'GIF' and _count_gif_pixels(encoded) > max_pixels:
        raise BadRecord('picture has too many pixels')
    try:
        with tf.device('cpu'):
            return tf.io.decode_image(encoded, channels=3, expand_animations=False).numpy()
    except (tf.errors.OpError, ValueError) as error:
        raise BadRecord('picture is broken') from error


def read_header(encoded: bytes) -> tuple[str, int, int]:
    """(format, width, height) by the header alone. Raises BadRecord where it says none."""
    try:
        with warnings.catch_warnings():
            # Large pictures are ours to refuse.
            warnings.simplefilter('ignore')
            with Image.open(io.BytesIO(encoded)) as image:
                form = image.format or 'unknown'
                # TensorFlow takes the numbers of colours, or of runs of them, for colours.
                if form == 'BMP' and (image.mode == 'P' or image.info.get('compression') in (1, 2)):
                    form = 'BMP with a palette'
                return form, image.width, image.height
    except Exception as error:  # Pillow raises many kinds for broken headers.
        if isinstance(error, Image.DecompressionBombError):
            raise BadRecord('picture has too many pixels') from error
        raise BadRecord('picture is not an image') from error


def _count_gif_pixels(encoded: bytes) -> int:
    """Pixels of all frames of a GIF: TensorFlow decodes them all before it takes the first.

    Each frame has a size of its own, whatever that of the whole is, and the largest one's counts.
    """
    frames, width, height = 0, 0, 0
    try:
        place = 13 + _gif_palette_size(encoded[10])
        while encoded[place] in b'!,':
            if encoded[place] == ord(','):
                size = struct.unpack_from('<HH', encoded, place + 5)
                frames, width, height = frames + 1, max(width, size[0]), max(height, size[1])
                place += 11 + _gif_palette_size(encoded[place + 9])
            else:
                place += 2
            while encoded[place]:
                place += encoded[place] + 1
            place += 1
    except (IndexError, struct.error):
        pass  # It is cut off: what is there counts.
    return frames * width * height


def _gif_palette_size(flags: int) -> int:
    """Bytes of a GIF's table of colours."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0
