"""What each verb of the command line does, in order."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from mural_jax import hosts, preflight, restored
from mural_jax.checkpoints import (
    bytes_of,
    check_vocabulary,
    create_folder,
    has_checkpoint,
    read_config,
    write_atomic,
)
from mural_jax.config import differences, plain
from mural_jax.data import tokenizer
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.evaluation.evaluators import Evaluator
from mural_jax.models import cost
from mural_jax.pretrained.load import load
from mural_jax.run import Run, vocabulary_path
from mural_jax.tasks import Prediction
from mural_jax.types import UserError

Config = dict[str, Any]
# What may change in a run: the order of its streams goes on from where it is.
MIXTURE = re.compile(r'streams\.\w+\.(alpha|cap|sources\.\w+\.weight): ')
# And how the same is computed, kept, scored and told: on other devices, in other parts.
MEANS = re.compile(
    r'(mesh|safety|schedule\.best)\.\w+: |(sharding|microbatches|safety|mesh|schedule\.best): |'
    r'tasks\.\w+\.objective\.(by|tile): |model\.towers\.\w+\.(layers\.)?(remat|unroll): |'
    r'model\.attention: |optimizer\.offload: |'
    r'schedule\.(log_every|checkpoint_every|checkpoint_minutes|keep): |'
    r'evaluators\.[^:]+: |languages\.\w+: '
)


def prepare(config: Config, data_dir: Path, sources: dict[str, str]) -> None:
    """Builds the data of all streams and evaluators, filters it, trains the vocabulary."""
    run = Run.of(config)
    create_folder(data_dir, '--data_dir')
    from mural_jax.data import ingest

    streams = run.build_streams()
    drawn = {s.dataset for stream in streams.values() for s in stream.sources.values()}
    evaluated = {evaluator.dataset for evaluator in run.build_evaluators().values()}
    for dataset in sorted(drawn | evaluated):
        ingest.prepare(dataset, data_dir, sources)
        print(f'{dataset} is ready in {data_dir}')
    for name, stream in streams.items():
        for source, about in stream.filter(data_dir).items():
            print(f'{name}: of {source} the filters keep {counted(about["counts"])}')
    for name, stream in streams.items():
        for line in stream.complete(data_dir):
            print(f'{name}: {line}')
    path = vocabulary_path(data_dir, run)
    if run.tokenizer.kind != 'sentencepiece' and not run.tokenizer.path:
        raise UserError(
            f'config.tokenizer.kind={run.tokenizer.kind!r} is a published vocabulary: give its '
            'file with --config.tokenizer.path=FILE.'
        )
    if path.exists() and not run.tokenizer.path:
        print(f'the vocabulary is {path}')
        return
    from mural_jax.data import vocabulary

    settings = run.tokenizer
    pools = [stream.pool(data_dir) for stream in streams.values()]
    texts = vocabulary.sample(pools, settings.sample, settings.sample_alpha)
    made = _vocabulary(run, {text for held in texts.values() for text in held})
    made.save(path)
    Console().print(_cuts(vocabulary.report(made, texts)))
    print(f'the vocabulary is {path}')


def counted(counts: dict[str, int]) -> str:
    """What filters did, in words."""
    kept = f'{counts["records kept"]} of {counts["records"]} records, {counts["texts kept"]} of '
    kept += f'{counts["texts"]} texts'
    dropped = [
        f'{count} by {reason}' for reason, count in counts.items() if ': ' in reason and count
    ]
    bad = [f'{counts["bad records"]} bad records'] if counts['bad records'] else []
    return kept + (f'; left out: {", ".join(dropped + bad)}' if dropped or bad else '')


def _vocabulary(run: Run, texts: set[str]) -> Tokenizer:
    """The published vocabulary of a run, or one that is trained on texts."""
    if run.tokenizer.path:
        made = Tokenizer.load(Path(run.tokenizer.path).expanduser(), run.tokenizer)
        if made.vocab_size > run.tokenizer.vocab_size:
            raise UserError(
                f'{run.tokenizer.path} has {made.vocab_size} ids, more than '
                f'config.tokenizer.vocab_size={run.tokenizer.vocab_size}. Set it to that number.'
            )
        return made
    made = tokenizer.train(sorted(texts), run.tokenizer)
    print(f'{made.vocab_size} pieces from {len(texts)} texts')
    return made


def _cuts(cuts: dict[str, Any]) -> Table:
    """Tokens per word and the share of unknown ones, by language."""
    table = Table(title='how the vocabulary cuts words')
    for name in ('language', 'texts', 'tokens per word', 'unknown'):
        table.add_column(name, justify='left' if name == 'language' else 'right')
    for language, cut in sorted(cuts.items()):
        share = f'{100 * cut.unknown_share:.2f}%'
        table.add_row(language, f'{cut.texts:,}', f'{cut.tokens_per_word:.2f}', share)
    return table


def train(config: Config, workdir: Path, data_dir: Path) -> None:
    """Trains to the end, from the newest checkpoint where there is one.

    Of several processes, all have to call it; a mistake that one finds ends all of them.
    """
    hosts.join()
    hosts.end_together(lambda: _train(config, workdir, data_dir))


def _train(config: Config, workdir: Path, data_dir: Path) -> None:
    preflight.require(preflight.same_programs() + preflight.same_config(config))
    run = Run.of(config)
    _check_config(workdir, config)
    tokenizer, streams = _open(run, workdir, data_dir)
    preflight.require(preflight.same_data(streams, tokenizer.hash) + preflight.same_devices())
    graphdef, params, statistics = run.build_model(tokenizer.vocab_size)
    if not has_checkpoint(workdir):
        params, statistics, lines = load(
            run.init_from, params, statistics, run.paired_tasks, tokenizer.hash
        )
        for line in lines:
            hosts.say(line)
    trainer = run.build_trainer(graphdef, params)
    validation = _validation(run, tokenizer, graphdef, trainer.mesh, workdir, data_dir)
    # Last, so that a mistake so far leaves no workdir that belongs to its config.
    size = bytes_of(trainer.abstract(params, statistics))
    preflight.require(preflight.one_folder(workdir, size))
    with preflight.Lock(workdir):
        if hosts.is_first():
            write_atomic(workdir / 'config.json', json.dumps(config, indent=2))
            tokenizer.save(workdir / 'vocabulary.model')
        hosts.exchange('the workdir is made', True)
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
        tokenize = restored.tokenize_of(run, tokenizer)
        embedder = Embedder(graphdef, params, statistics, tokenize, mesh=mesh)
        return restored.sources_of(run, embedder, tokenizer, data_dir)

    return Validation(timed, run.languages, opened, workdir / 'eval')


def _timed(run: Run, data_dir: Path) -> dict[str, Evaluator]:
    """The evaluators that score on the way. Raises UserError where one's data is missing."""
    from mural_jax.data.records import Records

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


