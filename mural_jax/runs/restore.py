"""A trained model at a checkpoint, and the data as its run reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mural_jax.config.build import plain
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.distributed.mesh import MeshShape, whole
from mural_jax.evaluation.embed import Embedder
from mural_jax.evaluation.split_data import Sources
from mural_jax.runs.run import Run
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Checkpoints, check_vocabulary
from mural_jax.workdir.files import read_config


class Restored(NamedTuple):
    """A run's model at one step; the tokenizer is that of its workdir."""

    run: Run
    step: int
    embedder: Embedder
    tokenizer: Tokenizer


def restore(workdir: Path, step: int | None = None) -> Restored:
    """The model of a workdir at a checkpoint, the newest for None, on all devices of this host.

    Raises UserError where there is none, or it does not fit its config or vocabulary.
    """
    run = Run.of(plain(read_config(workdir)))
    tokenizer = Tokenizer.load(workdir / 'vocabulary.model', run.tokenizer)
    checkpoints = Checkpoints(workdir)
    step = checkpoints.choose(step)
    check_vocabulary(checkpoints.about(step)['vocabulary'], tokenizer.hash, workdir)
    graphdef, params, statistics = run.build_model(tokenizer.vocab_size, abstract=True)
    mesh = MeshShape().build(jax.devices())
    # Whatever devices it was saved from, all of these hold a copy.
    params, statistics = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole(mesh)), (params, statistics)
    )
    trees = checkpoints.restore(step, params=params, statistics=statistics)
    checkpoints.close()
    arrays = trees['params'], trees['statistics']
    embedder = Embedder(graphdef, *arrays, tokenize_of(run, tokenizer), mesh=mesh)
    return Restored(run, step, embedder, tokenizer)


def tokenize_of(run: Run, tokenizer: Tokenizer) -> Callable[[list[str]], np.ndarray]:
    """Texts -> int32 [N, L], as long as the run takes them."""
    return lambda texts: tokenizer(texts, run.text_length)


def sources(found: Restored, data_dir: Path) -> Sources:
    """What evaluators ask for."""

    def other(folder: str) -> Sources:
        return sources(restore(Path(folder)), data_dir)

    return sources_of(found.run, found.embedder, found.tokenizer, data_dir, other)


def sources_of(
    run: Run, embedder: Any, tokenizer: Tokenizer, data_dir: Path,
    other: Callable[[str], Sources] | None = None,
) -> Sources:  # fmt: skip
    """The same of a model that is not at a checkpoint."""

    def none(folder: str) -> Sources:
        raise UserError(f'Another run, {folder}, cannot be opened while this one trains.')

    return Sources(
        embedder, data_dir, run.image_size, run.image_resize, tokenizer, other or none,
        run.build_streams(), run.regions, run.tags,
    )  # fmt: skip
