"""The report of a run: one self-contained HTML file."""

import base64
import hashlib
import io
import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import jinja2
from matplotlib.figure import Figure
from PIL import Image

from mural_jax import metrics
from mural_jax.checkpoints import read_config, write_atomic
from mural_jax.evaluation import scores

RIGHT_TO_LEFT = frozenset(('ar', 'fa', 'he', 'ur', 'ps', 'sd', 'ug', 'ckb'))
FOUND = 6  # pictures for each query
QUERIES = 12  # rows of the grid of each group of languages, at most


class Found(NamedTuple):
    """A picture in the grid of queries."""

    name: str
    png: bytes
    right: bool


class Example(NamedTuple):
    """A row in the grid of queries: what was asked, what was meant, what was found."""

    language: str
    query: str
    wanted: Found
    found: list[Found]


def choose_queries(
    names: list[dict[str, str]], splits: list[str], languages: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, int]]:
    """Yields (language, item) for the grid: held-out items in the order of a hash.

    Nobody picks them, so good and bad ones show as they come.
    """
    held_out = [i for i, split in enumerate(splits) if split == 'test'] or range(len(splits))
    order = sorted(held_out, key=lambda i: hashlib.sha256(str(sorted(names[i].items())).encode())
                   .digest())  # fmt: skip
    items = itertools.cycle(order)
    for group in languages.values():
        for language in list(group)[:QUERIES]:
            item = next(
                (i for i in itertools.islice(items, len(order)) if language in names[i]), -1
            )
            if item >= 0:
                yield language, item


def write(
    workdir: Path, step: int, languages: Mapping[str, Sequence[str]], examples: list[Example]
) -> Path:
    """Writes `report.html` from the metrics and scores of a workdir; returns its path."""
    scored = scores.read(workdir, step)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters['png'] = lambda png: _data_uri(_deflated(png), 'image/png')
    template = Path(__file__).with_name('report.html').read_text(encoding='utf-8')
    html = environment.from_string(template).render(
        name=workdir.resolve().name, step=step, config=read_config(workdir),
        curves=curves(metrics.read(workdir)), results=scored.results,
        protocol=scored.protocol, languages=languages, examples=examples,
        right_to_left=RIGHT_TO_LEFT,
    )  # fmt: skip
    path = workdir / 'report.html'
    write_atomic(path, html)
    return path


def curves(lines: list[dict[str, float]]) -> list[tuple[str, str]]:
    """(title, picture as a data URI) of the metrics of each task and the speed."""
    if not lines:
        return []
    tasks = sorted({name.split('/')[0] for name in lines[0] if name.endswith('/loss')})
    panels: list[tuple[str, dict[str, str]]] = [
        (title, {task: f'{task}/{metric}' for task in tasks})
        for title, metric in (('loss', 'loss'), ('in-batch accuracy', 'accuracy'),
                              ('temperature', 'temperature'))
    ]  # fmt: skip
    panels.append(('pairs per second', {'': 'pairs_per_second'}))
    return [(title, _curve(lines, drawn)) for title, drawn in panels]


def _curve(lines: list[dict[str, float]], drawn: dict[str, str]) -> str:
    figure = Figure(figsize=(4.2, 2.6), layout='constrained')
    axes = figure.add_subplot()
    steps = [line['step'] for line in lines]
    for label, metric in drawn.items():
        axes.plot(steps, [line[metric] for line in lines], label=label.replace('_', ' '))
    axes.set_xlabel('step')
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.spines[['top', 'right']].set_visible(False)
    if any(drawn):
        axes.legend(frameon=False, fontsize=8)
    stream = io.BytesIO()
    figure.savefig(stream, format='svg', metadata={'Date': None})
    return _data_uri(stream.getvalue(), 'image/svg+xml')


def _deflated(png: bytes) -> bytes:
    """The same picture, small."""
    stream = io.BytesIO()
    with Image.open(io.BytesIO(png)) as picture:
        picture.save(stream, 'PNG', optimize=True)
    return stream.getvalue()


def _data_uri(content: bytes, kind: str) -> str:
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'
