"""A model that knows five colours by their names in five scripts, and pictures by their colour."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mural_jax.search import update as embedding
from mural_jax.search.store import About

COLOURS = {
    'red': (220, 20, 20), 'green': (20, 220, 20), 'blue': (20, 20, 220),
    'yellow': (220, 220, 20), 'purple': (220, 20, 220),
}  # fmt: skip
NAMES = {
    'red': 'red', 'зелёный': 'green', 'أزرق': 'blue', '黄色': 'yellow', 'बैंगनी': 'purple',
}  # fmt: skip
SIDE, SPACE = 16, 'image_text'


def unit(colours: Sequence) -> np.ndarray:
    vector_ND = np.asarray(colours, np.float32) - 128
    vector_ND = np.concatenate([vector_ND, np.ones((len(vector_ND), 5), np.float32)], axis=1)
    return vector_ND / np.linalg.norm(vector_ND, axis=1, keepdims=True)


class Colours:
    """Stands where an exported model stands."""

    def __init__(self) -> None:
        self.passes: list[int] = []  # how many were encoded at a time

    def encode_text(self, texts: Sequence[str], space: str) -> np.ndarray:
        assert space == SPACE
        self.passes.append(len(set(texts)))
        return unit([COLOURS[NAMES.get(text, 'red')] for text in texts])

    def encode_image(self, pictures: Sequence[np.ndarray], space: str) -> np.ndarray:
        assert space == SPACE
        return unit([np.asarray(picture).reshape(-1, 3).mean(0) for picture in pictures])


def png(colour: Sequence[int], side: int = 40, kind: str = 'PNG') -> bytes:
    file = io.BytesIO()
    Image.new('RGB', (side, side), tuple(colour)).save(file, kind)
    return file.getvalue()


def paint(folder: Path, count: int = 1) -> None:
    """So many pictures of each colour, each a little unlike the others."""
    folder.mkdir(exist_ok=True)
    for name, colour in COLOURS.items():
        for number in range(count):
            shade = np.clip(np.array(colour) + number, 0, 255)
            (folder / f'{name}{number or ""}.png').write_bytes(png([*map(int, shade)]))


ABOUT = About('model', 'hash', SPACE, 8, 'images', 64)


def update(folder: Path, images: Path, columns: tuple[str, str] = ('image', '')) -> embedding.Done:
    """An index of pictures, by `Colours`."""
    model, seen = Colours(), []
    sources, total = embedding.listed(images, *columns)
    done = embedding.update(
        folder, ABOUT, sources, lambda squares: model.encode_image(squares, SPACE), SIDE,
        seen.append,
    )  # fmt: skip
    assert seen[-1] == total or total is None
    return done
