"""Speed of the training step on the local devices, measured as `mural train` runs it."""

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

from mural_jax.distributed.mesh import find_rows
from mural_jax.planning.chips import compute_peak_share
from mural_jax.planning.memory import AbstractRun
from mural_jax.planning.plan import count_step_flops, disable_recomputation
from mural_jax.planning.tables import format_bytes
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run
from mural_jax.training.feed import Feed
from mural_jax.training.step import State
from mural_jax.training.trainer import Trainer
from mural_jax.types import Batch, UserError

WARM_UP_STEPS = 3  # the first of them compiles (ours)
PACKAGES = ('mural-jax', 'jax', 'jaxlib', 'flax', 'optax', 'libtpu')


def measure_training(
    config: Mapping[str, Any], data_dir: Path | None, steps: int
) -> dict[str, Any]:
    """Returns the measurements by name; times are in seconds, sizes in bytes.

    Runs a few warm-up steps and then measures `steps` steps, at least 2. Two steps are in flight,
    as in training, so a step's time runs from the end of the step before it to its own end.

    host_seconds: the time a call of the step takes to return, which is the work of the host.
    data_wait_share: the fraction of the time spent waiting for data; absent without `data_dir`.
    share_of_peak: the operations the model needs, without recomputation, as a fraction of the
        published peak of the devices; absent if no peak is known.

    Raises UserError for fewer than 2 steps.
    """
    if steps < 2:
        raise UserError(f'--steps {steps} is too few for a median; give at least 2.')
    run = Run.of(config)
    batches, vocab_size = _open_batches(run, data_dir, WARM_UP_STEPS + steps)
    graphdef, params, batch_statistics = run.build_model(vocab_size)
    trainer = run.build_trainer(graphdef, params)
    state = trainer.initial_state(params, batch_statistics)
    compilation = _time_compilation(trainer, trainer.abstract_state(params, batch_statistics), run)
    # The trainer holds its own copies; without this the initial arrays would take memory too.
    del params, batch_statistics
    times = _time_steps(trainer, state, batches)
    pairs = sum(run.streams[name].batch_size for name in run.batch_shapes())
    measured = _summarize(config, times, pairs, reads_data=data_dir is not None)
    return compilation | measured | _describe_environment()


def _time_compilation(trainer: Trainer, state: State, run: Run) -> dict[str, float]:
    """Returns the seconds to trace and lower the step, and to compile it.

    The first training step then finds the compiled program in jax's cache.
    """
    started = time.perf_counter()
    lowered = trainer.lower(state, run.batch_shapes())
    traced = time.perf_counter()
    lowered.compile()
    ended = time.perf_counter()
    return {'trace_seconds': traced - started, 'compile_seconds': ended - traced}


def _open_batches(run: Run, data_dir: Path | None, count: int) -> tuple[Iterator[Any], int]:
    """Returns `count` steps' batches, this process's rows of each stream, and the vocab size."""
    if data_dir is None:
        return _random_batches(run, count), run.tokenizer.vocab_size
    # Imported here: without --data_dir, nothing that reads data has to be installed.
    from mural_jax.data.fitted.catalog import load_fitted
    from mural_jax.data.reading.stream import open_stream
    from mural_jax.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)
    readers = {}
    for name in run.batch_shapes():
        stream = run.streams[name]
        fitted = load_fitted(stream, data_dir)
        readers[name] = open_stream(stream, data_dir, tokenizer, seed=0, fitted=fitted)
    return Feed(readers, mesh=run.mesh.build()).batches(count), tokenizer.vocab_size


def _random_batches(run: Run, count: int) -> Iterator[dict[str, Batch]]:
    """Yields the same batch of each stream `count` times.

    It holds random images, texts of full length and ids that all differ, so that every other
    example is a negative.
    """
    rng = np.random.default_rng(0)
    mesh, vocab_size = run.mesh.build(), run.tokenizer.vocab_size
    batches: dict[str, Batch] = {}
    for name, fields in run.batch_shapes().items():
        batch = {}
        for field, shape in fields.items():
            size = (len(find_rows(mesh, shape.shape[0])), *shape.shape[1:])
            top = {'image': 256, 'ids': 2**31 - 1}.get(field, vocab_size)
            # The trainer adds 'index', the place of an example in the global batch. Tokens start
            # at 1, because 0 is padding.
            if field != 'index':
                batch[field] = rng.integers(field != 'image', top, size).astype(shape.dtype)
        batches[name] = batch
    for _ in range(count):
        yield batches


