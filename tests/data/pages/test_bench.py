"""Measurements of streams by `mural data bench`."""

from pathlib import Path

import numpy as np
import pytest

from mural_jax.config.load import load_config
from mural_jax.data.pages import bench
from mural_jax.data.reading.stream import open_stream
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run


@pytest.fixture(scope='module')
def run() -> Run:
    return Run.of(load_config('emoji:tiny', []))


@pytest.fixture(scope='module')
def tokenizer(data_dir: Path, run: Run) -> Tokenizer:
    return Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)


@pytest.fixture(scope='module')
def figures(data_dir: Path, run: Run, tokenizer: Tokenizer) -> dict:
    return bench.bench_streams(run.streams, data_dir, tokenizer, run.seed, seconds=0.3)


def test_only_streams_of_images_have_a_limit(figures: dict) -> None:
    captions = figures['captions']
    assert 0 < captions['share of the limit'] < 3
    # Emoji have 64 x 64 pixels.
    np.testing.assert_allclose(captions['megapixels'], captions['stream'] * 64 * 64 / 1e6)
    assert 'limit' not in figures['translations']


def test_streams_of_images_have_more_stages(figures: dict) -> None:
    stages = figures['captions']['stages']
    assert stages.keys() > figures['translations']['stages'].keys()
    assert 'augmentation' in stages


def test_every_stage_takes_time(figures: dict) -> None:
    costs = [cost for stream in figures.values() for cost in stream['stages'].values()]
    assert min(min(cost) for cost in costs) > 0


def test_tokens_are_counted_as_the_tokenizer_counts(
    data_dir: Path, run: Run, tokenizer: Tokenizer, figures: dict
) -> None:
    for name, spec in run.streams.items():
        stream = open_stream(spec, data_dir, tokenizer, run.seed)
        texts = stream.read_texts(np.arange(bench.SAMPLE))
        tokens = sum(len(ids) for side in texts for ids in tokenizer.encode(side, spec.max_length))
        per_example = figures[name]['tokens'] / figures[name]['stream']
        np.testing.assert_allclose(per_example, tokens / bench.SAMPLE)
