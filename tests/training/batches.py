"""Streams of plain arrays, and runs of a tiny model on them."""

from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np

from mural_jax.config.load import load_config
from mural_jax.runs.run import Run
from mural_jax.training import loop
from mural_jax.training.step import State
from mural_jax.training.trainer import Trainer
from mural_jax.types import Batch
from mural_jax.workdir import metrics

VOCABULARY = 60


class ArrayStream:
    """Random batches, a function of the step."""

    def __init__(self, fields: dict[str, tuple[tuple[int, ...], type, int]], batch_size: int = 16):
        self.batch_size, self._fields = batch_size, fields
        self.labels, self.mixture = ('some/aa', 'some/bb'), {}

    def batches(
        self, position: int, count: int, host: int = 0, num_hosts: int = 1
    ) -> Iterator[Batch]:
        for step in range(position // self.batch_size, position // self.batch_size + count):
            rng = np.random.default_rng(step)
            batch = {
                name: rng.integers(1, top, (self.batch_size, *shape)).astype(kind)
                for name, (shape, kind, top) in self._fields.items()
            }
            ids = rng.integers(0, 200, (self.batch_size, 2)).astype(np.int32)
            yield batch | {'ids': ids, 'origin': ids[:, 0] % 2}

    def follow(self, mixture: dict, position: int) -> str:
        return ''

    def take_bad(self) -> list:
        return []


def streams(batch_size: int = 16) -> dict[str, ArrayStream]:
    text = ((10,), np.int32, VOCABULARY)
    image = ((64, 64, 3), np.uint8, 255)
    return {
        'captions': ArrayStream({'image': image, 'text': text}, batch_size),
        'translations': ArrayStream({'source': text, 'target': text}, batch_size),
    }


def trainer(*overrides: str, arm: str = 'mural') -> tuple[Trainer, State]:
    run = Run.of(load_config(f'emoji:{arm},tiny', list(overrides)))
    graphdef, params, statistics = run.build_model(VOCABULARY)
    built = run.build_trainer(graphdef, params)
    return built, built.place(params, statistics)


def one_step(*overrides: str) -> tuple[State, dict]:
    return step_of(*trainer(*overrides))


def step_of(built: Trainer, state: State) -> tuple[State, dict]:
    """The first step of a run."""
    return built.step(state, {name: next(iter(s.batches(0, 1))) for name, s in streams().items()})


def close(left: object, right: object, **tolerance: float) -> None:
    for a, b in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


NO_DROPOUT = (
    '--config.model.towers.image.layers.dropout=0.0',
    '--config.model.towers.text.layers.dropout=0.0',
)


def run_loop(folder: Path, *overrides: str, given: dict | None = None) -> State:
    built, state = trainer(*overrides)
    folder.mkdir(exist_ok=True)
    schedule = Run.of(load_config('emoji:tiny', list(overrides))).schedule
    place = loop.Place(folder, 'hash', lambda found: None)
    return loop.train(built, schedule, state, given or streams(), place)


def without_timings(folder: Path) -> list[dict]:
    return [
        {k: v for k, v in line.items() if k not in metrics.TIMINGS} for line in metrics.read(folder)
    ]
