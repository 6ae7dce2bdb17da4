"""What is fitted to a stream's data before training, and stored in a file beside the data."""

import abc
import os
from pathlib import Path
from typing import Any, Self

from mural_jax.types import UserError


class FittedArtefact(abc.ABC):
    """Something fitted once to the data of a stream, that the stream is then read with.

    `mural prepare` calls `ensure` for what `Stream.fitted` names; an open stream gets what `load`
    returns. The path depends on all settings that the result depends on, so an artefact is never
    fitted again and never read by a stream with other settings.
    """

    @classmethod
    @abc.abstractmethod
    def path(cls, stream: Any, data_dir: Path) -> Path:
        """Where the artefact of a stream is stored."""

    @classmethod
    @abc.abstractmethod
    def fit(cls, stream: Any, data_dir: Path) -> Self:
        """The artefact, fitted to the data of a stream; the same each time."""

    @classmethod
    @abc.abstractmethod
    def from_bytes(cls, content: bytes) -> Self:
        """The artefact that a file holds. Raises ValueError where the file holds none."""

    @abc.abstractmethod
    def to_bytes(self) -> bytes:
        """What a file holds."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """A short name of the content: it is part of the data that a checkpoint was trained on."""

    @classmethod
    def ensure(cls, stream: Any, data_dir: Path) -> Path:
        """The path of the artefact; fits and stores it where there is none."""
        path = cls.path(stream, data_dir)
        if not path.exists():
            content = cls.fit(stream, data_dir).to_bytes()
            path.parent.mkdir(parents=True, exist_ok=True)
            # Renamed into place, so that a file that exists is whole. The process's number keeps
            # two that prepare at the same time apart.
            part = path.with_name(f'{path.name}.{os.getpid()}.part')
            part.write_bytes(content)
            part.replace(path)
        return path

    @classmethod
    def load(cls, stream: Any, data_dir: Path) -> Self:
        """The stored artefact of a stream. Raises UserError where there is none."""
        try:
            return cls.from_bytes(cls.path(stream, data_dir).read_bytes())
        except (FileNotFoundError, ValueError) as error:
            raise UserError(
                f'The {cls.__name__.lower()} of this stream is not made in {data_dir}. '
                'Run `mural prepare` with the same --config and --data_dir first.'
            ) from error
