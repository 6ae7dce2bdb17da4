"""Preparing data: data sets, filters, fitted artefacts, the vocabulary."""

import dataclasses
import hashlib
import json
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mural_jax.config.load import Config
from mural_jax.data import tokenizer
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.runs.run import Run
from mural_jax.types import UserError
from mural_jax.workdir.files import create_folder


def prepare(config: Config, data_dir: Path, sources: dict[str, str]) -> None:
    """Prepares the data sets of all streams and evaluators, filters, artefacts and the vocabulary.

    sources: Paths of the sources of data sets that this package builds itself, by name.
    """
    run = Run.of(config)
    create_folder(data_dir, '--data_dir')
    # Only here: whoever asks for the path of a vocabulary needs no TensorFlow.
    from mural_jax.data.fitted.catalog import ensure_fitted
    from mural_jax.data.ingest import ingest
    from mural_jax.data.reading.pool import Pool
    from mural_jax.data.reading.selection import ensure_filters

    streams = run.streams
    drawn = {s.dataset for stream in streams.values() for s in stream.sources.values()}
    evaluated = {evaluator.dataset for evaluator in run.evaluators.values()}
    for dataset in sorted(drawn | evaluated):
        ingest.prepare_set(dataset, data_dir, sources)
        print(f'{dataset} is ready in {data_dir}')
    for name, stream in streams.items():
        for source, about in ensure_filters(stream, data_dir).items():
            print(f'{name}: filters of {source} keep {describe_counts(about["counts"])}')
    for name, stream in streams.items():
        for line in stream.prepare_data(partial(Pool, stream, data_dir)):
            print(f'{name}: {line}')
        for artefact, path in ensure_fitted(stream, data_dir).items():
            print(f'{name}: the {artefact} of its data is {path}')
    # Last, because a vocabulary is trained on the texts that pass the filters.
    path = vocabulary_path(data_dir, run)
    if run.tokenizer.kind != 'sentencepiece' and not run.tokenizer.path:
        raise UserError(
            f'config.tokenizer.kind={run.tokenizer.kind!r} is a published vocabulary: give its '
            'file with --config.tokenizer.path=FILE.'
        )
    # The file's name depends on everything the vocabulary depends on, so it is never stale.
    if path.exists() and not run.tokenizer.path:
        print(f'the vocabulary is {path}')
        return
    from mural_jax.data.fitted import vocabulary

    settings = run.tokenizer
    pools = [Pool(stream, data_dir) for stream in streams.values()]
    texts = vocabulary.sample_texts(pools, settings.sample, settings.sample_alpha)
    made = _make_vocabulary(run, {text for held in texts.values() for text in held})
    made.save(path)
    Console().print(_tabulate_cuts(vocabulary.measure_cuts(made, texts)))
    print(f'the vocabulary is {path}')


def describe_counts(counts: dict[str, int]) -> str:
    """Says in words what filters kept and dropped."""
    kept = f'{counts["records kept"]} of {counts["records"]} records, {counts["texts kept"]} of '
    kept += f'{counts["texts"]} texts'
    dropped = [
        f'{count} by {reason}' for reason, count in counts.items() if ': ' in reason and count
    ]
    bad = [f'{counts["bad records"]} bad records'] if counts['bad records'] else []
    return kept + (f'; left out: {", ".join(dropped + bad)}' if dropped or bad else '')


def _make_vocabulary(run: Run, texts: set[str]) -> Tokenizer:
    """The published vocabulary of a run, or one trained on the texts."""
    if run.tokenizer.path:
        made = Tokenizer.load(Path(run.tokenizer.path).expanduser(), run.tokenizer)
        if made.vocab_size > run.tokenizer.vocab_size:
            raise UserError(
                f'{run.tokenizer.path} has {made.vocab_size} ids, more than '
                f'config.tokenizer.vocab_size={run.tokenizer.vocab_size}. Set it to that number.'
            )
        return made
    made = tokenizer.train_vocabulary(sorted(texts), run.tokenizer)
    print(f'{made.vocab_size} pieces from {len(texts)} texts')
    return made


def _tabulate_cuts(cuts: dict[str, Any]) -> Table:
    """Tokens per word and the share of unknown ones, by language."""
    table = Table(title='how the vocabulary cuts words')
    for name in ('language', 'texts', 'tokens per word', 'unknown'):
        table.add_column(name, justify='left' if name == 'language' else 'right')
    for language, cut in sorted(cuts.items()):
        share = f'{100 * cut.unknown_share:.2f}%'
        table.add_row(language, f'{cut.texts:,}', f'{cut.tokens_per_word:.2f}', share)
    return table


def vocabulary_path(data_dir: Path, run: Run) -> Path:
    """Where `mural prepare` stores the vocabulary of these streams and settings."""
    drawn = {
        name: {
            'languages': sorted({*stream.all_languages}),
            'sources': sorted(
                [source.dataset, source.split, dataclasses.asdict(source.filters)]
                for source in stream.sources.values()
            ),
            'kinds': sorted(stream.text.kinds),
        }
        for name, stream in run.streams.items()
    }
    words = json.dumps([drawn, dataclasses.asdict(run.tokenizer)], sort_keys=True)
    name = hashlib.sha256(words.encode()).hexdigest()[:16]
    return data_dir / 'vocabularies' / f'{name}.model'
