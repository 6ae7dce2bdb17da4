"""The report of one or several runs: one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from mural_jax.evaluation import scores
from mural_jax.evaluation.report import figures, scripts
from mural_jax.evaluation.report.comparison import LEVEL, RunScores
from mural_jax.evaluation.report.examples import QueryExample
from mural_jax.evaluation.report.language_map import LanguageMap
from mural_jax.evaluation.report.sections import build_sections, merge_groups, split_by_group
from mural_jax.evaluation.scores import Groups
from mural_jax.types import UserError
from mural_jax.workdir import metrics
from mural_jax.workdir.files import write_atomic


class ReportedRun(NamedTuple):
    """A run as the report reads it.

    date: when the scores were written. lines: of `metrics.jsonl`, empty without training.
    """

    workdir: Path
    step: int
    date: str
    measured: RunScores
    lines: list[dict[str, float]]
    config: dict[str, Any]

    @property
    def groups(self) -> Groups:
        """The languages of the config, by group."""
        return self.config['languages']


class ModelFindings(NamedTuple):
    """What the models of the runs find, beyond scores.

    shown: the run whose queries and failures these are, the first with a search index; None if no
    run has one. maps: a language map for each run, None for a run without.
    """

    shown: int | None
    queries: list[QueryExample]
    failures: Mapping[str, Sequence[QueryExample]]
    maps: list[LanguageMap | None]


class DrawnMap(NamedTuple):
    """A drawn language map of a run. groups: the groups with a colour in it, in their order."""

    name: str
    svg: str
    found: LanguageMap
    groups: list[str]


def load_run(workdir: Path, step: int, config: dict[str, Any]) -> ReportedRun:
    """Returns a run at a step. Raises UserError if the scores cannot be read."""
    found = scores.read(workdir, step)
    path = workdir / 'eval' / f'{step}.json'
    # The time of the file, since scores may be added to it later.
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return ReportedRun(
        workdir,
        step,
        f'{written:%Y-%m-%d %H:%M} UTC',
        RunScores(found, scores.read_samples(path.with_suffix('.npz'))),
        metrics.read(workdir),
        config,
    )


def write_page(path: Path, runs: Sequence[ReportedRun], findings: ModelFindings) -> None:
    """Writes the page. Raises UserError if it cannot be written."""
    page = render_page(runs, findings)
    try:
        write_atomic(path, page)
    except OSError as error:
        raise UserError(
            f'Cannot write the report {path} ({error}). Give another file with --out.'
        ) from error


def render_page(runs: Sequence[ReportedRun], findings: ModelFindings) -> str:
    """Returns the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        # A misspelt name in the template is an error, not an empty place.
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        'thumbnail': figures.thumbnail_uri,
        'direction': scripts.text_direction,
        'fonts': scripts.font_list,
        'tag': scripts.language_tag,
    }
    groups = merge_groups([run.groups for run in runs])
    names = label_runs([run.workdir for run in runs])
    # The same metric for curves of training as for the scores.
    headlines = {
        name: run.measured.scores.headline(name)
        for run in runs
        for name in run.measured.scores.results
    }
    return environment.get_template('page.html').render(
        names=names,
        runs=runs,
        sections=build_sections([run.measured for run in runs], groups),
        curves=figures.draw_curves([run.lines for run in runs], headlines),
        findings=findings,
        maps=draw_maps(findings.maps, groups, names),
        level=LEVEL,
        many=any(one and len(one.languages) > figures.MANY for one in findings.maps),
    )


def label_runs(workdirs: Sequence[Path]) -> list[str]:
    """Returns a name for each run: its folder, with as many parents as tell the runs apart.

    Raises UserError if a run is named twice.
    """
    parts = [workdir.resolve().parts for workdir in workdirs]
    # The shortest names that differ: folders alone, then with one parent, and so on.
    for depth in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(part[-depth:]).replace('//', '/') for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f'{workdirs[0]} is named twice. Compare different runs with --workdirs A,B.')


def draw_maps(
    maps: Sequence[LanguageMap | None], groups: Groups, names: Sequence[str]
) -> list[DrawnMap]:
    """Returns a drawing of each map that exists."""
    drawn = []
    for name, one in zip(names, maps):
        if one:
            split = split_by_group(one.languages, groups)
            group_of = {x: number for number, own in enumerate(split.values()) for x in own}
            svg = figures.draw_language_map(one, group_of, f'{name}: languages')
            drawn.append(DrawnMap(name, svg, one, list(split)))
    return drawn
