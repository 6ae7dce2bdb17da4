"""Small data sets with known content, made for tests."""

import io
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from mural_jax.data.ingest.ingest import ingest
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sources.captions import CaptionTable
from mural_jax.data.sources.pairs import PairTable
from mural_jax.data.tokenizer import Tokenizer


def draw_image(seed: int, size: tuple[int, int] = (96, 72)) -> Image.Image:
    """An image of a few coloured shapes on a ground that gets lighter, like that of photos."""
    rng = np.random.default_rng(seed)
    corners_223 = rng.integers(0, 255, (2, 2, 3), dtype=np.uint8)
    made = Image.fromarray(corners_223).resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(made)
    for number in range(7):
        x, y = rng.uniform(-0.2, 0.9, 2) * size
        width, height = rng.uniform(0.1, 0.6, 2) * size
        colour = tuple(rng.integers(0, 255, 3).tolist())
        shape = draw.ellipse if number % 2 else draw.rectangle
        shape((x, y, x + width, y + height), fill=colour)
    return made


def encode_image(image: Image.Image, form: str = 'PNG', **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return stream.getvalue()


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(''.join(json.dumps(row) + '\n' for row in rows), encoding='utf-8')
    return path


def write_captions(
    folder: Path, images: Mapping[str, bytes], rows: Iterable[tuple[str, str, str]], **fields: Any
) -> CaptionTable:
    """`images` by name, `rows` of (name of the image, language, caption), written to a folder."""
    (folder / 'images').mkdir(parents=True, exist_ok=True)
    for name, data in images.items():
        (folder / 'images' / name).write_bytes(data)
    keys = ('image', 'lang', 'caption')
    table = write_rows(folder / 'captions.jsonl', (dict(zip(keys, row)) for row in rows))
    fields = {'texts': ('caption',), 'language': '@lang', **fields}
    return CaptionTable(table=str(table), images=(str(folder / 'images'),), **fields)


def ingest_captions(
    data_dir: Path,
    name: str,
    images: Mapping[str, bytes],
    rows: Iterable[tuple[str, str, str]],
    max_bad: float = 1.0,
) -> str:
    reader = write_captions(data_dir / 'made' / name, images, rows)
    return ingest(reader, name, data_dir, RecordLimits(), max_bad)


def ingest_translations(data_dir: Path, name: str, rows: Iterable[Mapping[str, str]]) -> str:
    """`rows` are texts by language."""
    table = write_rows(data_dir / 'made' / f'{name}.jsonl', rows)
    return ingest(PairTable(table=str(table)), name, data_dir, RecordLimits(), 1.0)


class LetterTokenizer(Tokenizer):
    """One token for each byte, so that a text can be read back from its tokens."""

    vocab_size = 257

    def __init__(self) -> None:
        super().__init__(b'letters')

    def encode(self, texts: list[str], max_length: int) -> list[list[int]]:
        return [[byte + 1 for byte in text.encode()[:max_length]] for text in texts]


def read_letters(text_BL: np.ndarray) -> list[str]:
    """The texts of tokens that `LetterTokenizer` made."""
    return [bytes((row[row > 0] - 1).astype(np.uint8)).decode() for row in text_BL]
