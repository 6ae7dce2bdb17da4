"""What `mural evaluate` does with models of other libraries, and with embeddings of files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from mural_jax.config.build import build, nearest
from mural_jax.evaluation import scores
from mural_jax.evaluation.external import files, libraries
from mural_jax.evaluation.report import tables
from mural_jax.evaluation.split_data import Sources
from mural_jax.evaluation.evaluators.catalog import EVALUATORS
from mural_jax.types import UserError
from mural_jax.workdir.files import write_atomic

STEP = 0  # whose scores are written: eval/0.json
CLAIM = 'model.json'  # whose scores a folder holds


def evaluate_model(
    name: str, config: Mapping[str, Any], data_dir: Path, out: Path, only: list[str], force: bool
) -> None:
    """Scores a model of another library by the evaluators and languages of a config.

    name: see `others.load`. Writes `out/eval/0.json`, prints the table.
    """
    missing = [key for key in ('evaluators', 'languages') if not config.get(key)]
    if missing:
        raise UserError(f'The config has no {" and no ".join(missing)}: nothing can be scored.')
    evaluators = _evaluators(config['evaluators'], only)
    model = libraries.load(name)
    _claim(out, name, config['languages'])
    _score(evaluators, config['languages'], _sources(model, data_dir), out, force)


def evaluate_files(images: Path, texts: Path, language: str, out: Path, force: bool) -> None:
    """Scores embeddings of two files; see `stored.evaluators`. Writes and prints likewise."""
    evaluators = files.evaluators(images, texts, language)
    _claim(out, 'embeddings from files', {})
    for name, one in evaluators.items():
        for side, path, own in (('images', images, one.images), ('texts', texts, one.texts)):
            if own.longest > files.UNIT:
                print(f'{name}: {side} of {path} are brought to length 1 for the cosine')
        if one.without_text:
            print(f'{name}: {one.without_text} images have no text and are in no gallery')
    _score(evaluators, {}, _sources(None, Path()), out, force)


def _evaluators(nodes: Mapping[str, Any], only: list[str]) -> dict[str, Any]:
    """Those that need embeddings alone: of another library's model there is nothing else."""
    for name in only:
        if name not in nodes:
            raise UserError(f'--only {name}: there is no such evaluator.{nearest(name, nodes)}')
    found = {}
    for name in only or nodes:
        found[name] = build(EVALUATORS, nodes[name], f'evaluators.{name}')
        if not hasattr(found[name], 'task'):
            raise UserError(
                f'{name} looks into a model of mural_jax; of another there are embeddings alone. '
                'Leave it out: --only names those that are scored.'
            )
    return found


def _sources(embedder: libraries.Other | None, data_dir: Path) -> Sources:
    """The data for a model that does its own preprocessing."""

    def none(folder: str) -> Sources:
        raise UserError(f'Another run, {folder}, cannot be opened beside a model that is none.')

    return Sources(embedder, data_dir, image_size=0, resize=0, tokenizer=None, open=none)


def claimed(out: Path) -> dict[str, Any] | None:
    """Of a folder with scores of a model that is no run `model`, its name, and `languages`."""
    path = out / CLAIM
    if (out / 'config.json').exists() or not path.exists():
        return None
    try:
        found = json.loads(path.read_text(encoding='utf-8'))
        return {'languages': {}, 'model': str(found['model'])} | found
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'Cannot read {path} ({error!r}). Evaluate into a new folder.') from error


def _claim(out: Path, model: str, groups: Mapping[str, Any]) -> None:
    """Says whose scores a folder holds. Raises UserError where they are those of another."""
    if (out / 'config.json').exists():
        raise UserError(f'{out} is the workdir of a run. Give another folder with --out.')
    held = claimed(out) or {'model': model, 'languages': {}}
    if held['model'] != model:
        raise UserError(f'{out} holds scores of {held["model"]}. Give another folder with --out.')
    languages = held['languages'] | {name: list(own) for name, own in groups.items()}
    write_atomic(out / CLAIM, json.dumps({'model': model, 'languages': languages}))


def _score(
    evaluators: Mapping[str, Any], groups: Mapping[str, Any], sources: Sources, out: Path,
    force: bool,
) -> None:  # fmt: skip
    path = out / 'eval' / f'{STEP}.json'
    found, _ = scores.score(evaluators, groups, sources, path, print, force=force)
    print(path)
    results = {name: found.results[name] for name in evaluators}
    tables.print_tables(results, groups, Console())
