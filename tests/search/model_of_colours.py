"""A model that knows five colours by their names in five scripts, and images by their colour."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mural_jax.search import update
from mural_jax.search.store import IndexDescription
from mural_jax.search.update import ImageEncoder, UpdateCounts

COLOURS = {
    'red': (220, 20, 20),
    'green': (20, 220, 20),
    'blue': (20, 20, 220),
    'yellow': (220, 220, 20),
    'purple': (220, 20, 220),
}
NAMES = {'red': 'red', 'зелёный': 'green', 'أزرق': 'blue', '黄色': 'yellow', 'बैंगनी': 'purple'}
SIDE, SPACE, FINGERPRINT = 16, 'image_text', 'fingerprint of colours'
DESCRIPTION = IndexDescription(SPACE, 8, 'model', 'images', 64)


def embed_colours(colours: Sequence) -> np.ndarray:
    """Unit vectors of N colours, float32 [N, 8]."""
    vector_ND = np.asarray(colours, np.float32) - 128
    vector_ND = np.concatenate([vector_ND, np.ones((len(vector_ND), 5), np.float32)], axis=1)
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


class ColourModel:
    """Stands in for an exported model."""

    def __init__(self) -> None:
        self.passes: list[int] = []  # How many different texts each pass encoded.

    def encode_text(self, texts: Sequence[str], space: str) -> np.ndarray:
        assert space == SPACE
        self.passes.append(len(set(texts)))
        return embed_colours([COLOURS[NAMES.get(text, 'red')] for text in texts])

    def encode_image(self, images: Sequence[np.ndarray], space: str) -> np.ndarray:
        assert space == SPACE
        return embed_colours([np.asarray(image).reshape(-1, 3).mean(0) for image in images])


def encode_png(colour: Sequence[int] | str, side: int = 40, kind: str = 'PNG') -> bytes:
    """The file of a square of one colour."""
    colour = colour if isinstance(colour, str) else tuple(colour)
    file = io.BytesIO()
    Image.new('RGB', (side, side), colour).save(file, kind)
    return file.getvalue()


def paint_images(folder: Path, count: int = 1) -> None:
    """Writes `count` images of each colour, each in a slightly different shade."""
    folder.mkdir(exist_ok=True)
    for name, colour in COLOURS.items():
        for number in range(count):
            shade = np.clip(np.array(colour) + number, 0, 255)
            (folder / f'{name}{number or ""}.png').write_bytes(encode_png([*map(int, shade)]))


def update_index(
    folder: Path,
    images: Path,
    columns: tuple[str, str] = ('image', ''),
    fingerprint: str = FINGERPRINT,
) -> UpdateCounts:
    """Updates an index of images, embedded by `ColourModel`; checks the progress it reports."""
    model, progress = ColourModel(), []
    files, total = update.list_images(images, *columns)
    encoder = ImageEncoder(lambda images: model.encode_image(images, SPACE), SIDE, fingerprint)
    counts = update.update(folder, DESCRIPTION, encoder, files, progress.append)
    assert progress[-1] == total or total is None
    return counts
