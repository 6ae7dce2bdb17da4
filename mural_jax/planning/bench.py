"""How fast the training step is on the devices that are here, measured as `mural train` runs it."""

import importlib.metadata
import platform
import resource
import statistics
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mural_jax.planning.chips import share_of_peak
from mural_jax.planning.memory import Abstract
from mural_jax.planning.plan import step_flops, without_recomputing
from mural_jax.planning.tables import gib
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run
from mural_jax.training.feed import Feed
from mural_jax.training.step import State
from mural_jax.training.trainer import Trainer
from mural_jax.types import Batch, UserError

WARM_UP = 3  # steps, the first of which compiles; ours
PACKAGES = ('mural-jax', 'jax', 'jaxlib', 'flax', 'optax', 'libtpu')


def run(config: Mapping[str, Any], data_dir: Path | None, steps: int) -> dict[str, Any]:
    """What was measured, by name; seconds and bytes.

    `steps` are measured, at least 2, after a few that warm up; two are in flight, as in training,
    and a step's time is from the end of the one before to its own end. host_seconds: until the
    call returns, what a host spends on a step. data_wait_share: of the time of the steps, only
    where data is read. share_of_peak: operations that the model needs, not those that are computed
    again, over what the devices' kind publishes.
    """
    if steps < 2:
        raise UserError(f'--steps {steps} is too few for a median; give at least 2.')
    made = Run.of(config)
    batches, vocab_size = _batches(made, data_dir, WARM_UP + steps)
    graphdef, params, statistic = made.build_model(vocab_size)
    trainer = made.build_trainer(graphdef, params)
    state = trainer.place(params, statistic)
    compiling = _compile(trainer, trainer.abstract(params, statistic), made)
    del params, statistic
    times = _steps(trainer, state, batches)
    pairs = sum(made.streams[name]['batch_size'] for name in made.drawn)
    return compiling | _numbers(config, times, pairs, data_dir is not None) | _about()


def _compile(trainer: Trainer, state: State, made: Run) -> dict[str, float]:
    """Seconds to trace and lower the step and to compile it; the first step then finds it done."""
    started = time.perf_counter()
    lowered = trainer.lower(state, made.batch_shapes())
    traced = time.perf_counter()
    lowered.compile()
    ended = time.perf_counter()
    return {'trace_seconds': traced - started, 'compile_seconds': ended - traced}


def _batches(made: Run, data_dir: Path | None, count: int) -> tuple[Iterator[Any], int]:
    """(this host's slices of `count` batches of each stream, the size of the vocabulary)."""
    if data_dir is None:
        return _made_up(made, count), made.tokenizer.vocab_size
    from mural_jax.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(vocabulary_path(data_dir, made), made.tokenizer)
    streams = made.build_streams()
    opened = {name: streams[name].open(data_dir, tokenizer, seed=0) for name in made.drawn}
    return Feed(opened).batches(count), tokenizer.vocab_size


def _made_up(made: Run, count: int) -> Iterator[dict[str, Batch]]:
    """Random pictures, texts of full length and ids that are all different, the same each time."""
    rng = np.random.default_rng(0)
    hosts, vocabulary = jax.process_count(), made.tokenizer.vocab_size
    batches: dict[str, Batch] = {}
    for name, fields in made.batch_shapes().items():
        batch = {}
        for field, shape in fields.items():
            size = (shape.shape[0] // hosts, *shape.shape[1:])
            top = {'image': 256, 'ids': 2**31 - 1}.get(field, vocabulary)
            if field != 'index':
                batch[field] = rng.integers(field != 'image', top, size).astype(shape.dtype)
        batches[name] = batch
    for _ in range(count):
        yield batches


def _steps(trainer: Trainer, state: State, batches: Iterator[Any]) -> dict[str, list[float]]:
    """Seconds of each step after those that warm up: 'step', 'host' and 'wait' for data."""
    seconds: dict[str, list[float]] = {'step': [], 'host': [], 'wait': []}
    before: Any = None
    ended = time.perf_counter()
    while True:
        asked = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            break
        given = time.perf_counter()
        state, log = trainer.step(state, batch)
        called = time.perf_counter()
        # Two steps in flight: the end of the one before is waited for.
        if before is not None:
            jax.block_until_ready(before)
        before, now = log, time.perf_counter()
        seconds['step'].append(now - ended)
        seconds['host'].append(called - given)
        seconds['wait'].append(given - asked)
        ended = now
    jax.block_until_ready(before)
    return {name: values[WARM_UP:] for name, values in seconds.items()}


def _numbers(
    config: Mapping[str, Any], times: Mapping[str, list[float]], pairs: int, read: bool
) -> dict[str, Any]:
    """What the times say, and the operations that the model needs."""
    device = jax.devices()[0]
    low, median, high = statistics.quantiles(times['step'], n=4)
    flops = step_flops(Abstract(without_recomputing(config), list(jax.devices())))
    rate = flops / median / jax.device_count()
    share = share_of_peak(rate, device.device_kind)
    peak = (device.memory_stats() or {}).get('peak_bytes_in_use')
    numbers: dict[str, Any] = {
        'step_seconds': median,
        'step_seconds_quartiles': [low, high],
        'pairs_per_second': pairs / median,
        'tflops_per_second_and_device': rate / 1e12,
        'host_seconds': statistics.median(times['host']),
    }
    if share:
        numbers['share_of_peak'] = share
    if read:
        numbers['data_wait_share'] = sum(times['wait']) / sum(times['step'])
    if peak:
        return numbers | {'device_peak_bytes': peak}
    most = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return numbers | {'host_peak_bytes': most}


def _about() -> dict[str, Any]:
    """What it was measured on."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    kind = jax.devices()[0].device_kind
    about = {'devices': jax.device_count(), 'device_kind': kind, 'processes': jax.process_count()}
    return about | {'python': platform.python_version(), 'versions': versions}


def in_words(numbers: Mapping[str, Any]) -> dict[str, str]:
    """The numbers for a table."""
    step, (low, high) = numbers['step_seconds'], numbers['step_seconds_quartiles']
    words = {
        'devices': f'{numbers["devices"]} x {numbers["device_kind"]}',
        'trace and lower': f'{numbers["trace_seconds"]:.1f} s',
        'compile': f'{numbers["compile_seconds"]:.1f} s',
        'step (quartiles)': f'{1e3 * step:.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f})',
        'pairs a second': f'{numbers["pairs_per_second"]:,.1f}',
        'TFLOP/s a device': f'{numbers["tflops_per_second_and_device"]:.3f}',
        'host, a step': f'{1e3 * numbers["host_seconds"]:.1f} ms',
    }
    for name, said in (('share_of_peak', 'share of peak'), ('data_wait_share', 'wait for data')):
        if name in numbers:
            words[said] = f'{100 * numbers[name]:.1f}%'
    for name in ('device_peak_bytes', 'host_peak_bytes'):
        if name in numbers:
            words[name.split('_')[0] + ' memory, peak'] = gib(numbers[name])
    return words
