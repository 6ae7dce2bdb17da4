"""The report of one or several runs: one self-contained HTML file."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jinja2

from mural_jax.evaluation import scores
from mural_jax.evaluation.report import figures, scripts
from mural_jax.evaluation.report.blocks import blocks, merged, split_up
from mural_jax.evaluation.report.comparison import LEVEL, Measured
from mural_jax.evaluation.report.examples import Example
from mural_jax.evaluation.report.language_map import Map
from mural_jax.evaluation.scores import Groups
from mural_jax.types import UserError
from mural_jax.workdir import metrics
from mural_jax.workdir.files import write_atomic


class Reported(NamedTuple):
    """What is read of a run: its scores at a step, when they were written, its training."""

    workdir: Path
    step: int
    date: str
    measured: Measured
    lines: list[dict[str, float]]
    config: dict[str, Any]

    @property
    def groups(self) -> Groups:
        return self.config['languages']


class Looked(NamedTuple):
    """What was made with the models: of run `shown` queries and failures, of each run a map.

    shown: the first with a search index; None where none has one.
    """

    shown: int | None
    queries: list[Example]
    failures: Mapping[str, Sequence[Example]]
    maps: list[Map | None]


def load(workdir: Path, step: int, config: dict[str, Any]) -> Reported:
    """Raises UserError where the scores cannot be read."""
    found = scores.read(workdir, step)
    path = workdir / 'eval' / f'{step}.json'
    written = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    return Reported(
        workdir, step, f'{written:%Y-%m-%d %H:%M} UTC',
        Measured(found, scores.read_samples(path.with_suffix('.npz'))),
        metrics.read(workdir), config,
    )  # fmt: skip


def write(path: Path, runs: Sequence[Reported], looked: Looked) -> None:
    """Writes the page. Raises UserError where it cannot be written."""
    page = render(runs, looked)
    try:
        write_atomic(path, page)
    except OSError as error:
        raise UserError(
            f'Cannot write the report {path} ({error}). Give another file with --out.'
        ) from error


def render(runs: Sequence[Reported], looked: Looked) -> str:
    """The page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        'thumbnail': figures.thumbnail, 'direction': scripts.direction, 'fonts': scripts.fonts,
        'tag': scripts.tag,
    }  # fmt: skip
    groups = merged([run.groups for run in runs])
    names = labels([run.workdir for run in runs])
    return environment.get_template('page.html').render(
        names=names, runs=runs, blocks=blocks([run.measured for run in runs], groups),
        curves=figures.curves([run.lines for run in runs]), looked=looked,
        maps=maps(looked.maps, groups, names), level=LEVEL,
        many=any(one and len(one.languages) > figures.MANY for one in looked.maps),
    )  # fmt: skip


def labels(workdirs: Sequence[Path]) -> list[str]:
    """What each run is called: its folder, with as many of those above as tell runs apart."""
    parts = [workdir.resolve().parts for workdir in workdirs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ['/'.join(part[-depth:]).replace('//', '/') for part in parts]
        if len(set(names)) == len(names):
            return names
    raise UserError(f'{workdirs[0]} is named twice. Compare different runs with --workdirs A,B.')


class Drawn(NamedTuple):
    """A map of languages. groups: names of those that have a colour in it."""

    name: str
    svg: str
    found: Map
    groups: list[str]


def maps(found: Sequence[Map | None], groups: Groups, names: Sequence[str]) -> list[Drawn]:
    """A map of each run whose texts are parallel enough."""
    drawn = []
    for name, one in zip(names, found):
        if one:
            split = split_up(one.languages, groups)
            group_of = {x: number for number, own in enumerate(split.values()) for x in own}
            svg = figures.language_map(one, group_of, f'{name}: languages')
            drawn.append(Drawn(name, svg, one, list(split)))
    return drawn