def doctor(config: Config, workdir: Path, data_dir: Path) -> None:
    """Prints what `train` checks before it starts. Raises UserError where something failed."""
    hosts.join()
    hosts.end_together(lambda: _doctor(config, workdir, data_dir))


def _doctor(config: Config, workdir: Path, data_dir: Path) -> None:
    existed = workdir.exists()

    def data() -> list[preflight.Finding]:
        run = Run.of(config)
        tokenizer, streams = _open(run, workdir, data_dir)
        _timed(run, data_dir)
        return preflight.same_data(streams, tokenizer.hash)

    def folder() -> list[preflight.Finding]:
        run = Run.of(config)
        graphdef, params, statistics = run.build_model(run.tokenizer.vocab_size, abstract=True)
        trainer = run.build_trainer(graphdef, params)
        _check_config(workdir, config)
        found = preflight.one_folder(workdir, bytes_of(trainer.abstract(params, statistics)))
        with preflight.Lock(workdir):
            return found

    findings = preflight.collect({
        'versions': preflight.same_programs, 'config': lambda: preflight.same_config(config),
        'devices': preflight.same_devices, 'data': data, 'workdir': folder,
    })  # fmt: skip
    if hosts.is_first():
        if not existed and workdir.exists():
            shutil.rmtree(workdir)
        Console().print(_findings(findings))
    failed = [finding.check for finding in findings if finding.fatal]
    if failed:
        raise UserError(
            f'Not ready: {", ".join(dict.fromkeys(failed))}. The table says what to do.'
        )


def _findings(findings: list[preflight.Finding]) -> Table:
    table = Table(title='before a run starts')
    for name in ('check', 'result', 'found', 'what to do'):
        table.add_column(name)
    for finding in findings:
        result = 'failed' if finding.fatal else 'warning' if finding.advice else 'ok'
        table.add_row(finding.check, result, finding.said.strip(), finding.advice)
    return table


def params(config: Config) -> None:
    """Prints parameters and forward FLOPs by tower and part; makes no array."""
    run = Run.of(config)
    model = run.build_model(run.tokenizer.vocab_size, abstract=True)
    shapes = {
        'image': jax.ShapeDtypeStruct((1, run.image_size, run.image_size, 3), np.uint8),
        'text': jax.ShapeDtypeStruct((1, run.text_length), np.int32),
    }
    table = Table(title='parameters, and operations of one forward pass')
    for name in ('', 'part', 'parameters', 'GFLOPs'):
        table.add_column(name, justify='left' if name in ('', 'part') else 'right')
    counts = cost.parameters(model[1])
    for group in sorted(counts, key=lambda group: group not in shapes):
        parts = counts[group]
        flops = cost.forward_flops(model, group, shapes[group]) if group in shapes else {}
        for part in sorted(parts):
            work = f'{flops[part] / 1e9:.3f}' if part in flops else ''
            table.add_row(group, part, f'{parts[part]:,}', work)
        work = f'{sum(flops.values()) / 1e9:.3f}' if flops else ''
        table.add_row(group, 'all', f'{sum(parts.values()):,}', work, style='bold')
        table.add_section()
    total = sum(sum(parts.values()) for parts in counts.values())
    table.add_row('all', '', f'{total:,}', '', style='bold')
    Console().print(table)
    print(
        f'GFLOPs: of a picture of {run.image_size} pixels and a text of {run.text_length} tokens; '
        'products and convolutions, a multiplication with its addition counts two.'
    )


def _check_config(workdir: Path, config: Config) -> None:
    """Raises UserError where the workdir belongs to another config; writes nothing.

    How often sources and languages are drawn may change, and how it is computed; that is said.
    """
    if not (workdir / 'config.json').exists():
        return
    lines = differences(plain(read_config(workdir)), config)
    mixed = [line for line in lines if MIXTURE.match(line)]
    if lines and all(MIXTURE.match(line) or MEANS.match(line) for line in lines):
        what = 'another mixture' if mixed else 'the same in another way'
        hosts.say(f'{what} from the newest checkpoint on (there != here):')
        hosts.say('  ' + '\n  '.join(lines))
    elif lines:
        raise UserError(
            f'{workdir} belongs to a run of another config. It differs in (there != here):\n  '
            + '\n  '.join(lines)
            + '\nGive another --workdir, or the config of that run. Nothing was changed.'
        )
