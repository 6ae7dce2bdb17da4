"""A trained model at a checkpoint, and data as its run reads it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from mural_jax.config.build import lists_to_tuples
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.distributed.mesh import MeshShape, replicated_sharding
from mural_jax.evaluation.embed import ModelEmbedder
from mural_jax.evaluation.split_data import SplitData
from mural_jax.runs.run import Run
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Checkpoints
from mural_jax.workdir.files import read_config
from mural_jax.workdir.reading import check_vocabulary


class Restored(NamedTuple):
    """A run's model at one step, with the vocabulary of its workdir."""

    run: Run
    step: int
    embedder: ModelEmbedder
    tokenizer: Tokenizer


def restore(workdir: Path, step: int | None = None) -> Restored:
    """The model of a workdir at a checkpoint, the newest for None, on all devices of this process.

    Raises UserError where there is no checkpoint, or it does not fit its config or vocabulary.
    """
    run = Run.of(lists_to_tuples(read_config(workdir)))
    tokenizer = Tokenizer.load(workdir / 'vocabulary.model', run.tokenizer)
    checkpoints = Checkpoints(workdir)
    step = checkpoints.choose(step)
    check_vocabulary(checkpoints.about(step)['vocabulary'], tokenizer.hash, workdir)
    graphdef, params, statistics = run.build_model(tokenizer.vocab_size, abstract=True)
    mesh = MeshShape().build(jax.devices())
    # Whatever devices saved it, each device here holds a copy.
    params, statistics = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated_sharding(mesh)),
        (params, statistics),
    )
    trees = checkpoints.restore(step, params=params, statistics=statistics)
    checkpoints.close()
    arrays = trees['params'], trees['statistics']
    embedder = ModelEmbedder(graphdef, *arrays, make_tokenize(run, tokenizer), mesh=mesh)
    return Restored(run, step, embedder, tokenizer)


def make_tokenize(run: Run, tokenizer: Tokenizer) -> Callable[[list[str]], np.ndarray]:
    """A function from texts to int32 [N, L], cut to the length that the run takes."""
    return lambda texts: tokenizer(texts, run.text_length)


def restored_split_data(restored: Restored, data_dir: Path) -> SplitData:
    """What evaluators read through, for a restored model; they may open other runs beside it."""

    def open_run(workdir: str) -> SplitData:
        return restored_split_data(restore(Path(workdir)), data_dir)

    return split_data_of(restored.run, restored.embedder, restored.tokenizer, data_dir, open_run)


def split_data_of(
    run: Run,
    embedder: Any,
    tokenizer: Tokenizer,
    data_dir: Path,
    open_run: Callable[[str], SplitData] | None = None,
) -> SplitData:
    """What evaluators read through, for any state of a run's model."""

    def refuse(workdir: str) -> SplitData:
        raise UserError(f'Another run, {workdir}, cannot be opened while this one trains.')

    return SplitData(
        embedder,
        data_dir,
        run.image_size,
        run.image_resize,
        tokenizer,
        open_run or refuse,
        run.streams,
        run.regions,
        run.tags,
        {name: space.build_similarity() for name, space in run.spaces.items()},
    )
