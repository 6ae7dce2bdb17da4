"""What each verb of the command line does, in order."""

import json
from pathlib import Path
from typing import Any

from mural_jax.config.load import Config
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.distributed import processes
from mural_jax.evaluation.evaluators.base import Evaluator
from mural_jax.pretrained.load import load
from mural_jax.runs import preflight, restore
from mural_jax.runs.changes import check_changes
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run
from mural_jax.tasks.predict import Prediction
from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import bytes_of, check_vocabulary, has_checkpoint
from mural_jax.workdir.files import write_atomic


def train(config: Config, workdir: Path, data_dir: Path) -> None:
    """Trains to the end, from the newest checkpoint where there is one.

    Of several processes, all have to call it; a mistake that one finds ends all of them.
    """
    processes.join()
    processes.end_together(lambda: _train(config, workdir, data_dir))


def _train(config: Config, workdir: Path, data_dir: Path) -> None:
    preflight.require(preflight.same_programs() + preflight.same_config(config))
    run = Run.of(config)
    check_changes(workdir, config)
    tokenizer, streams = _open(run, workdir, data_dir)
    preflight.require(preflight.same_data(streams, tokenizer.hash) + preflight.same_devices())
    graphdef, params, statistics = run.build_model(tokenizer.vocab_size)
    if not has_checkpoint(workdir):
        params, statistics, lines = load(
            run.init_from, params, statistics, run.paired_tasks, tokenizer.hash
        )
        for line in lines:
            processes.say(line)
    trainer = run.build_trainer(graphdef, params)
    validation = _validation(run, tokenizer, graphdef, trainer.mesh, workdir, data_dir)
    # Last, so that a mistake so far leaves no workdir that belongs to its config.
    size = bytes_of(trainer.abstract(params, statistics))
    preflight.require(preflight.one_folder(workdir, size))
    with preflight.Lock(workdir):
        if processes.is_first():
            write_atomic(workdir / 'config.json', json.dumps(config, indent=2))
            tokenizer.save(workdir / 'vocabulary.model')
        processes.exchange('the workdir is made', True)
        from mural_jax.training import loop

        place = loop.Place(
            workdir, tokenizer.hash,
            lambda found: check_vocabulary(found, tokenizer.hash, workdir), validation,
        )  # fmt: skip
        loop.train(trainer, run.schedule, trainer.place(params, statistics), streams, place)


def _validation(
    run: Run, tokenizer: Tokenizer, graphdef: Any, mesh: Any, workdir: Path, data_dir: Path
) -> Any:
    """What is scored while the run trains, or None. Raises UserError where data is missing."""
    timed = _timed(run, data_dir)
    if not timed:
        return None
    from mural_jax.evaluation.embed import Embedder
    from mural_jax.evaluation.validation import Validation

    def opened(params: Any, statistics: Any) -> Any:
        tokenize = restore.tokenize_of(run, tokenizer)
        embedder = Embedder(graphdef, params, statistics, tokenize, mesh=mesh)
        return restore.sources_of(run, embedder, tokenizer, data_dir)

    return Validation(timed, run.languages, opened, workdir / 'eval')


def _timed(run: Run, data_dir: Path) -> dict[str, Evaluator]:
    """The evaluators that score on the way. Raises UserError where one's data is missing."""
    from mural_jax.data.sets.records import Records

    timed = {name: one for name, one in run.build_evaluators().items() if one.every}
    for evaluator in timed.values():
        Records(evaluator.dataset, evaluator.split, data_dir)
    return timed


def _open(run: Run, workdir: Path, data_dir: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """(vocabulary, streams) of a run."""
    tokenizer = Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)
    run.check_tokenizer(tokenizer)
    kept = workdir / 'vocabulary.model'
    if kept.exists():
        check_vocabulary(Tokenizer.load(kept, run.tokenizer).hash, tokenizer.hash, workdir)
    streams = {
        # Streams differ in their order, runs of another seed too.
        name: stream.open(data_dir, tokenizer, seed=run.seed * 1009 + number)
        for number, (name, stream) in enumerate(run.build_streams().items())
        if name in run.drawn
    }
    _check_classes(run, streams)
    return tokenizer, streams


def _check_classes(run: Run, streams: dict[str, Any]) -> None:
    """Raises UserError where regions have classes that the model does not know."""
    for task in run.build_tasks().values():
        if not isinstance(task, Prediction) or task.predict != 'regions':
            continue
        stream, known = streams[task.stream], run.model['num_classes']
        if stream.spec.regions.codebook:  # Has as many as the model, see `Run`.
            continue
        found = max(records.regions['num_classes'] for records in stream.pool.records)
        if found > known:
            raise UserError(
                f'The regions of the stream {task.stream} have classes up to {found - 1}, and '
                f'config.model.num_classes={known} is for those below {known}. Set it to {found} '
                'or more.'
            )
