"""What `mural evaluate` does with models of other libraries, and with embeddings in files."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from mural_jax.config.build import build, nearest
from mural_jax.evaluation import scores
from mural_jax.evaluation.evaluators.catalog import EVALUATORS
from mural_jax.evaluation.external import files, libraries
from mural_jax.evaluation.report import tables
from mural_jax.evaluation.split_data import SplitData
from mural_jax.types import UserError
from mural_jax.workdir.files import write_atomic

STEP = 0  # The scores are written as eval/0.json.
CLAIM = 'model.json'  # states whose scores a folder holds


def evaluate_model(
    name: str, config: Mapping[str, Any], data_dir: Path, out: Path, only: list[str], force: bool
) -> None:
    """Scores a model of another library; writes `out/eval/0.json` and prints a table.

    Args:
      name: the model, see `libraries.load_model`.
      config: holds `evaluators` and `languages`.
      data_dir: the folder of prepared data sets.
      out: the folder of the scores, which belongs to one model.
      only: the evaluators to run, empty for all.
      force: runs evaluators even if their scores exist.
    """
    missing = [key for key in ('evaluators', 'languages') if not config.get(key)]
    if missing:
        raise UserError(
            f'The config has no {" and no ".join(missing)}, so there is nothing to score.'
        )
    evaluators = _build_evaluators(config['evaluators'], only)
    model = libraries.load_model(name)
    # After loading, so that a model that cannot be read claims no folder.
    claim_folder(out, name, config['languages'])
    _score(evaluators, config['languages'], _split_data(model, data_dir), out, force)


def evaluate_files(images: Path, texts: Path, language: str, out: Path, force: bool) -> None:
    """Scores embeddings in two files; writes `out/eval/0.json` and prints a table.

    See `files.build_evaluators` for the files and `language`.
    """
    evaluators = files.build_evaluators(images, texts, language)
    claim_folder(out, 'embeddings from files', {})
    for name, one in evaluators.items():
        for side, path, own in (('images', images, one.images), ('texts', texts, one.texts)):
            if own.length_error > files.UNIT:
                print(f'{name}: {side} of {path} are scaled to length 1 for the cosine')
        if one.images_without_text:
            print(f'{name}: {one.images_without_text} images have no text and are in no gallery')
    _score(evaluators, {}, _split_data(None, Path()), out, force)


def _build_evaluators(nodes: Mapping[str, Any], only: list[str]) -> dict[str, Any]:
    """Returns the evaluators. Raises UserError for one that needs more than embeddings."""
    for name in only:
        if name not in nodes:
            raise UserError(f'--only {name}: there is no such evaluator.{nearest(name, nodes)}')
    evaluators = {}
    for name in only or nodes:
        evaluators[name] = build(EVALUATORS, nodes[name], f'evaluators.{name}')
        # The protocol `Embedder` is all that a model of another library has.
        if evaluators[name].joint:
            raise UserError(
                f'{name} needs joint passes of a model of mural_jax; a model of another library '
                'only embeds. Leave it out: name the evaluators to run with --only.'
            )
    return evaluators


def _split_data(embedder: libraries.ExternalModel | None, data_dir: Path) -> SplitData:
    """Returns access to the data for a model that does its own preprocessing."""

    def refuse(workdir: str) -> SplitData:
        raise UserError(f'The run {workdir} cannot be opened beside a model of another library.')

    return SplitData(embedder, data_dir, image_size=0, resize=0, tokenizer=None, open_run=refuse)


def read_claim(out: Path) -> dict[str, Any] | None:
    """Returns {'model': name, 'languages': groups} of a folder of external scores.

    None if the folder is a workdir, or nobody claimed it. Raises UserError if it cannot be read.
    """
    path = out / CLAIM
    # A workdir has scores of its own run.
    if (out / 'config.json').exists() or not path.exists():
        return None
    try:
        claim = json.loads(path.read_text(encoding='utf-8'))
        return {'languages': {}, 'model': str(claim['model'])} | claim
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f'Cannot read {path} ({error!r}). Evaluate into a new folder.') from error


def claim_folder(out: Path, model: str, groups: Mapping[str, Any]) -> None:
    """Writes whose scores a folder holds. Raises UserError if it holds those of another model."""
    if (out / 'config.json').exists():
        raise UserError(f'{out} is the workdir of a run. Give another folder with --out.')
    claim = read_claim(out) or {'model': model, 'languages': {}}
    if claim['model'] != model:
        raise UserError(f'{out} holds scores of {claim["model"]}. Give another folder with --out.')
    # The report needs the groups of every suite that was scored into the folder.
    languages = claim['languages'] | {name: list(own) for name, own in groups.items()}
    write_atomic(out / CLAIM, json.dumps({'model': model, 'languages': languages}))


def _score(
    evaluators: Mapping[str, Any],
    groups: Mapping[str, Any],
    data: SplitData,
    out: Path,
    force: bool,
) -> None:
    path = out / 'eval' / f'{STEP}.json'
    found, _ = scores.score(evaluators, groups, data, path, print, force=force)
    print(path)
    tables.print_tables(found, evaluators, groups, Console())
