"""What classes are called in many languages, and the templates that names are put into."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from mural_jax.evaluation.split_data import Items
from mural_jax.types import UserError

Names = dict[str, dict[int, str]]  # language -> class -> its one name


def of_data(items: Items, place_N: np.ndarray) -> Names:
    """The first text of the first of these pictures of a class that has one in a language."""
    found: Names = {}
    for place in place_N:
        number = int(items.label_N[place])
        for language, texts in items.texts[place].items():
            found.setdefault(language, {}).setdefault(number, texts[0])
    return found


def published(path: str) -> Names:
    """The names of a file in the layout of Babel-ImageNet, by languages in lower case.

    The layout is that of `data/babel_imagenet-298.json` in github.com/gregor-ge/Babel-ImageNet at
    317c498: {"DE": [[0, 1, ...], ["Schleie", "Goldfisch", ...]]}, numbers of the classes of
    ImageNet-1k and one name for each. Raises UserError where a file has another.
    """
    names: Names = {}
    for language, node in _read(path, 'class names').items():
        try:
            numbers, words = node
            fits = len(numbers) == len(words) == len(set(numbers))
            fits = fits and all(type(n) is int for n in numbers)
            fits = fits and all(isinstance(w, str) for w in words)
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise UserError(
                f'{path}: {language} is not [[CLASS NUMBERS], [NAMES]] of one length without '
                "repeats. Give a file in the layout of Babel-ImageNet's babel_imagenet-298.json."
            )
        names[language.lower()] = dict(zip(numbers, words))
    return names


def published_templates(path: str) -> dict[str, tuple[str, ...]]:
    """The templates of a file {"DE": ["ein Foto von {} .", ...]}, by languages in lower case.

    The layout is that of `data/nllb_dist13b_prompts.json` in github.com/gregor-ge/Babel-ImageNet at
    317c498: CLIP's 80 templates for ImageNet in 90 languages, translated by NLLB. Raises UserError
    where a file has another.
    """
    found = {}
    for language, templates in _read(path, 'templates').items():
        if not isinstance(templates, list) or not all(isinstance(t, str) for t in templates):
            raise UserError(f'{path}: {language} is no list of templates, ["a photo of {{}}"].')
        check_templates(templates, f'{path}: {language}')
        found[language.lower()] = tuple(templates)
    return found


def check_templates(templates: Any, where: str) -> None:
    """Raises UserError where there is no template, or one does not say where the name goes."""
    if not templates:
        raise UserError(f"{where} has no template. '{{}}' alone is the name as it stands.")
    for template in templates:
        if '{}' not in template:
            raise UserError(
                f'{where}: the template {template!r} must hold {{}}, where the name goes: without '
                'it all classes would be one.'
            )


def stamp(path: str) -> str:
    """The name of a file and the start of its SHA-256, so that a protocol says which it was."""
    return f'{Path(path).name} (sha256 {hashlib.sha256(_bytes(path)).hexdigest()[:12]})'


def _read(path: str, what: str) -> dict[str, Any]:
    try:
        found = json.loads(_bytes(path))
    except ValueError as error:
        raise UserError(f'The file of {what} {path} is no JSON ({error}).') from error
    if not isinstance(found, dict) or not found:
        raise UserError(f'The file of {what} {path} holds no languages; it must be {{"DE": ...}}.')
    return found


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'Cannot read {path} ({error}). Correct the path of the file.') from error
