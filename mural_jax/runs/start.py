"""The training of `mural train`: everything is checked first, then the loop runs."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mural_jax.config.load import Config
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.distributed import processes
from mural_jax.evaluation.evaluators.base import Evaluator
from mural_jax.pretrained.load import load_initial_weights
from mural_jax.runs import preflight, restore
from mural_jax.runs.changes import check_changes
from mural_jax.runs.checks import check_tokenizer
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run
from mural_jax.workdir.checkpoints import count_bytes
from mural_jax.workdir.files import write_atomic
from mural_jax.workdir.reading import check_vocabulary, has_checkpoint

if TYPE_CHECKING:
    from mural_jax.training.loop import Validator


def train(config: Config, workdir: Path, data_dir: Path) -> None:
    """Trains to the end, from the newest checkpoint where there is one.

    All processes of a run must call it; a mistake that one of them finds ends all of them.
    """
    processes.join()
    processes.end_together(lambda: _train(config, workdir, data_dir))


def _train(config: Config, workdir: Path, data_dir: Path) -> None:
    preflight.require_passed(preflight.check_versions() + preflight.check_config(config))
    run = Run.of(config)
    check_changes(workdir, config)
    tokenizer, streams = open_streams(run, workdir, data_dir)
    preflight.require_passed(
        preflight.check_data(streams, tokenizer.hash) + preflight.check_devices(run.mesh)
    )
    graphdef, params, statistics = run.build_model(tokenizer.vocab_size)
    # A run that goes on takes its weights from its checkpoint.
    if not has_checkpoint(workdir):
        params, statistics, lines = load_initial_weights(
            run.initial_weights, params, statistics, run.paired_spaces, tokenizer.hash
        )
        for line in lines:
            processes.say(line)
    programs = run.build_programs(graphdef, params)
    trainer = programs[0].trainer
    validator = _build_validator(run, tokenizer, graphdef, trainer.mesh, workdir, data_dir)
    # The workdir comes last: a mistake so far leaves none behind that belongs to its config.
    size = count_bytes(trainer.abstract_state(params, statistics))
    preflight.require_passed(preflight.check_workdir(workdir, size))
    with preflight.WorkdirLock(workdir):
        if processes.is_first():
            write_atomic(workdir / 'config.json', json.dumps(config, indent=2))
            tokenizer.save(workdir / 'vocabulary.model')
        # Nobody reads the workdir before the first process has made it.
        processes.exchange('the workdir is made', True)
        from mural_jax.training import loop

        context = loop.RunContext(
            workdir,
            tokenizer.hash,
            lambda found: check_vocabulary(found, tokenizer.hash, workdir),
            validator,
        )
        state = trainer.initial_state(params, statistics)
        loop.train(programs, run.schedule, state, streams, context)


def open_streams(run: Run, workdir: Path, data_dir: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """(vocabulary, open streams by name), those that tasks draw from.

    Raises UserError where `mural prepare` has not made them, or they do not fit the model or the
    vocabulary of the workdir.
    """
    from mural_jax.data.fitted.catalog import load_fitted
    from mural_jax.data.reading.stream import open_stream

    tokenizer = Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)
    check_tokenizer(run.model, tokenizer)
    stored = workdir / 'vocabulary.model'
    if stored.exists():
        check_vocabulary(Tokenizer.load(stored, run.tokenizer).hash, tokenizer.hash, workdir)
    streams = {}
    for number, (name, stream) in enumerate(run.streams.items()):
        if name in run.drawn:
            # Streams of one run differ in their order, and so do runs with different seeds.
            seed = run.seed * 1009 + number
            fitted = load_fitted(stream, data_dir)
            streams[name] = open_stream(stream, data_dir, tokenizer, seed, fitted)
    for name, task in run.tasks.items():
        if task.stream in streams:
            opened = streams[task.stream]
            counts = opened.settings.count_classes(opened.pool.records)
            task.check_classes(counts, run, f'tasks.{name}')
    return tokenizer, streams


def find_validators(run: Run, data_dir: Path) -> dict[str, Evaluator]:
    """The evaluators that score during training. Raises UserError where their data is missing."""
    from mural_jax.data.sets.records import Records

    validators = {name: one for name, one in run.evaluators.items() if one.every}
    for evaluator in validators.values():
        Records(evaluator.dataset, evaluator.split, data_dir)
    return validators


def _build_validator(
    run: Run, tokenizer: Tokenizer, graphdef: Any, mesh: Any, workdir: Path, data_dir: Path
) -> 'Validator | None':
    """Scores the model during training; None where no evaluator does."""
    evaluators = find_validators(run, data_dir)
    if not evaluators:
        return None
    from mural_jax.evaluation.embed import ModelEmbedder
    from mural_jax.evaluation.validation import RunValidator

    def open_data(params: Any, statistics: Any) -> Any:
        tokenize = restore.make_tokenize(run, tokenizer)
        embedder = ModelEmbedder(graphdef, params, statistics, tokenize, mesh=mesh)
        return restore.split_data_of(run, embedder, tokenizer, data_dir)

    return RunValidator(evaluators, run.languages, open_data, workdir / 'eval')
