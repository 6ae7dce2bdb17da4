"""Runs the evaluators of a run: `eval/STEP.json`, the search index, the table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from mural_jax.checkpoints import write_atomic
from mural_jax.evaluation.evaluators import Evaluator, Gallery, Results, with_means
from mural_jax.evaluation.retrieval import chance
from mural_jax.evaluation.sources import Sources
from mural_jax.types import UserError

Evaluated = dict[str, Results]


def evaluate(
    evaluators: Mapping[str, Evaluator], groups: Mapping[str, Sequence[str]], sources: Sources,
    path: Path,
) -> tuple[Evaluated, list[Gallery]]:  # fmt: skip
    """Scores every evaluator in every language of the groups and writes the scores to `path`."""
    languages = [language for group in groups.values() for language in group]
    results, protocol, galleries = {}, {}, []
    for name, evaluator in evaluators.items():
        scored = evaluator(sources, languages)
        results[name] = with_means(scored.results, groups)
        protocol[name] = evaluator.protocol() | {
            'items': scored.size, 'chance': chance(scored.size)
        }  # fmt: skip
        galleries += [scored.gallery] if scored.gallery else []
    words = json.dumps({'protocol': protocol, 'results': results}, indent=1, ensure_ascii=False)
    write_atomic(path, words)
    return results, galleries


def read(workdir: Path, step: int) -> dict[str, Any]:
    """What `evaluate` wrote. Raises UserError where it has not run for this step."""
    path = workdir / 'eval' / f'{step}.json'
    if not path.exists():
        raise UserError(f'There are no scores {path}. Run `mural evaluate` for this step first.')
    return json.loads(path.read_text(encoding='utf-8'))


def print_tables(
    results: Evaluated, languages: Mapping[str, Sequence[str]], console: Console
) -> None:
    """Mean recall by language, and what evaluators of other metrics found."""
    recalls = {
        name: scored for name, scored in results.items()
        if any('mean_recall' in row for row in scored.values())
    }  # fmt: skip
    if recalls:
        console.print(_recalls(recalls, languages))
    for name, scored in results.items():
        for language, row in scored.items() if name not in recalls else ():
            table = Table(title=f'{name}, {language}')
            table.add_column('metric')
            table.add_column('value', justify='right')
            for metric, value in row.items():
                table.add_row(metric, f'{value:.4g}')
            console.print(table)


def _recalls(results: Evaluated, languages: Mapping[str, Sequence[str]]) -> Table:
    """A column for each evaluator, a block for each group."""
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
    return table
