"""The model card of an export: what the model is, how to use it, and its measured quality."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mural_jax import __version__
from mural_jax.evaluation.evaluators.base import MEAN
from mural_jax.exports.parity import Agreement
from mural_jax.exports.trained import TrainedModel
from mural_jax.inference.arrays import flatten

INTENDED_USE = """\
The model finds images by text and texts by image, in the languages below, and classifies images by
the names of classes. Embeddings repeat what is in the data, including its mistakes and its
prejudices. Do not use the model to recognise or to judge people, nor where a wrong answer does
harm, without measuring it there first. The model does not know a language that it was not trained
on, even though it returns an embedding for it. Whoever publishes the model has to check the
licences of its data: this card does not know them."""


def render_card(
    source: TrainedModel,
    kind: str,
    dtype: str,
    agreements: Sequence[Agreement],
    name: str,
    usage: str,
) -> str:
    """Returns the card as Markdown.

    kind: the format of the export.
    dtype: how the weights are stored.
    agreements: results of the check.
    name: the name of the folder, which becomes the title.
    usage: how to use the folder, as Markdown.
    """
    description = source.description
    size = sum(np.size(x) for x in flatten(source.params).values())
    parts = [
        _render_front_matter(source, kind),
        f'# {name}',
        f'{size:,} parameters in {dtype}, exported as {kind} by mural_jax {__version__} from step '
        f'{source.step:,} of a run. Images of {description.image_size} pixels, texts of at most '
        f'{description.text_length} tokens out of {description.vocab_size:,}. '
        f'Spaces: {", ".join(f"`{space}`" for space in description.spaces)}.',
        f'## Use\n\n{usage}',
        f'## Intended use and limits\n\n{INTENDED_USE}',
        _render_data(source.config),
        _render_scores(source),
        _render_checks(agreements),
    ]
    return '\n\n'.join(part for part in parts if part) + '\n'


def _render_front_matter(source: TrainedModel, kind: str) -> str:
    """Returns the YAML header that model hubs read."""
    # Hubs know these two by name, and show how to load the model with them.
    library = kind if kind in ('transformers', 'open_clip') else 'mural_jax'
    lines = [
        '---',
        f'library_name: {library}',
        'pipeline_tag: zero-shot-image-classification',
        'tags: [image-text-retrieval, dual-encoder, multilingual]',
        'language:',
    ]
    languages = [f'- "{language}"' for language in list_languages(source.config)]
    return '\n'.join([*lines, *languages, '---'])


def list_languages(config: Mapping[str, Any]) -> list[str]:
    """Returns the languages of the training streams, sorted."""
    languages: set[str] = set()
    for stream in config['streams'].values():
        languages.update(stream['languages'], stream.get('pivots', ()))
    return sorted(languages)


def _render_data(config: Mapping[str, Any]) -> str:
    lines = [
        '## Data',
        '',
        '| stream | data sets | languages | batch |',
        '| --- | --- | --- | ---: |',
    ]
    for name, stream in config['streams'].items():
        sets = ', '.join(
            f'{part["dataset"]}:{part.get("split", "train")}' for part in stream['sources'].values()
        )
        languages = [*stream['languages'], *stream.get('pivots', ())]
        lines.append(f'| {name} | {sets} | {", ".join(languages)} | {stream["batch_size"]} |')
    return '\n'.join(lines)


def _render_scores(source: TrainedModel) -> str:
    """Returns the mean scores over groups of languages, and the protocol of each evaluator."""
    results, protocols = source.scores.get('results', {}), source.scores.get('protocol', {})
    if not results:
        return ''
    lines = ['## Scores', '', '| evaluator | languages | metric | |', '| --- | --- | --- | ---: |']
    for name, rows in results.items():
        # Evaluators without groups of languages have no means: all of their rows are shown.
        means = {group: row for group, row in rows.items() if group.startswith(MEAN)} or rows
        first_metric = next(iter(next(iter(means.values()))), '')
        metric = protocols.get(name, {}).get('headline', first_metric)
        lines += [
            f'| {name} | {group.removeprefix(MEAN)} | {metric.replace("_", " ")} '
            f'| {row[metric]:.4g} |'
            for group, row in means.items()
            if metric in row
        ]
    for name, protocol in protocols.items():
        # Lists and tables of a protocol would be too long for the card.
        facts = '; '.join(
            f'{key}: {value}' for key, value in protocol.items() if isinstance(value, str | int)
        )
        lines += ['', f'**{name}.** {facts}.']
    return '\n'.join(lines)


def _render_checks(agreements: Sequence[Agreement]) -> str:
    lines = [
        '## Checked',
        '',
        'This folder was loaded by its own runtime, which encoded examples of the data. These are '
        "the cosines with the trainer's embeddings:",
        '',
        '| tower | examples | lowest | mean | allowed |',
        '| --- | ---: | ---: | ---: | ---: |',
    ]
    lines += [
        f'| {row.tower} | {row.examples} | {row.lowest:.6f} | {row.mean:.6f} | {row.allowed} |'
        for row in agreements
    ]
    return '\n'.join(lines)
