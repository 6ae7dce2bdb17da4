"""Streams of plain arrays, and runs of a tiny model on them."""

import functools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mural_jax.config.build import lists_to_tuples
from mural_jax.config.load import load_config
from mural_jax.runs.run import Run
from mural_jax.training import loop
from mural_jax.training.stages import StageProgram
from mural_jax.training.step import State
from mural_jax.training.trainer import Trainer
from mural_jax.types import Batch
from mural_jax.workdir import metrics

VOCABULARY_SIZE = 60
NO_DROPOUT = (
    '--config.model.towers.image.layers.dropout=0.0',
    '--config.model.towers.text.layers.dropout=0.0',
)


class ArrayStream:
    """Random batches, a function of the position."""

    def __init__(self, fields: dict[str, tuple[tuple[int, ...], type, int]], batch_size: int = 16):
        """`fields`: by name the shape of an example, its dtype, and the bound of its values."""
        self.batch_size, self._fields = batch_size, fields
        self.labels, self.mixture = ('some/aa', 'some/bb'), {}

    def batches(self, position: int, count: int, rows: np.ndarray | None = None) -> Iterator[Batch]:
        for step in range(position // self.batch_size, position // self.batch_size + count):
            rng = np.random.default_rng(step)
            batch = {
                name: rng.integers(1, top, (self.batch_size, *shape)).astype(kind)
                for name, (shape, kind, top) in self._fields.items()
            }
            ids = rng.integers(0, 200, (self.batch_size, 2)).astype(np.int32)
            batch |= {'ids': ids, 'origin': ids[:, 0] % 2}
            yield batch if rows is None else {name: array[rows] for name, array in batch.items()}

    def follow(self, mixture: dict, position: int) -> str:
        return ''

    def take_bad(self) -> list:
        return []


def make_streams(batch_size: int = 16) -> dict[str, ArrayStream]:
    text = ((10,), np.int32, VOCABULARY_SIZE)
    image = ((64, 64, 3), np.uint8, 255)
    return {
        'captions': ArrayStream({'image': image, 'text': text}, batch_size),
        'translations': ArrayStream({'source': text, 'target': text}, batch_size),
    }


def first_batches(streams: Mapping[str, ArrayStream] | None = None) -> dict[str, Batch]:
    """The first batch of each stream."""
    return {
        name: next(iter(stream.batches(0, 1)))
        for name, stream in (streams or make_streams()).items()
    }


def make_trainer(*overrides: str) -> tuple[Trainer, State]:
    """(trainer, initial state) of the emoji config at its tiny size."""
    run = Run.of(load_config('emoji:tiny', list(overrides)))
    graphdef, params, statistics = run.build_model(VOCABULARY_SIZE)
    trainer = run.build_trainer(graphdef, params)
    return trainer, trainer.initial_state(params, statistics)


@functools.cache
def run_first_step(*overrides: str) -> tuple[State, dict]:
    """(state, logs) after the first step of a run, which many tests share."""
    trainer, state = make_trainer(*overrides)
    return trainer.step(state, first_batches())


def assert_close(left: object, right: object, **tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def are_equal(left: object, right: object) -> bool:
    """Whether two trees hold the same arrays, bit for bit."""
    return jax.tree.all(jax.tree.map(np.array_equal, *jax.device_get((left, right))))


def make_programs(run: Run) -> tuple[list[StageProgram], State]:
    """(stages with their trainers, initial state) of a run."""
    graphdef, params, statistics = run.build_model(VOCABULARY_SIZE)
    programs = run.build_programs(graphdef, params)
    return programs, programs[0].trainer.initial_state(params, statistics)


@functools.cache
def build_once(overrides: tuple[str, ...], stages: str) -> tuple[Run, list[StageProgram], Any, Any]:
    """(run, its programs, parameters, batch statistics) of the tiny emoji config.

    Tests that stop and resume one run share its compiled steps. `stages` is JSON.
    """
    config = load_config('emoji:tiny', list(overrides))
    run = Run.of({**config, 'stages': lists_to_tuples(json.loads(stages))})
    graphdef, params, statistics = run.build_model(VOCABULARY_SIZE)
    return run, run.build_programs(graphdef, params), params, statistics


def run_loop(
    folder: Path,
    *overrides: str,
    streams: Mapping[str, Any] | None = None,
    stages: Mapping[str, Any] | None = None,
    validator: loop.Validator | None = None,
) -> State:
    """The last state of a tiny run in a folder, which it resumes if there is a checkpoint."""
    run, programs, params, statistics = build_once(overrides, json.dumps(stages or {}))
    state = programs[0].trainer.initial_state(params, statistics)
    folder.mkdir(exist_ok=True)
    context = loop.RunContext(folder, 'hash', lambda found: None, validator)
    return loop.train(programs, run.schedule, state, streams or make_streams(), context)


def read_metrics(folder: Path) -> list[dict]:
    """The lines of metrics without those that depend on the machine."""
    return [
        {k: v for k, v in line.items() if k not in metrics.TIMINGS} for line in metrics.read(folder)
    ]
