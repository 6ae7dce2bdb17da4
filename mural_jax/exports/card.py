"""The model card of an export: what it is, how it is used, what it was measured to do."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mural_jax import __version__
from mural_jax.evaluation.evaluators.base import MEAN
from mural_jax.evaluation.report.tables import headline
from mural_jax.exports.parity import Agreement
from mural_jax.exports.trained import Subject
from mural_jax.inference import model

LIMITS = """\
Finds pictures by words and words by pictures, in the languages below, and classifies pictures by
the names of classes. Embeddings repeat what the data has, its mistakes and its prejudices too. Do
not use it to recognise or to judge people, nor where a wrong answer does harm, without measuring it
there first. A language that was not trained on is not known, even where something comes out.
Whoever publishes the model has to know the licences of its data: this card does not know them."""


def write(
    subject: Subject, kind: str, dtype: str, found: Sequence[Agreement], name: str, use: str
) -> str:
    """The card as Markdown; `use` says how the folder is used."""
    about = subject.about
    size = sum(np.size(x) for x in model.flat(subject.params).values())
    parts = [
        _head(subject, kind), f'# {name}',
        f'{size:,} parameters in {dtype}, exported as {kind} by mural_jax {__version__} from step '
        f'{subject.step:,} of a run. Pictures of {about.image_size} pixels, texts of at most '
        f'{about.text_length} tokens out of {about.vocab_size:,}. '
        f'Spaces: {", ".join(f"`{space}`" for space in about.spaces)}.',
        f'## Use\n\n{use}', f'## Intended use and limits\n\n{LIMITS}', _data(subject.config),
        _scores(subject), _checked(subject, found, dtype),
    ]  # fmt: skip
    return '\n\n'.join(part for part in parts if part) + '\n'


def _head(subject: Subject, kind: str) -> str:
    """What model hubs read: YAML."""
    library = kind if kind in ('transformers', 'open_clip') else 'mural_jax'
    lines = ['---', f'library_name: {library}', 'pipeline_tag: zero-shot-image-classification',
             'tags: [image-text-retrieval, dual-encoder, multilingual]', 'language:']  # fmt: skip
    return '\n'.join([*lines, *(f'- "{x}"' for x in languages(subject.config)), '---'])


def languages(config: Mapping[str, Any]) -> list[str]:
    """Those of the streams that were trained on, in order."""
    found: dict[str, None] = {}
    for stream in config['streams'].values():
        found |= dict.fromkeys([*stream['languages'], *stream.get('pivots', ())])
    return sorted(found)


def _data(config: Mapping[str, Any]) -> str:
    lines = [
        '## Data',
        '',
        '| stream | data sets | languages | batch |',
        '| --- | --- | --- | ---: |',
    ]
    for name, stream in config['streams'].items():
        sets = ', '.join(
            f'{one["dataset"]}:{one.get("split", "train")}' for one in stream['sources'].values()
        )
        own = [*stream['languages'], *stream.get('pivots', ())]
        lines.append(f'| {name} | {sets} | {", ".join(own)} | {stream["batch_size"]} |')
    return '\n'.join(lines)


def _scores(subject: Subject) -> str:
    """Means over groups of languages, and the protocol beside each."""
    results, protocols = subject.scores.get('results', {}), subject.scores.get('protocol', {})
    if not results:
        return ''
    lines = ['## Scores', '', '| evaluator | languages | metric | |', '| --- | --- | --- | ---: |']
    for name, rows in results.items():
        means = {x: row for x, row in rows.items() if x.startswith(MEAN)} or rows
        metric = headline(next(iter(means.values())))
        lines += [
            f'| {name} | {x.removeprefix(MEAN)} | {metric.replace("_", " ")} | {row[metric]:.4g} |'
            for x, row in means.items() if metric in row
        ]  # fmt: skip
    for name, protocol in protocols.items():
        words = '; '.join(
            f'{key}: {value}' for key, value in protocol.items() if isinstance(value, str | int)
        )
        lines += ['', f'**{name}.** {words}.']
    return '\n'.join(lines)


def _checked(subject: Subject, found: Sequence[Agreement], dtype: str) -> str:
    lines = [
        '## Checked', '',
        'This folder was read again, and encoded examples of the data. Cosines with the embeddings '
        'of the trainer:', '',
        '| tower | examples | lowest | mean | allowed |', '| --- | ---: | ---: | ---: | ---: |',
    ]  # fmt: skip
    lines += [
        f'| {one.tower} | {one.examples} | {one.lowest:.6f} | {one.mean:.6f} | {one.allowed} |'
        for one in found
    ]
    return '\n'.join(lines)
