"""Figures of the report: curves and maps as SVG inside the page, thumbnails as data URIs.

An SVG takes its colours from the page, so it is readable in light and dark mode and in print: INK
becomes the colour of the text, and the colour of run or group k becomes the CSS variable --ck.
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

from mural_jax.evaluation.evaluators.base import MEAN
from mural_jax.evaluation.report.language_map import LanguageMap
from mural_jax.evaluation.validation import PREFIX

Line = Mapping[str, float]

INK = '#010101'
COLOURS = [f'#0202{number:02x}' for number in range(8)]  # stand for --c0 ... --c7
STYLES = ('-', '--', '-.', ':')  # beside the colour, so that nobody must tell colours apart
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X', '*')
POINTS = 400  # of a curve, at most
EVALUATED = 12  # curves of evaluators, at most
MANY = 60  # A map of more languages is drawn larger.
SIDE = 96  # pixels of a thumbnail, which the page shows at half the size
# Where a label may stand beside its point: right, left, above, below, then the corners.
LABEL_SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))
SETTINGS: dict[Any, Any] = {
    'svg.fonttype': 'none',
    'text.parse_math': False,
    'font.size': 9,
    **{f'{part}.color': INK for part in ('text', 'xtick', 'ytick')},
    'axes.edgecolor': INK,
    'axes.labelcolor': INK,
    'grid.color': INK,
}


class CurvePanel(NamedTuple):
    """A drawn curve of one metric."""

    title: str
    svg: str


def draw_curves(
    runs: Sequence[Sequence[Line]], headlines: Mapping[str, str] | None = None
) -> list[CurvePanel]:
    """Returns a panel for each metric of training, with a line for each run that has it.

    runs: the lines of `metrics.jsonl` of each run; a line may lack any metric.
    headlines: {evaluator: its headline metric}, the one that is drawn.
    """
    names = list(dict.fromkeys(name for lines in runs for line in lines for name in line))
    ends = ('loss', 'accuracy', 'temperature')
    wanted = [
        name
        for end in ends
        for name in sorted(names)
        if name.endswith(f'/{end}') and not name.startswith(f'{PREFIX}/')
    ]
    wanted += [name for name in ('pairs_per_second',) if name in names]
    evaluated = [name for name in names if name.startswith(f'{PREFIX}/')]
    wanted += _select_evaluated(evaluated, headlines or {})
    return [CurvePanel(_title(name), _draw_curve(name, runs)) for name in wanted]


def _select_evaluated(names: Sequence[str], headlines: Mapping[str, str]) -> list[str]:
    """Returns the metrics eval/EVALUATOR/ROW/METRIC to draw: headlines, means first."""

    def is_headline(name: str) -> bool:
        _, *evaluator, _, metric = name.split('/')
        # An evaluator that is not in the scores has no headline: all its metrics may be drawn.
        return metric == headlines.get('/'.join(evaluator), metric)

    chosen = [name for name in names if is_headline(name)]
    order = sorted(chosen, key=lambda name: (MEAN not in name.split('/')[-2], name))
    return order[:EVALUATED]


def _title(name: str) -> str:
    *where, metric = name.removeprefix(f'{PREFIX}/').split('/')
    if not name.startswith(f'{PREFIX}/'):
        metric = {'accuracy': 'in-batch accuracy'}.get(metric, metric)
    return ', '.join([metric.replace('_', ' '), *filter(None, ['/'.join(where)])])


def _draw_curve(name: str, runs: Sequence[Sequence[Line]]) -> str:
    # The salt makes the ids inside the SVG the same in every drawing.
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
                *zip(*points),
                color=COLOURS[number % 8],
                linestyle=STYLES[number % 4],
                marker='.' if len(points) < 3 else '',
                linewidth=1.6,
            )
        axes.set_xlabel('step')
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if lowest == 0:
            axes.set_ylim(bottom=0)
        _remove_frame(axes)
        return _to_svg(figure, _title(name) + ' by step')


def draw_language_map(found: LanguageMap, group_of: Mapping[str, int], label: str) -> str:
    """Returns the languages as labelled points with the colour and shape of their group.

    group_of: {language: number of its group}; others are only labelled. label: describes the
    figure for screen readers.
    """
    with matplotlib.rc_context(SETTINGS | {'svg.hashsalt': label}):
        many = len(found.languages) > MANY
        # 72 dots per inch, as in SVG: labels are placed by the size of letters in points.
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
        _remove_frame(axes)
        # Layout is computed when drawing, and labels need the final positions of the points.
        figure.canvas.draw()
        _add_labels(axes, found, 6 if many else 8)
        return _to_svg(figure, label)


def _add_labels(axes: Axes, found: LanguageMap, size: int) -> None:
    """Writes each language beside its point, on the side where it covers the fewest others."""
    point_L2 = axes.transData.transform(found.xy_L2)
    # The lower and the upper corners of all points and labels that stand so far.
    taken = [point_L2 - 4, point_L2 + 4]
    height = size * 1.35
    for (x, y), language in zip(point_L2, _shorten_codes(found.languages)):
        width = 0.62 * size * len(language)
        lower_82 = np.array(
            [
                (x + dx * (width / 2 + 5) - width / 2, y + dy * (height / 2 + 3) - height / 2)
                for dx, dy in LABEL_SIDES
            ]
        )
        upper_82 = lower_82 + (width, height)
        low, up = taken
        hit_8L = ((lower_82[:, None] < up) & (upper_82[:, None] > low)).all(-1)
        best = hit_8L.sum(1).argmin()
        taken = [np.vstack([low, lower_82[best]]), np.vstack([up, upper_82[best]])]
        x, y = axes.transData.inverted().transform((lower_82[best] + upper_82[best]) / 2)
        axes.text(x, y, language, fontsize=size, ha='center', va='center')


def _shorten_codes(languages: Sequence[str]) -> list[str]:
    """Returns codes without their script if that still tells them apart: ace_Latn -> ace."""
    count = Counter(language.split('_')[0] for language in languages)
    return [x.split('_')[0] if count[x.split('_')[0]] == 1 else x for x in languages]


def _remove_frame(axes: Axes) -> None:
    axes.grid(alpha=0.15)
    axes.spines[['top', 'right']].set_visible(False)


def _to_svg(figure: Figure, label: str) -> str:
    """Returns an SVG element to embed: without fonts, and only with ids that are referred to."""
    stream = io.StringIO()
    figure.savefig(stream, format='svg', metadata={'Date': None}, transparent=True)
    svg = stream.getvalue()
    svg = svg[svg.index('<svg') :]
    svg = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->', '', svg, flags=re.S)
    svg = re.sub(r'font-family: [^;"]*;?|<defs>\s*</defs>', '', svg)
    svg = re.sub(r'font: ([\d.]+px) [^;\"]*', r'font-size: \1', svg)
    # Several figures stand on one page, so ids without a purpose could clash.
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
def thumbnail_uri(png: bytes) -> str:
    """Returns a small copy of an image as a data URI: WebP, or PNG if that is smaller."""
    with Image.open(io.BytesIO(png)) as opened:
        is_transparent = 'transparency' in opened.info or 'A' in opened.mode
        image = opened.convert('RGBA' if is_transparent else 'RGB')
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    candidates = []
    for kind, settings in (('webp', {'quality': 80}), ('png', {'optimize': True})):
        stream = io.BytesIO()
        image.save(stream, kind, **settings)
        candidates.append((len(stream.getvalue()), kind, stream.getvalue()))
    _, kind, content = min(candidates)
    return f'data:image/{kind};base64,{base64.b64encode(content).decode()}'
