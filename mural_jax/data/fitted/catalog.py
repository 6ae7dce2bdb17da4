"""The kinds of artefacts that streams are read with."""

from pathlib import Path

from mural_jax.data.fitted.base import FittedArtefact
from mural_jax.data.fitted.codebook import Codebook
from mural_jax.data.streams.base import Stream

FITTED: dict[str, type[FittedArtefact]] = {'codebook': Codebook}


def ensure_fitted(stream: Stream, data_dir: Path) -> dict[str, Path]:
    """The files of all artefacts that a stream needs, by name; makes those that are missing."""
    return {name: FITTED[name].ensure(stream, data_dir) for name in stream.fitted()}


def load_fitted(stream: Stream, data_dir: Path) -> dict[str, FittedArtefact]:
    """All artefacts that a stream needs, by name. Raises UserError where one is not made."""
    return {name: FITTED[name].load(stream, data_dir) for name in stream.fitted()}
