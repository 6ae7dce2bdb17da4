"""Pictures with their embeddings in one file, and search by text. Needs neither TensorFlow nor
the data set."""

import dataclasses
import io
import json
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
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


@dataclasses.dataclass(frozen=True)
class Index:
    """N pictures of one model at one step.

    image_ND: float32 unit vectors in the space of `task`. ids, names (by language), splits: one
    for each picture. pngs: the encoded pictures. vocabulary: the hash of the model's vocabulary.
    """

    image_ND: np.ndarray
    ids: list[str]
    names: list[dict[str, str]]
    splits: list[str]
    pngs: list[bytes]
    task: str
    vocabulary: str

    def save(self, path: Path) -> None:
        """Writes one `.npz`, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f'{path.stem}.{os.getpid()}.part.npz')
        ends = np.cumsum([len(png) for png in self.pngs])
        np.savez(
            part, image_ND=self.image_ND, ids=np.array(self.ids),
            names=np.array([json.dumps(names) for names in self.names]),
            splits=np.array(self.splits), png_ends=ends,
            pngs=np.frombuffer(b''.join(self.pngs), np.uint8),
            task=np.array(self.task), vocabulary=np.array(self.vocabulary),
        )  # fmt: skip
        part.replace(path)

    @classmethod
    def load(cls, path: Path) -> 'Index':
        """Raises UserError where there is no index, or not a readable one."""
        try:
            with np.load(path, allow_pickle=False) as arrays:
                data = {name: arrays[name] for name in arrays.files}
        except FileNotFoundError as error:
            raise UserError(
                f'There is no index {path}. `mural evaluate` makes it: run it for this step.'
            ) from error
        except (OSError, ValueError) as error:
            raise UserError(f'{path} cannot be read ({error}). Run `mural evaluate` again.') from (
                error
            )
        ends = data['png_ends'].tolist()
        raw = data['pngs'].tobytes()
        pngs = [raw[start:end] for start, end in zip([0, *ends], ends)]
        names = [json.loads(words) for words in data['names']]
        return cls(
            data['image_ND'], data['ids'].tolist(), names, data['splits'].tolist(), pngs,
            str(data['task']), str(data['vocabulary']),
        )  # fmt: skip

    def search(self, query_D: np.ndarray, k: int) -> list[Hit]:
        """The k pictures nearest to a unit vector, best first."""
        score_N = self.image_ND @ query_D
        best = np.argsort(-score_N, kind='stable')[:k]
        return [
            Hit(
                float(score_N[i]), self.ids[i], self.names[i].get('en', ''), self.splits[i],
                self.pngs[i], int(i),
            )
            for i in best
        ]  # fmt: skip


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
