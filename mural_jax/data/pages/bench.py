"""Measures how fast streams are, where their time goes, and how near they are to bare decoding."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tensorflow as tf
from rich.console import Console
from rich.table import Table

from mural_jax.data.fields import augmentation, images
from mural_jax.data.fields.image_settings import Augment
from mural_jax.data.fitted.catalog import load_fitted
from mural_jax.data.reading.stream import PARALLEL, PREFETCH, OpenStream, open_stream
from mural_jax.data.sets import schema
from mural_jax.data.streams.base import Stream
from mural_jax.data.tokenizer import Tokenizer

ROUNDS = 3
SAMPLE = 256  # Examples on which the stages and the limit are measured.


def bench_streams(
    streams: Mapping[str, Stream], data_dir: Path, tokenizer: Tokenizer, seed: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Measures each stream and prints tables.

    Args:
      streams: The streams of the config, by name.
      data_dir: Folder of all data sets.
      tokenizer: The tokenizer of the run.
      seed: Seed of the streams.
      seconds: About how long each stream is measured.

    Returns:
      Figures by stream. `stream` is its rate in examples per second. For images `limit` is the
      rate of bare decoding, cropping and resizing of the same bytes in memory. `stages` has the
      time of each stage alone, in microseconds per example: (on one thread, on as many threads as
      the stream uses).
    """
    figures = {}
    for name, spec in streams.items():
        opened = open_stream(spec, data_dir, tokenizer, seed, load_fitted(spec, data_dir))
        figures[name] = _measure_stream(opened, spec, seconds / ROUNDS)
        _print_tables(name, figures[name])
    return figures


def _measure_stream(stream: OpenStream, spec: Stream, seconds: float) -> dict[str, Any]:
    sample = _Sample(stream, spec)
    sides: dict[str, Callable[[], float]] = {
        'stream': lambda: _measure_stream_rate(stream, seconds)
    }
    if settings := spec.images:
        sides['limit'] = lambda: measure_limit(
            sample.encoded, sample.side_B2, settings.size, settings.area, seconds
        )
    rates: dict[str, list[float]] = {side: [] for side in sides}
    # In turns, so that other load on a shared machine affects both alike.
    for _ in range(ROUNDS):
        for side, rate in sides.items():
            rates[side].append(rate())
    figures: dict[str, Any] = {side: median(values) for side, values in rates.items()}
    if 'limit' in rates:
        shares = [ours / bare for ours, bare in zip(rates['stream'], rates['limit'])]
        figures['share of the limit'] = median(shares)
        figures['megapixels'] = sample.pixels / 1e6 * figures['stream']
    figures['tokens'] = sample.tokens * figures['stream']
    figures['stages'] = sample.stages(seconds / 3)
    return figures


class _Sample:
    """Some examples of a stream, on which each stage is measured alone."""

    def __init__(self, stream: OpenStream, spec: Stream):
        self._stream, self._spec = stream, spec
        self._position_B = np.arange(SAMPLE)
        member_B, *others = stream.draw_examples(self._position_B)
        self._member_B, self._others = member_B, others
        self._arrays = [
            tf.constant(array)
            for array in (*stream.read_records(member_B, self._position_B), *others)
        ]
        self.encoded: list[bytes] = []
        self.pixels = 0.0
        if spec.images:
            parsed = schema.parse_examples(self._arrays[0], 'image', 'width', 'height')
            self.encoded = list(parsed['image'].numpy())
            self.side_B2 = np.stack([parsed['height'], parsed['width']], axis=1)
            self.pixels = float(np.mean(parsed['width'].numpy() * parsed['height'].numpy()))
        self._strings = {
            key: value
            for key, value in stream.assembler.make_strings(self._arrays).items()
            if value.dtype == tf.string or key == 'id'
        }
        # A whole batch is assembled once, to count its tokens.
        batch = stream.assembler.assemble(self._arrays)
        texts = [value for key, value in batch.items() if key in self._strings]
        self.tokens = _count_tokens(texts)

    def stages(self, seconds: float) -> dict[str, tuple[float, float]]:
        """Microseconds per example of each stage alone: (on one thread, on PARALLEL threads)."""
        repeated = {
            (name, threads): _repeat_stage(stage, threads)
            for name, stage in self._stages().items()
            for threads in (1, PARALLEL)
        }
        costs: dict[tuple[str, int], list[float]] = {key: [] for key in repeated}
        for _ in range(ROUNDS):
            for key, stage in repeated.items():
                costs[key].append(
                    1e6 / (SAMPLE * _measure_call_rate(iter(stage), seconds / ROUNDS))
                )
        return {
            name: (median(costs[name, 1]), median(costs[name, PARALLEL])) for name in self._stages()
        }

    def _stages(self) -> dict[str, Callable[[], Any]]:
        stream, spec = self._stream, self._spec
        stages: dict[str, Callable[[], Any]] = {
            'order and choice of texts': _wrap_python(
                lambda: stream.draw_examples(self._position_B)
            ),
            'reading records': _wrap_python(
                lambda: stream.read_records(self._member_B, self._position_B)
            ),
        }
        if settings := spec.images:
            encoded_B, random_BU = tf.constant(self.encoded), self._arrays[-1]
            given = (settings, encoded_B, self.side_B2, random_BU)
            cut_BSSC = augmentation.cut_images(*given)
            stages['decoding whole images'] = lambda: images.decode_only(encoded_B)
            stages['decoding and cutting'] = lambda: augmentation.cut_images(*given)
            if settings.augment != Augment():
                stages['augmentation'] = lambda: augmentation.augment_images(
                    settings, cut_BSSC, random_BU
                )
        return stages | {'tokenising': lambda: stream.assembler.tokenise(dict(self._strings))}