def _time_steps(trainer: Trainer, state: State, batches: Iterator[Any]) -> dict[str, list[float]]:
    """Returns the seconds of each step after the warm-up: 'step', 'host' and 'wait' (for data)."""
    seconds: dict[str, list[float]] = {'step': [], 'host': [], 'wait': []}
    previous_log: Any = None
    ended = time.perf_counter()
    while True:
        requested = time.perf_counter()
        try:
            batch = next(batches)
        except StopIteration:
            break
        received = time.perf_counter()
        state, log = trainer.step(state, batch)
        returned = time.perf_counter()
        # Wait for the step before this one, as the training loop does: waiting for this one would
        # leave the device idle while the host prepares the next call.
        if previous_log is not None:
            jax.block_until_ready(previous_log)
        previous_log, now = log, time.perf_counter()
        seconds['step'].append(now - ended)
        seconds['host'].append(returned - received)
        seconds['wait'].append(received - requested)
        ended = now
    jax.block_until_ready(previous_log)
    return {name: values[WARM_UP_STEPS:] for name, values in seconds.items()}


def _summarize(
    config: Mapping[str, Any], times: Mapping[str, list[float]], pairs: int, reads_data: bool
) -> dict[str, Any]:
    """Returns medians of the times, rates, and the peak memory."""
    device = jax.devices()[0]
    low, median, high = statistics.quantiles(times['step'], n=4)
    # Recomputed operations are work of the implementation, not of the model: they do not count.
    flops = count_step_flops(AbstractRun(disable_recomputation(config), list(jax.devices())))
    rate = flops / median / jax.device_count()
    share = compute_peak_share(rate, device.device_kind)
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
    if reads_data:
        numbers['data_wait_share'] = sum(times['wait']) / sum(times['step'])
    if peak:
        return numbers | {'device_peak_bytes': peak}
    # A CPU device keeps no statistics. Linux reports the resident set in KiB.
    resident = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return numbers | {'host_peak_bytes': resident}


def _describe_environment() -> dict[str, Any]:
    """Returns the devices and the versions of the measurement."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    kind = jax.devices()[0].device_kind
    devices = {'devices': jax.device_count(), 'device_kind': kind}
    return devices | {
        'processes': jax.process_count(),
        'python': platform.python_version(),
        'versions': versions,
    }


def format_measurements(numbers: Mapping[str, Any]) -> dict[str, str]:
    """Returns the measurements as rows of a table: label to value with its unit."""
    step, (low, high) = numbers['step_seconds'], numbers['step_seconds_quartiles']
    rows = {
        'devices': f'{numbers["devices"]} x {numbers["device_kind"]}',
        'trace and lower': f'{numbers["trace_seconds"]:.1f} s',
        'compile': f'{numbers["compile_seconds"]:.1f} s',
        'step (quartiles)': f'{1e3 * step:.1f} ms ({1e3 * low:.1f} to {1e3 * high:.1f})',
        'pairs per second': f'{numbers["pairs_per_second"]:,.1f}',
        'TFLOP/s per device': f'{numbers["tflops_per_second_and_device"]:.3f}',
        'host time per step': f'{1e3 * numbers["host_seconds"]:.1f} ms',
    }
    for name, label in (('share_of_peak', 'share of peak'), ('data_wait_share', 'wait for data')):
        if name in numbers:
            rows[label] = f'{100 * numbers[name]:.1f}%'
    for name in ('device_peak_bytes', 'host_peak_bytes'):
        if name in numbers:
            rows[name.split('_')[0] + ' memory, peak'] = format_bytes(numbers[name])
    return rows
