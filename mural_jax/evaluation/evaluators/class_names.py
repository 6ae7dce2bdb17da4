"""Names of classes in many languages, and the templates around them."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from mural_jax.evaluation.split_data import SplitExamples
from mural_jax.types import UserError

Names = dict[str, dict[int, str]]  # language -> class -> its one name


def names_of_data(examples: SplitExamples, place_N: np.ndarray) -> Names:
    """Returns the names that the data gives to the classes of some examples.

    The name of a class in a language is the first text of its first example with one.
    """
    names: Names = {}
    # `setdefault` keeps the first name: later examples of the class may have others.
    for place in place_N:
        number = int(examples.label_N[place])
        for language, texts in examples.texts[place].items():
            names.setdefault(language, {}).setdefault(number, texts[0])
    return names


def read_names_file(path: str) -> Names:
    """Returns the names in a file with the layout of Babel-ImageNet, languages in lower case.

    The layout is that of `data/babel_imagenet-298.json` in github.com/gregor-ge/Babel-ImageNet at
    317c498: {"DE": [[0, 1, ...], ["Schleie", "Goldfisch", ...]]}, numbers of the classes of
    ImageNet-1k and one name for each. Raises UserError for any other layout.
    """
    names: Names = {}
    for language, node in _read_json(path, 'class names').items():
        try:
            # Checked here in full: a wrong file would otherwise score wrong classes silently.
            numbers, words = node
            valid = len(numbers) == len(words) == len(set(numbers))
            valid = valid and all(type(n) is int for n in numbers)
            valid = valid and all(isinstance(w, str) for w in words)
        except (TypeError, ValueError):
            valid = False
        if not valid:
            raise UserError(
                f'{path}: {language} is not [[CLASS NUMBERS], [NAMES]] of one length without '
                "repeats. Give a file in the layout of Babel-ImageNet's babel_imagenet-298.json."
            )
        names[language.lower()] = dict(zip(numbers, words))
    return names


def read_templates_file(path: str) -> dict[str, tuple[str, ...]]:
    """Returns the templates in a file {"DE": ["ein Foto von {} .", ...]}, languages in lower case.

    The layout is that of `data/nllb_dist13b_prompts.json` in github.com/gregor-ge/Babel-ImageNet
    at 317c498: CLIP's 80 templates for ImageNet in 90 languages, translated by NLLB. Raises
    UserError for any other layout.
    """
    by_language = {}
    for language, templates in _read_json(path, 'templates').items():
        if not isinstance(templates, list) or not all(isinstance(t, str) for t in templates):
            raise UserError(f'{path}: {language} is no list of templates, ["a photo of {{}}"].')
        check_templates(templates, f'{path}: {language}')
        by_language[language.lower()] = tuple(templates)
    return by_language


def check_templates(templates: Any, where: str) -> None:
    """Raises UserError if there is no template, or one has no place for the name."""
    if not templates:
        raise UserError(f"{where} has no template. '{{}}' alone is the name without any words.")
    # `str.replace` would leave such a template as it is, the same for every class.
    for template in templates:
        if '{}' not in template:
            raise UserError(
                f'{where}: the template {template!r} must hold {{}}, the place of the name. '
                'Without it all classes would have one text.'
            )


def describe_file(path: str) -> str:
    """Returns a file's name and the start of its SHA-256, so that a protocol identifies it."""
    return f'{Path(path).name} (sha256 {hashlib.sha256(_read_bytes(path)).hexdigest()[:12]})'


def _read_json(path: str, content: str) -> dict[str, Any]:
    try:
        by_language = json.loads(_read_bytes(path))
    except ValueError as error:
        raise UserError(f'The file of {content} {path} is not JSON ({error}).') from error
    if not isinstance(by_language, dict) or not by_language:
        raise UserError(
            f'The file of {content} {path} holds no languages; it must be {{"DE": ...}}.'
        )
    return by_language


def _read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f'Cannot read {path} ({error}). Correct the path of the file.') from error