def _wrap_python(call: Callable[[], Any]) -> Callable[[], tf.Tensor]:
    """A stage in Python as an operation of TensorFlow."""

    def called() -> np.ndarray:
        call()
        return np.zeros(1, np.int32)

    return lambda: tf.numpy_function(called, [], tf.int32)


def _repeat_stage(stage: Callable[[], Any], threads: int) -> tf.data.Dataset:
    """A data set that runs the stage again and again on a number of threads."""
    repeated = tf.data.Dataset.from_tensors(0).repeat()
    if threads > 1:
        return repeated.map(lambda _: stage(), num_parallel_calls=threads)
    options = tf.data.Options()
    # Decoding and resizing must not use other threads either.
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return repeated.map(lambda _: stage()).with_options(options)


def _count_tokens(texts: list[tf.Tensor]) -> float:
    """Average number of tokens in an example, without padding."""
    return float(sum(np.count_nonzero(text.numpy()) for text in texts)) / SAMPLE


def measure_limit(
    encoded: list[bytes], side_B2: np.ndarray, size: int, area: float, seconds: float
) -> float:
    """Images per second of bare decoding, cropping and resizing, from memory and in parallel."""
    random_B4 = tf.constant(np.random.default_rng(0).random((len(encoded), 4), np.float32))
    # Windows are drawn before, so that only decoding is measured.
    window_B4 = images.draw_windows(tf.constant(side_B2), area or 1.0, random_B4)

    def bare(encoded: tf.Tensor, window_4: tf.Tensor) -> tf.Tensor:
        return images.decode_part_plainly(encoded, window_4, size)

    inputs = tf.data.Dataset.from_tensor_slices((tf.constant(encoded), window_B4)).repeat()
    decoded = inputs.map(bare, num_parallel_calls=PARALLEL, deterministic=False)
    return _count_examples(iter(decoded.batch(64).prefetch(PREFETCH)), seconds)


def _measure_stream_rate(stream: OpenStream, seconds: float) -> float:
    return _count_examples(stream.batches(0, 2**31 // stream.batch_size), seconds)


def _count_examples(batches: Iterator[Any], seconds: float) -> float:
    """Examples per second of batches."""
    # The prefetched batches are ready and would be too fast.
    for _ in range(PREFETCH + 2):
        first = next(batches)
    size = len(first['ids'] if isinstance(first, dict) else first)
    started, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds:
        next(batches)
        count += size
    return count / spent


def _measure_call_rate(calls: Iterator[Any], seconds: float) -> float:
    """Calls per second, after a first call that does not count."""
    next(calls)
    started, count = time.perf_counter(), 0
    while (spent := time.perf_counter() - started) < seconds or not count:
        next(calls)
        count += 1
    return count / spent


def _print_tables(name: str, figures: Mapping[str, Any]) -> None:
    table = Table()
    table.add_column(name)
    table.add_column('per second', justify='right')
    table.add_row('examples', f'{figures["stream"]:,.0f}')
    table.add_row('tokens', f'{figures["tokens"]:,.0f}')
    if 'limit' in figures:
        table.add_row('megapixels decoded', f'{figures["megapixels"]:,.1f}')
        table.add_row('examples of bare decoding, cutting, resizing', f'{figures["limit"]:,.0f}')
        table.add_row('share of that limit', f'{figures["share of the limit"]:.2f}')
    stages = Table()
    stages.add_column('µs per example, each stage alone')
    for column in ('one thread', 'share', f'{PARALLEL} threads'):
        stages.add_column(column, justify='right')
    # Streams never decode whole images; that stage is there only for comparison.
    parts = {stage: cost for stage, cost in figures['stages'].items() if 'whole' not in stage}
    total = sum(alone for alone, _ in parts.values())
    for stage, (alone, together) in figures['stages'].items():
        share = f'{100 * alone / total:.0f}%' if stage in parts else ''
        stages.add_row(stage, f'{alone:,.1f}', share, f'{together:,.1f}')
    Console().print(table, stages)
