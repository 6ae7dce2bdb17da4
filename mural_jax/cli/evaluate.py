"""What the verbs do that look at a trained model: evaluate, search, report."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from mural_jax.config.build import nearest, plain
from mural_jax.evaluation import scores
from mural_jax.evaluation.external.scoring import STEP, claimed
from mural_jax.evaluation.report import tables
from mural_jax.runs.restore import Restored, restore, sources
from mural_jax.runs.run import Run
from mural_jax.search.run_index import Index
from mural_jax.search.sheet import save_sheet
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import check_vocabulary, steps_in
from mural_jax.workdir.files import read_config

ALL = 'all'  # of --step


def evaluate(
    workdir: Path, data_dir: Path, step: str | None, only: list[str], force: bool,
    config: dict[str, Any] | None = None,
) -> None:  # fmt: skip
    """Scores checkpoints, writes `eval/STEP.json` and `index/STEP.npz`, prints the table.

    step: a number, 'all', or None for the newest. only: these evaluators. config: whose evaluators
    and languages are taken instead of the run's.
    """
    for number in _steps(workdir, step):
        _evaluate(workdir, data_dir, number, only, force, config)


def _evaluate(
    workdir: Path, data_dir: Path, step: int | None, only: list[str], force: bool,
    config: dict[str, Any] | None,
) -> None:  # fmt: skip
    found = restore(workdir, step)
    run = found.run
    if config:
        asked = {key: config[key] for key in ('evaluators', 'languages') if key in config}
        run = Run.of(plain(read_config(workdir)) | asked)
    evaluators = run.build_evaluators()
    for name in only:
        if name not in evaluators:
            raise UserError(
                f'--only {name}: there is no such evaluator.{nearest(name, evaluators)} There are '
                f'{", ".join(evaluators)}.'
            )
    chosen = {name: one for name, one in evaluators.items() if name in (only or evaluators)}
    path = workdir / 'eval' / f'{found.step}.json'
    scored, galleries = scores.score(
        chosen, run.languages, sources(found, data_dir), path, print, force=force
    )
    if galleries and not config:  # What is searched is the run's own.
        index = _index(galleries, found.tokenizer.hash)
        index.save(workdir / 'index' / f'{found.step}.npz')
    print(f'step {found.step}: {path}')
    results = {name: scored.results[name] for name in chosen}
    tables.print_tables(results, run.languages, Console())


def _steps(workdir: Path, step: str | None) -> list[int | None]:
    if step is None:
        return [None]
    if step == ALL:
        found = sorted(steps_in(workdir / 'checkpoints'))
        if not found:
            raise UserError(f'{workdir} has no checkpoint yet. Run `mural train` first.')
        return [*found]
    if not step.isdigit():
        raise UserError(f"--step {step} must be a number, or 'all'.")
    return [int(step)]


def search(workdir: Path, query: str, k: int, step: int | None, out: Path) -> None:
    """Prints the k pictures nearest to the query and writes them as one picture."""
    found = restore(workdir, step)
    index = Index.load(workdir / 'index' / f'{found.step}.npz')
    check_vocabulary(index.vocabulary, found.tokenizer.hash, workdir)
    hits = index.search(found.embedder.texts(index.task, [query])[0], k)
    for place, hit in enumerate(hits, 1):
        print(f'{place:3d}  {hit.score:6.3f}  {hit.name}  ({hit.id}, {hit.split})')
    save_sheet(hits, out)


def report(words: Sequence[str], step: int | None, out: Path | None) -> None:
    """Writes the page `out` about runs, each at a step, or at its newest checkpoint.

    words: folders; several stand behind each other or behind commas. Those of models of others and
    of embeddings stand beside runs. The page of one is in its folder, that of several in the
    current one.
    """
    # Only here: curves take a second to import.
    from mural_jax.evaluation.report import examples, language_map
    from mural_jax.evaluation.report import page as pages

    workdirs = _folders(words)
    pages.labels(workdirs)
    home = Path() if len(workdirs) > 1 else workdirs[0]
    out = (out or home / 'report.html').expanduser()
    runs: list[pages.Reported] = []
    looked = pages.Looked(None, [], {}, [])
    for number, workdir in enumerate(workdirs):
        if other := claimed(workdir):
            runs.append(pages.load(workdir, STEP, other))
            looked.maps.append(None)
            continue
        found = restore(workdir, step)
        runs.append(pages.load(workdir, found.step, read_config(workdir)))
        index = _searched(workdir, found)
        if not index:
            looked.maps.append(None)
            continue
        groups = found.run.languages
        names = examples.embed_names(index, found.embedder, [x for g in groups.values() for x in g])
        looked.maps.append(language_map.place(names.vector_LND, names.languages))
        if looked.shown is None:
            looked = looked._replace(
                shown=number, queries=examples.grid(index, found.embedder, groups),
                failures=examples.failures(index, names, groups),
            )  # fmt: skip
    pages.write(out, runs, looked)
    print(f'the report is {out}')


def _searched(workdir: Path, found: Restored) -> Index | None:
    """The search index of a run; None where it retrieves no pictures or was not evaluated whole."""
    path = workdir / 'index' / f'{found.step}.npz'
    if not path.exists():
        return None
    index = Index.load(path)
    check_vocabulary(index.vocabulary, found.tokenizer.hash, workdir)
    return index


def _folders(words: Sequence[str]) -> list[Path]:
    """A word that is a folder is one, whatever commas its name has."""
    parts = [
        part
        for word in words
        for part in ([word] if Path(word).expanduser().is_dir() else word.split(','))
    ]
    if not any(parts):
        raise UserError('--workdirs names no folder. Give at least one: --workdirs RUN_A,RUN_B.')
    return [Path(part).expanduser() for part in parts if part]


def _index(galleries: list[Any], vocabulary: str) -> Index:
    """One index over the galleries in the space of the first one's task, each split once."""
    task = galleries[0].task
    splits = {(one.dataset, one.split): one for one in galleries if one.task == task}
    galleries = [*splits.values()]
    return Index(
        image_ND=np.concatenate([gallery.image_ND for gallery in galleries]),
        ids=[item for gallery in galleries for item in gallery.items.ids],
        names=[names for gallery in galleries for names in gallery.items.names],
        splits=[gallery.split for gallery in galleries for _ in gallery.items.ids],
        pngs=[png for gallery in galleries for png in gallery.items.png],
        task=task,
        vocabulary=vocabulary,
    )
