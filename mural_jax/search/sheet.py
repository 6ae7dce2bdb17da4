"""A contact sheet: the images that a search found, side by side in one image."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mural_jax.search.finder import Hit
from mural_jax.search.store import ImageIndex, ImageRow
from mural_jax.types import UserError

MARGIN = 12  # Pixels around each image (ours).
CAPTION_HEIGHT = 44  # Pixels below the images, for two lines of text (ours).


def draw_contact_sheet(index: ImageIndex, hits: Sequence[Hit], side: int = 128) -> Image.Image:
    """The images of an index in one row, each above its rank, its score and its name.

    side: pixels of the square into which each image is resized.
    """
    width = MARGIN + len(hits) * (side + MARGIN)
    sheet = Image.new('RGB', (width, side + 2 * MARGIN + CAPTION_HEIGHT), 'white')
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for place, hit in enumerate(hits):
        left = MARGIN + place * (side + MARGIN)
        image = Image.open(io.BytesIO(index.read_image(hit.number))).convert('RGB')
        sheet.paste(image.resize((side, side), Image.Resampling.LANCZOS), (left, MARGIN))
        name = name_image(index.rows[hit.number])
        # Glyphs differ in width, so only trying tells how much of the name fits.
        while font.getlength(name) > side:
            name = f'{name[:-2]}…' if len(name) > 2 else ''
        draw.text((left, side + MARGIN + 6), f'{place + 1}.  {hit.score:.3f}', 'black', font)
        draw.text((left, side + MARGIN + 26), name, '#555555', font)
    return sheet


def name_image(row: ImageRow) -> str:
    """The English name of an image; the name of its file if it has no names in any language."""
    return row.names.get('en', '') if row.names else Path(row.id).name


def save_contact_sheet(index: ImageIndex, hits: Sequence[Hit], out: Path) -> None:
    """Writes a contact sheet and prints its path.

    Raises UserError if the index stores no images, or `out` cannot be written.
    """
    if not index.description.has_images:
        raise UserError('This index stores no thumbnails, so --out has nothing to show.')
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draw_contact_sheet(index, hits).save(out)
    except (OSError, ValueError) as error:
        raise UserError(
            f'Cannot write the image {out} ({error}). Give another with --out FILE.png.'
        ) from error
    print(f'contact sheet: {out}')
