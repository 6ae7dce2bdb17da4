"""mural report: a page about one run, or a comparison of several."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mural_jax.cli import flags
from mural_jax.types import UserError

if TYPE_CHECKING:
    from mural_jax.evaluation.report.page import ModelFindings, ReportedRun


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    text = 'Write a page about one run, or a comparison of several.'
    parser = flags.add_verb(verbs, 'report', run, text)
    runs = parser.add_mutually_exclusive_group(required=True)
    runs.add_argument('--workdir', type=flags.user_path, help='Folder of the run.')
    runs.add_argument(
        '--workdirs',
        nargs='+',
        metavar='A,B',
        help='Folders of several runs. The first is compared with each of the others.',
    )
    parser.add_argument(
        '--out',
        type=flags.user_path,
        help='File of the page (default: WORKDIR/report.html for one run, report.html in the '
        'current folder for several).',
    )
    flags.add_step(parser)


def run(arguments: argparse.Namespace) -> None:
    """Writes the page. Folders with scores of what is not a run may stand beside runs."""
    # Here, not above: curves take a second to import.
    from mural_jax.evaluation.report import page as pages

    workdirs = split_folders(arguments.workdirs or [str(arguments.workdir)])
    # Refuses a run that is named twice before any model is loaded.
    pages.label_runs(workdirs)
    home = Path() if len(workdirs) > 1 else workdirs[0]
    out = arguments.out or home / 'report.html'
    runs, findings = _load_runs(workdirs, arguments.step)
    pages.write_page(out, runs, findings)
    print(f'the report is {out}')


def split_folders(words: Sequence[str]) -> list[Path]:
    """The folders in words that may hold several, separated by commas.

    A word that is itself a folder is one, even if its name has commas.
    """
    parts = [
        part
        for word in words
        for part in ([word] if flags.user_path(word).is_dir() else word.split(','))
    ]
    if not any(parts):
        raise UserError('--workdirs names no folder. Give at least one: --workdirs RUN_A,RUN_B.')
    return [flags.user_path(part) for part in parts if part]


def _load_runs(
    workdirs: Sequence[Path], step: int | None
) -> 'tuple[list[ReportedRun], ModelFindings]':
    """What the page shows: the scores of each run, and what their models find.

    Queries and failures are those of the first run with an image index.
    """
    from mural_jax.evaluation.external.scoring import STEP, read_claim
    from mural_jax.evaluation.report import examples, language_map
    from mural_jax.evaluation.report import page as pages
    from mural_jax.runs.image_index import index_path, load_run_index
    from mural_jax.runs.restore import restore
    from mural_jax.workdir.files import read_config

    runs: list[ReportedRun] = []
    findings = pages.ModelFindings(None, [], {}, [])
    for number, workdir in enumerate(workdirs):
        if other := read_claim(workdir):
            # Scores without a run: there is no model to ask.
            runs.append(pages.load_run(workdir, STEP, other))
            findings.maps.append(None)
            continue
        restored = restore(workdir, step)
        runs.append(pages.load_run(workdir, restored.step, read_config(workdir)))
        if not index_path(workdir, restored.step).exists():
            # `mural evaluate` with another config writes scores but no index.
            findings.maps.append(None)
            continue
        index = load_run_index(workdir, restored)
        groups = restored.run.languages
        languages = [language for group in groups.values() for language in group]
        names = examples.embed_names(index, restored.embedder, languages)
        findings.maps.append(language_map.place_languages(names.vector_LND, names.languages))
        if findings.shown is None:
            findings = findings._replace(
                shown=number,
                queries=examples.query_examples(index, restored.embedder, groups),
                failures=examples.worst_failures(index, names, groups),
            )
    return runs, findings
