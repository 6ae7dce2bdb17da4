"""Pictures of the report: curves and maps as SVG inside the page, thumbnails as data URIs.

An SVG takes its colours from the page, so it is readable in the light, in the dark and in print:
what is drawn in INK becomes the colour of the text, and run or group k that of the variable --ck.
"""

import base64
import functools
import html
import io
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from mural_jax.evaluation.report.language_map import Map
from mural_jax.evaluation.report.tables import HEADLINES

Line = Mapping[str, float]

INK = '#010101'
COLOURS = [f'#0202{number:02x}' for number in range(8)]  # stand for --c0 ... --c7
STYLES = ('-', '--', '-.', ':')  # with the colour, so that no one has to tell colours apart
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')
POINTS = 400  # of a curve, at most
EVALUATED = 12  # curves of evaluators, at most
MANY = 60  # languages of a large map
SIDE = 96  # pixels of a thumbnail, shown at half
SETTINGS: dict[Any, Any] = {
    'svg.fonttype': 'none', 'text.parse_math': False, 'font.size': 9,
    **{f'{part}.color': INK for part in ('text', 'xtick', 'ytick')},
    'axes.edgecolor': INK, 'axes.labelcolor': INK, 'grid.color': INK,
}  # fmt: skip


class Panel(NamedTuple):
    title: str
    svg: str


def curves(runs: Sequence[Sequence[Line]]) -> list[Panel]:
    """Of each metric of training a panel with a line for each run; what none has is left out.

    runs: the lines of `metrics.jsonl` of each. A line may lack any metric.
    """
    names = list(dict.fromkeys(name for lines in runs for line in lines for name in line))
    ends = ('loss', 'accuracy', 'temperature')
    wanted = [name for end in ends for name in sorted(names)
              if name.endswith(f'/{end}') and not name.startswith('eval/')]  # fmt: skip
    wanted += [name for name in ('pairs_per_second',) if name in names]
    wanted += _evaluated([name for name in names if name.startswith('eval/')])
    return [Panel(_title(name), _curve(name, runs)) for name in wanted]


def _evaluated(names: Sequence[str]) -> list[str]:
    """The values of evaluators to draw: the metrics that stand for a row, means first."""
    chosen = [name for name in names if name.split('/')[-1] in HEADLINES] or list(names)
    return sorted(chosen, key=lambda name: ('mean_' not in name.split('/')[-2], name))[:EVALUATED]


def _title(name: str) -> str:
    *where, metric = name.removeprefix('eval/').split('/')
    if not name.startswith('eval/'):
        metric = {'accuracy': 'in-batch accuracy'}.get(metric, metric)
    return ', '.join([metric.replace('_', ' '), *filter(None, ['/'.join(where)])])


