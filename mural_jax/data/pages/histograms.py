"""Histograms as pictures for a page: sizes of pictures, lengths of texts."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mural_jax.data.sets.records import Records

COUNTED = 1_000_000  # pictures, at most
BINS = 40
FILL, MARK = '#2f6fb3', '#d9822b'
RATIOS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 3 / 2, 2, 3, 4)


class Histogram(NamedTuple):
    """A histogram: what it shows, the picture as a data URI, and what is said below it."""

    title: str
    picture: str
    words: str


def draw_token_histogram(length_T: np.ndarray, max_length: int) -> Histogram:
    """Lengths of texts, with a line at the longest that is not cut."""
    highest = max(np.percentile(length_T, 99.5), max_length) * 1.05 + 1
    edges = np.arange(0.5, highest + 1, max(1, round(highest / BINS)))
    cut = 100 * (length_T > max_length).mean()
    words = f'{cut:.1f}% of {len(length_T):,} texts are longer than {max_length} tokens and cut'
    return Histogram('tokens of a text', _draw_histogram(length_T, edges, max_length + 0.5), words)


def draw_image_histograms(sources: Sequence[Records], image_size: int) -> list[Histogram]:
    """The shorter sides and the aspects of pictures; of large data, of some evenly spaced ones."""
    parts = []
    for records in sources:
        index, step = records.index, 1 + len(records) * len(sources) // COUNTED
        size_R2 = np.stack([index.width_R[::step], index.height_R[::step]], axis=1)
        parts.append(size_R2[~index.bad_R[::step] & (size_R2.min(axis=1) > 0)])
    size_R2 = np.concatenate(parts).astype(np.float64)
    if not len(size_R2):
        return []
    short_R, ratio_R = size_R2.min(axis=1), size_R2[:, 0] / size_R2[:, 1]
    small = 100 * (short_R < image_size).mean()
    lowest, highest = min(short_R.min(), image_size), max(short_R.max(), image_size)
    sides = np.geomspace(lowest / 2, highest * 2, BINS)
    turned = 100 * (np.abs(np.log(ratio_R)) > np.log(4 / 3)).mean()
    return [
        Histogram(
            'shorter side, pixels',
            _draw_histogram(short_R, sides, image_size, log='sides'),
            f'{small:.1f}% of {len(short_R):,} pictures are smaller than image_size={image_size}',
        ),
        Histogram(
            'width : height',
            _draw_histogram(np.clip(ratio_R, 0.2, 5), np.geomspace(0.2, 5, BINS), log='1'),
            f'{turned:.1f}% are longer than 4 : 3',
        ),
    ]


def _draw_histogram(
    value_N: np.ndarray, edges: np.ndarray, mark: float = 0.0, log: str = ''
) -> str:
    figure = Figure(figsize=(4.2, 2.2), layout='constrained')
    axes = figure.add_subplot()
    axes.hist(np.clip(value_N, edges[0], edges[-1]), bins=edges.tolist(), color=FILL)
    if mark:
        axes.axvline(mark, color=MARK)
    if log:
        axes.set_xscale('log')
        _label_ticks(axes, edges, ratios=log == '1')
    axes.set_yticks([])
    axes.spines[['top', 'right', 'left']].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format='svg', metadata={'Date': None})
    return f'data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}'


def _label_ticks(axes: Axes, edges: np.ndarray, *, ratios: bool) -> None:
    """Ticks that people read: 1:2 and 3:2, or round numbers of pixels."""
    digits = (1, 2, 5) if edges[-1] > 20 * edges[0] else (1, 1.5, 2, 3, 5, 7)
    steps = RATIOS if ratios else [b * 10**e for e in range(5) for b in digits]
    inside = [step for step in steps if edges[0] <= step <= edges[-1]]
    axes.xaxis.set_major_locator(FixedLocator(inside))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: _format_ratio(x) if ratios else f'{x:g}')
    )


def _format_ratio(value: float) -> str:
    """1.5 -> 3:2."""
    low = next(low for low in (1, 2, 3, 4) if abs(value * low - round(value * low)) < 1e-6)
    return f'{round(value * low)}:{low}'
