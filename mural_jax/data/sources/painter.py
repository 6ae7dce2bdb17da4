"""Draws emoji with a colour font."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from mural_jax.types import UserError

STRIKE = 109  # The one size of the bitmaps in Noto Color Emoji, in pixels.


class Painter:
    """Draws one emoji at a time, on white, as a square RGB picture."""

    def __init__(self, font_path: Path, size: int):
        """`size` is the side of a picture in pixels.

        Raises UserError where the font cannot be read or Pillow cannot shape sequences.
        """
        try:
            self._font = ImageFont.truetype(str(font_path), STRIKE)
        except OSError as error:
            raise UserError(
                f'Cannot read the font {font_path} ({error}). It draws the pictures: install the '
                'Debian package fonts-noto-color-emoji, or give a file with --source font=FILE.'
            ) from error
        if not features.check('raqm'):
            raise UserError(
                'This Pillow was built without Raqm, so flags and joined emoji would fall apart. '
                'Install a Pillow wheel with it: pip install --force-reinstall pillow'
            )
        self._size = size
        # One glyph; what is wider fell apart.
        self._box = tuple(map(round, self._font.getbbox('\U0001f600')))
        self._missing = self._draw('\U0010fffd').tobytes()

    def png(self, char: str) -> bytes | None:
        """The picture as PNG, or None where the font has no single glyph for the emoji."""
        if self._font.getbbox(char)[2] > 1.2 * self._box[2]:
            return None
        picture = self._draw(char)
        if picture.tobytes() == self._missing or picture.getextrema() == ((255, 255),) * 3:
            return None
        stream = io.BytesIO()
        picture = picture.resize((self._size, self._size), Image.Resampling.LANCZOS)
        # Stored, not deflated: twice the bytes, half the time to decode in every epoch.
        picture.save(stream, 'PNG', compress_level=0)
        return stream.getvalue()

    def _draw(self, char: str) -> Image.Image:
        left, top, right, bottom = self._box
        side = max(right - left, bottom - top)
        picture = Image.new('RGB', (side, side), 'white')
        corner = ((side - right - left) // 2, (side - bottom - top) // 2)
        ImageDraw.Draw(picture).text(
            corner, char, font=self._font, embedded_color=True, anchor='lt'
        )
        return picture
