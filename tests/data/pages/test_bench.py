"""What `mural data bench` measures of streams."""

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
def measured(data_dir: Path) -> dict:
    run = Run.of(load_config('emoji:tiny', []))
    read = Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)
    return bench.bench_streams(run.streams, data_dir, read, run.seed, seconds=0.3)


def test_streams_with_pictures_have_a_limit(measured: dict) -> None:
    captions, translations = measured['captions'], measured['translations']
    assert 0 < captions['share of the limit'] < 3
    # Emoji have 64 x 64 pixels.
    np.testing.assert_allclose(captions['megapixels'], captions['stream'] * 64 * 64 / 1e6)
    assert 'limit' not in translations
    assert captions['stages'].keys() > translations['stages'].keys()
    assert 'augmentation' in captions['stages']
    costs = [cost for figures in measured.values() for cost in figures['stages'].values()]
    assert min(min(cost) for cost in costs) > 0


def test_tokens_are_those_of_the_texts(data_dir: Path, measured: dict) -> None:
    run = Run.of(load_config('emoji:tiny', []))
    read = Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)
    for name, spec in run.streams.items():
        stream = open_stream(spec, data_dir, read, run.seed)
        texts = stream.read_texts(np.arange(bench.SAMPLE))
        tokens = sum(len(ids) for side in texts for ids in read.encode(side, spec.max_length))
        per_example = measured[name]['tokens'] / measured[name]['stream']
        np.testing.assert_allclose(per_example, tokens / bench.SAMPLE)
