"""Pictures with their embeddings in one file, and search by text. Needs neither TensorFlow nor
the data set."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np

from mural_jax.search.sheet import Hit
from mural_jax.types import UserError


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
