"""Fingerprints of models: two models with one fingerprint embed alike, so their rows compare."""

import hashlib
import json
from pathlib import Path

from mural_jax.inference.description import DESCRIPTION, VOCABULARY, WEIGHTS
from mural_jax.models.functional import Params
from mural_jax.types import UserError
from mural_jax.workdir.checksums import compute_checksums

FINGERPRINTED_FILES = (DESCRIPTION, WEIGHTS, VOCABULARY)


def fingerprint_export(folder: Path) -> str:
    """The fingerprint of an exported model: a SHA-256 over its files, in hexadecimal."""
    digest = hashlib.sha256()
    # A digest of digests: bytes that move from one file to the next change it.
    for name in FINGERPRINTED_FILES:
        with (folder / name).open('rb') as file:
            digest.update(hashlib.file_digest(file, 'sha256').digest())
    return digest.hexdigest()


def fingerprint_arrays(params: Params, statistics: Params, vocabulary: str) -> str:
    """The fingerprint of a model in memory: a SHA-256 over its arrays' checksums, in hexadecimal.

    It does not depend on the devices that hold the arrays. vocabulary: the hash of the vocabulary,
    which gives the text tower's rows their meaning.
    """
    sums = compute_checksums({'params': params, 'statistics': statistics})
    content = json.dumps({'arrays': sums, 'vocabulary': vocabulary}, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def require_model(embedded_by: set[str], fingerprint: str, folder: Path, model: str) -> None:
    """Raises UserError if any row of the index in `folder` was embedded by another model.

    embedded_by: the fingerprints in the index. fingerprint, model: of the model that will embed
    queries or rows, and its name in the message.
    """
    if others := embedded_by - {fingerprint}:
        which = f'{len(others)} other models' if len(others) > 1 else 'another model'
        raise UserError(
            f'{folder} has images that were embedded by {which} than {model}: embeddings of '
            'different models cannot be compared. Give the model that made the index, or make the '
            'index again.'
        )
