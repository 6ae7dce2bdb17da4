"""Batches in tests: opened streams, and batches put together and compared."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mural_jax.config.load import load_config
from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.data.fitted.catalog import load_fitted
from mural_jax.data.reading.stream import OpenStream, open_stream
from mural_jax.data.streams.base import Stream, StreamSource
from mural_jax.data.streams.hidden import HiddenCaptions
from mural_jax.data.streams.regions import RegionPairs
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run
from mural_jax.types import Batch


def load_tokenizer(data_dir: Path, config: str) -> Tokenizer:
    """The prepared vocabulary of a config."""
    run = Run.of(load_config(config, []))
    return Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)


def open_with_fitted(
    stream: Stream, data_dir: Path, tokenizer: Tokenizer, seed: int = 0
) -> OpenStream:
    """A stream, opened with its own fitted artefacts."""
    return open_stream(stream, data_dir, tokenizer, seed, load_fitted(stream, data_dir))


def scene_stream(kind: type[RegionPairs] = HiddenCaptions, **fields: Any) -> RegionPairs:
    """A stream of the composed scenes; `fields` replace its settings."""
    fields = {'max_length': 20, 'regions': RegionSettings(most=4, side=8)} | fields
    source = StreamSource('captions/scenes')
    return kind({'main': source}, ('en',), batch_size=64, image_size=96, **fields)


def open_scenes(
    scenes_dir: Path, kind: type[RegionPairs] = HiddenCaptions, **fields: Any
) -> tuple[OpenStream, Tokenizer]:
    """(the opened stream of the composed scenes, the tokenizer of its texts)."""
    tokenizer = load_tokenizer(scenes_dir, 'unicoder_vl:tiny')
    return open_with_fitted(scene_stream(kind, **fields), scenes_dir, tokenizer), tokenizer


def join_batches(batches: Sequence[Batch]) -> dict[str, np.ndarray]:
    """Batches, or the slices of one batch, as one."""
    return {key: np.concatenate([batch[key] for batch in batches]) for key in batches[0]}


def assert_batches_equal(left: Batch, right: Batch) -> None:
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)
