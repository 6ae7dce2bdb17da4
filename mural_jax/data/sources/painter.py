"""Draws emoji with a colour font."""

import io
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, features

from mural_jax.types import UserError

STRIKE = 109  # The only size of the bitmaps in Noto Color Emoji, in pixels.


class Painter:
    """Draws one emoji at a time, on white, as a square RGB image."""

    def __init__(self, font_path: Path, size: int):
        """Loads the font.

        Args:
          font_path: The font file.
          size: Side of an image in pixels.

        Raises:
          UserError: The font is unreadable, or Pillow cannot join characters to one glyph.
        """
        try:
            self._font = ImageFont.truetype(str(font_path), STRIKE)
        except OSError as error:
            raise UserError(
                f'Cannot read the font {font_path} ({error}), which draws the images. Install the '
                'Debian package fonts-noto-color-emoji, or give a file with --source font=FILE.'
            ) from error
        if not features.check('raqm'):
            raise UserError(
                'This Pillow was built without Raqm, so flags and joined emoji would fall apart. '
                'Install a Pillow wheel with it: pip install --force-reinstall pillow'
            )
        self._size = size
        # The box of a single glyph. A sequence that is wider was drawn as several glyphs.
        self._box = tuple(map(round, self._font.getbbox('\U0001f600')))
        # What the font draws for a character that it lacks.
        self._missing = self._draw('\U0010fffd').tobytes()

    def draw_png(self, char: str) -> bytes | None:
        """The emoji as a PNG file, or None if the font has no single glyph for it."""
        if self._font.getbbox(char)[2] > 1.2 * self._box[2]:
            return None
        image = self._draw(char)
        if image.tobytes() == self._missing or image.getextrema() == ((255, 255),) * 3:
            return None
        stream = io.BytesIO()
        image = image.resize((self._size, self._size), Image.Resampling.LANCZOS)
        # Stored, not deflated: the file is twice as large, but decoding it, which every epoch
        # does, takes half the time.
        image.save(stream, 'PNG', compress_level=0)
        return stream.getvalue()

    def _draw(self, char: str) -> Image.Image:
        left, top, right, bottom = self._box
        side = max(right - left, bottom - top)
        image = Image.new('RGB', (side, side), 'white')
        corner = ((side - right - left) // 2, (side - bottom - top) // 2)
        ImageDraw.Draw(image).text(corner, char, font=self._font, embedded_color=True, anchor='lt')
        return image
