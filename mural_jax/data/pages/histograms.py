"""Draws histograms for a page: sizes of images, lengths of texts."""

import base64
import io
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from mural_jax.data.sets.records import Records

COUNTED = 1_000_000  # Largest number of images that are counted.
BINS = 40
FILL, MARK = '#2f6fb3', '#d9822b'
# Ticks of the ratio of width to height.
RATIOS = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 3 / 2, 2, 3, 4)


class Histogram(NamedTuple):
    """A histogram on a page.

    title: What it shows.
    image: The figure as a data URI.
    caption: The sentence below it.
    """

    title: str
    image: str
    caption: str


def draw_token_histogram(length_T: np.ndarray, max_length: int) -> Histogram:
    """The histogram of the lengths of texts in tokens, with a line at `max_length`."""
    # The longest texts would leave all others in a few bins.
    highest = max(np.percentile(length_T, 99.5), max_length) * 1.05 + 1
    edges = np.arange(0.5, highest + 1, max(1, round(highest / BINS)))
    cut = 100 * (length_T > max_length).mean()
    caption = f'{cut:.1f}% of {len(length_T):,} texts are longer than {max_length} tokens and cut'
    return Histogram(
        'tokens of a text', _draw_histogram(length_T, edges, max_length + 0.5), caption
    )


def draw_image_histograms(sources: Sequence[Records], image_size: int) -> list[Histogram]:
    """The histograms of the shorter sides and of the aspects of images; none without images.

    Large data sets are sampled at even steps.

    Args:
      sources: The records with the images.
      image_size: Side of the images that the model receives, which a line marks.
    """
    parts = []
    for records in sources:
        index, step = records.index, 1 + len(records) * len(sources) // COUNTED
        size_R2 = np.stack([index.width_R[::step], index.height_R[::step]], axis=1)
        parts.append(size_R2[~index.bad_R[::step] & (size_R2.min(axis=1) > 0)])
    size_R2 = np.concatenate(parts).astype(np.float64)
    if not len(size_R2):
        return []
    short_R, ratio_R = size_R2.min(axis=1), size_R2[:, 0] / size_R2[:, 1]
    # Smaller images are enlarged for the model.
    small = 100 * (short_R < image_size).mean()
    lowest, highest = min(short_R.min(), image_size), max(short_R.max(), image_size)
    # Equal bins on a logarithmic axis.
    sides = np.geomspace(lowest / 2, highest * 2, BINS)
    elongated = 100 * (np.abs(np.log(ratio_R)) > np.log(4 / 3)).mean()
    return [
        Histogram(
            'shorter side, pixels',
            _draw_histogram(short_R, sides, image_size, log='sides'),
            f'{small:.1f}% of {len(short_R):,} images are smaller than image_size={image_size}',
        ),
        Histogram(
            'width : height',
            _draw_histogram(np.clip(ratio_R, 0.2, 5), np.geomspace(0.2, 5, BINS), log='1'),
            f'{elongated:.1f}% are more elongated than 4 : 3',
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
    # Without a date the same data gives the same file.
    figure.savefig(stream, format='svg', metadata={'Date': None})
    return f'data:image/svg+xml;base64,{base64.b64encode(stream.getvalue()).decode()}'


def _label_ticks(axes: Axes, edges: np.ndarray, *, ratios: bool) -> None:
    """Sets ticks that are easy to read: ratios such as 3:2, or round numbers of pixels."""
    digits = (1, 2, 5) if edges[-1] > 20 * edges[0] else (1, 1.5, 2, 3, 5, 7)
    steps = RATIOS if ratios else [b * 10**e for e in range(5) for b in digits]
    inside = [step for step in steps if edges[0] <= step <= edges[-1]]
    axes.xaxis.set_major_locator(FixedLocator(inside))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda x, _: _format_ratio(x) if ratios else f'{x:g}')
    )


def _format_ratio(value: float) -> str:
    """A ratio as text: 3:2 for 1.5."""
    low = next(low for low in (1, 2, 3, 4) if abs(value * low - round(value * low)) < 1e-6)
    return f'{round(value * low)}:{low}'
