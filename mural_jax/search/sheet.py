"""A contact sheet of search results."""

import io
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from mural_jax.types import UserError


class Hit(NamedTuple):
    """One picture found: its cosine with the query, in [-1, 1], and what is known of it."""

    score: float
    id: str
    name: str
    split: str
    png: bytes
    number: int  # in the index


def contact_sheet(hits: list[Hit], side: int = 128) -> Image.Image:
    """The pictures in a row, each over its score and its English name."""
    margin, lines = 12, 44
    width = margin + len(hits) * (side + margin)
    sheet = Image.new('RGB', (width, side + 2 * margin + lines), 'white')
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for place, hit in enumerate(hits):
        left = margin + place * (side + margin)
        picture = Image.open(io.BytesIO(hit.png)).convert('RGB')
        sheet.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (left, margin))
        name = hit.name
        while font.getlength(name) > side:
            name = f'{name[:-2]}…' if len(name) > 2 else ''
        draw.text((left, side + margin + 6), f'{place + 1}.  {hit.score:.3f}', 'black', font)
        draw.text((left, side + margin + 26), name, '#555555', font)
    return sheet


def save_sheet(hits: list[Hit], out: Path) -> None:
    """Writes the contact sheet and says where. Raises UserError where it cannot be written."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(hits).save(out)
    except (OSError, ValueError) as error:
        raise UserError(
            f'Cannot write the picture {out} ({error}). Give another with --out FILE.png.'
        ) from error
    print(f'as a picture: {out}')
