"""Files of a workdir: its config, and texts that are written whole or not at all."""

import json
import os
from pathlib import Path
from typing import Any

from mural_jax.types import UserError


def create_folder(folder: Path, flag: str) -> None:
    """Creates a folder, unless it exists, and checks that this user may write in it.

    Raises UserError, which names the command-line flag of the folder, if not.
    """
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
    """Writes a text file whole or not at all.

    Readers see the old text or the new one, also if this process is killed on the way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    part.write_text(text, encoding='utf-8')
    part.replace(path)


def read_config(workdir: Path) -> dict[str, Any]:
    """The config of a workdir, with JSON's lists. Raises UserError if it has none."""
    path = workdir / 'config.json'
    try:
        return json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError as error:
        raise UserError(
            f'{workdir} is not a workdir of a run: it has no config.json. '
            'Give the --workdir of a `mural train`.'
        ) from error
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f'Cannot read {path} ({error}). Restore it or start a new workdir.') from (
            error
        )