def _curve(name: str, runs: Sequence[Sequence[Line]]) -> str:
    with matplotlib.rc_context(SETTINGS | {'svg.hashsalt': name}):
        figure = Figure(figsize=(3.4, 2.1), layout='constrained')
        axes = figure.add_subplot()
        lowest = 0.0
        for number, lines in enumerate(runs):
            points = [(line['step'], line[name]) for line in lines if name in line]
            points = points[:: max(1, len(points) // POINTS)]
            finite = [value for _, value in points if np.isfinite(value)]
            if not finite:
                continue
            lowest = min(lowest, *finite)
            axes.plot(
                *zip(*points), color=COLOURS[number % 8], linestyle=STYLES[number % 4],
                marker='.' if len(points) < 3 else '', linewidth=1.6,
            )  # fmt: skip
        axes.set_xlabel('step')
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if lowest == 0:
            axes.set_ylim(bottom=0)
        _bare(axes)
        return _svg(figure, _title(name) + ' by step')


def language_map(found: Map, group_of: Mapping[str, int], label: str) -> str:
    """The languages as labelled points, the colour and the shape that of their group."""
    with matplotlib.rc_context(SETTINGS | {'svg.hashsalt': label}):
        # Of 72 dots an inch, as SVG: labels are placed by the size of letters in points.
        many = len(found.languages) > MANY
        figure = Figure(figsize=(8, 6.5) if many else (5, 4), dpi=72, layout='constrained')
        axes = figure.add_subplot()
        for group in sorted(set(group_of.values())):
            rows = [i for i, x in enumerate(found.languages) if group_of.get(x) == group]
            x_M, y_M = found.xy_L2[rows].T
            colour, marker = COLOURS[group % 8], MARKERS[group % 8]
            axes.scatter(x_M, y_M, s=12 if many else 28, c=colour, marker=marker)
        axes.margins(0.06)
        for axis, share in zip('xy', found.share_2):
            axes.set(**{f'{axis}label': f'{100 * share:.0f}% of the variance'})
        axes.set_aspect('equal', adjustable='datalim')
        axes.tick_params(labelbottom=False, labelleft=False, length=0)
        _bare(axes)
        figure.canvas.draw()
        _label(axes, found, 6 if many else 8)
        return _svg(figure, label)


def _label(axes: Axes, found: Map, size: int) -> None:
    """Names beside their points, where of eight places the fewest others stand."""
    point_L2 = axes.transData.transform(found.xy_L2)
    taken = [point_L2 - 4, point_L2 + 4]  # lower and upper corners of what stands there
    high = size * 1.35
    for (x, y), language in zip(point_L2, _short(found.languages)):
        wide = 0.62 * size * len(language)
        corners = np.array([
            (x + dx * (wide / 2 + 5) - wide / 2, y + dy * (high / 2 + 3) - high / 2)
            for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
        ])  # fmt: skip
        upper = corners + (wide, high)
        low, up = taken
        hit_8L = ((corners[:, None] < up) & (upper[:, None] > low)).all(-1)
        best = hit_8L.sum(1).argmin()
        taken = [np.vstack([low, corners[best]]), np.vstack([up, upper[best]])]
        x, y = axes.transData.inverted().transform((corners[best] + upper[best]) / 2)
        axes.text(x, y, language, fontsize=size, ha='center', va='center')


def _short(languages: Sequence[str]) -> list[str]:
    """Codes without their script, as long as that tells them apart: ace_Latn -> ace."""
    count = Counter(language.split('_')[0] for language in languages)
    return [x.split('_')[0] if count[x.split('_')[0]] == 1 else x for x in languages]


def _bare(axes: Axes) -> None:
    axes.grid(alpha=0.15)
    axes.spines[['top', 'right']].set_visible(False)


def _svg(figure: Figure, label: str) -> str:
    """An SVG element for inside a page: no fonts and ids of its own but those it refers to."""
    stream = io.StringIO()
    figure.savefig(stream, format='svg', metadata={'Date': None}, transparent=True)
    svg = stream.getvalue()
    svg = svg[svg.index('<svg') :]
    svg = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->', '', svg, flags=re.S)
    svg = re.sub(r'font-family: [^;"]*;?|<defs>\s*</defs>', '', svg)
    svg = re.sub(r'font: ([\d.]+px) [^;\"]*', r'font-size: \1', svg)
    used = set(re.findall(r'(?:href="|url\()#([\w.-]+)', svg))
    svg = re.sub(r' id="([^"]*)"', lambda id: id[0] if id[1] in used else '', svg)
    svg = svg.replace(INK, 'currentColor')
    for number, colour in enumerate(COLOURS):
        svg = svg.replace(colour, f'var(--c{number})')
    view = re.search(r'viewBox="([^"]*)"', svg)
    assert view
    head = (
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" viewBox="{view[1]}" role="img" '
        f'aria-label="{html.escape(label)}">'
    )
    return re.sub(r'\n\s*', ' ', head + svg[svg.index('>') + 1 :])


@functools.lru_cache(maxsize=1024)
def thumbnail(png: bytes) -> str:
    """A small picture as a data URI: WebP, or PNG where that is smaller."""
    with Image.open(io.BytesIO(png)) as opened:
        picture = opened.convert('RGBA' if 'transparency' in opened.info or 'A' in opened.mode
                                 else 'RGB')  # fmt: skip
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    written = []
    for kind, settings in (('webp', {'quality': 80}), ('png', {'optimize': True})):
        stream = io.BytesIO()
        picture.save(stream, kind, **settings)
        written.append((len(stream.getvalue()), kind, stream.getvalue()))
    _, kind, content = min(written)
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
