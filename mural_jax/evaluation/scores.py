"""Runs the evaluators of a run: `eval/STEP.json`, the search index, the table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.table import Table

from mural_jax.checkpoints import write_atomic
from mural_jax.evaluation.embed import Embedder
from mural_jax.evaluation.evaluators import ImageText, Items, Results, TextText, with_means
from mural_jax.evaluation.retrieval import chance
from mural_jax.types import UserError

Evaluated = dict[str, Results]


class Gallery(NamedTuple):
    """Pictures that an evaluator embedded on the way, float32 [N, D], in the space of a task."""

    items: Items
    image_ND: np.ndarray
    split: str
    task: str


def evaluate(
    evaluators: Mapping[str, ImageText | TextText], groups: Mapping[str, Sequence[str]],
    embedder: Embedder, image_size: int, resize: int, data_dir: Path, path: Path,
) -> tuple[Evaluated, list[Gallery]]:  # fmt: skip
    """Scores every evaluator in every language of the groups and writes the scores to `path`."""
    languages = [language for group in groups.values() for language in group]
    results, protocol, galleries = {}, {}, []
    for name, evaluator in evaluators.items():
        items = read_items(evaluator, data_dir, image_size, resize)
        scored, image_ND = evaluator(items, embedder, languages)
        results[name] = with_means(scored, groups)
        size = len(items.ids)
        protocol[name] = evaluator.protocol() | {'items': size, 'chance': chance(size)}
        if image_ND is not None:
            galleries.append(Gallery(items, image_ND, evaluator.split, evaluator.task))
    words = json.dumps({'protocol': protocol, 'results': results}, indent=1, ensure_ascii=False)
    write_atomic(path, words)
    return results, galleries


def read_items(
    evaluator: ImageText | TextText, data_dir: Path, image_size: int, resize: int
) -> Items:
    """All examples of the evaluator's split, the middle of each picture. Imports TensorFlow."""
    import tensorflow as tf

    from mural_jax.data import images
    from mural_jax.data.records import Records

    records = Records(evaluator.dataset, evaluator.split, data_dir)
    examples = list(records.examples(image=evaluator.has_image))
    names = [
        {language: texts[evaluator.text][0] for language, texts in example['texts'].items()
         if evaluator.text in texts}
        for example in examples
    ]  # fmt: skip
    pngs = [example['image'] for example in examples] if evaluator.has_image else []
    image_NHWC = np.zeros(0)
    if pngs:
        # As a graph, several pictures are decoded at a time.
        decoded_NHWC = tf.function(images.decode)(tf.constant(pngs), resize)
        image_NHWC = images.crop_middle(decoded_NHWC, image_size).numpy()
    return Items([example['id'] for example in examples], names, image_NHWC, pngs)


def read(workdir: Path, step: int) -> dict[str, Any]:
    """What `evaluate` wrote. Raises UserError where it has not run for this step."""
    path = workdir / 'eval' / f'{step}.json'
    if not path.exists():
        raise UserError(f'There are no scores {path}. Run `mural evaluate` for this step first.')
    return json.loads(path.read_text(encoding='utf-8'))


def print_table(
    results: Evaluated, languages: Mapping[str, Sequence[str]], console: Console
) -> None:
    """Mean recall by language, a column for each evaluator, a block for each group."""
    table = Table(title='mean recall, percent')
    table.add_column('language')
    for name in results:
        # On two lines, so that three evaluators fit into 80 columns.
        table.add_column(name.replace('/', '\n'), justify='right')

    def add(language: str, style: str = '') -> None:
        cells = [scored.get(language, {}).get('mean_recall') for scored in results.values()]
        words = ['' if cell is None else f'{cell:.1f}' for cell in cells]
        table.add_row(language, *words, style=style)

    for group, members in languages.items():
        for language in members:
            add(language)
        add(f'mean_{group}', style='bold')
        table.add_section()
    console.print(table)
