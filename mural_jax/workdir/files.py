"""Files of a workdir that are written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from mural_jax.types import UserError


def create_folder(folder: Path, flag: str) -> None:
    """Raises UserError, naming the flag it was given by, where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f'.write-{os.getpid()}'
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f'Cannot write in {folder} ({error.strerror}). '
            f'Give a folder that this user may write with {flag}.'
        ) from error


def write_atomic(path: Path, text: str) -> None:
    """Writes a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    part.write_text(text, encoding='utf-8')
    part.replace(path)


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of a workdir as JSON gives it. Raises UserError where there is none."""
    path = workdir / 'config.json'
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise UserError(
            f'{workdir} is not a workdir of a run: it has no config.json. '
            'Give the --workdir that `mural train` was given.'
        ) from error
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f'Cannot read {path} ({error}). Restore it or start a new workdir.') from (
            error
        )
