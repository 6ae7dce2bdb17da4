"""An index together with the model that embedded it, which embeds the queries."""

import dataclasses
from pathlib import Path

import numpy as np

from mural_jax.inference.images import load_upright
from mural_jax.inference.model import Model, load
from mural_jax.search.finder import Finder, Hit
from mural_jax.search.fingerprints import fingerprint_export, require_model
from mural_jax.search.store import ImageIndex
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Searcher:
    """Finds the images of an index that are nearest to a text or an image."""

    model: Model
    finder: Finder

    @property
    def index(self) -> ImageIndex:
        """The index that is searched."""
        return self.finder.index

    @property
    def space(self) -> str:
        """The space in which queries and images are compared."""
        return self.index.space

    def find_by_text(self, text: str, k: int) -> list[Hit]:
        """The k images nearest to a text in any language, best first."""
        return self._find(self.model.encode_text(text, self.space), k)

    def find_by_image(self, path: Path, k: int) -> list[Hit]:
        """The k images nearest to an image file, best first.

        Raises UserError if the file is not an image that can be read.
        """
        try:
            # The images of an index were turned upright before they were embedded.
            query_1D = self.model.encode_image(load_upright(path), self.space)
        except UserError as error:
            raise UserError(f'{path}: {error}') from error
        return self._find(query_1D, k)

    def _find(self, query_1D: np.ndarray, k: int) -> list[Hit]:
        (hits,) = self.finder(query_1D, k)
        return hits


def open_searcher(
    folder: Path, model_folder: Path | None = None, how: str = 'exact', rerank: int | None = None
) -> Searcher:
    """An index with its model, an export.

    model_folder: where the model is now; None if it is still where index.json says. how, rerank:
    see Finder. Raises UserError if either cannot be read, or another model embedded the index.
    """
    index = ImageIndex(folder)
    model_folder = model_folder or Path(index.description.model)
    if not model_folder.is_dir():
        raise UserError(
            f'{model_folder}, the model of {folder}, is not there. Say where it is: --model=DIR.'
        )
    model = load(model_folder)
    require_model(index.fingerprints, fingerprint_export(model_folder), folder, str(model_folder))
    return Searcher(model, Finder(index, how, rerank))
