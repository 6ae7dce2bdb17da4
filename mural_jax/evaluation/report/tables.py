"""Scores as tables in the terminal."""

from collections.abc import Iterable

from rich.console import Console
from rich.table import Table

from mural_jax.evaluation.evaluators.base import MEAN, Results
from mural_jax.evaluation.scores import ALL, CheckpointScores, Groups

MANY = 40  # Larger groups show their mean alone.


def print_tables(
    scores: CheckpointScores, evaluators: Iterable[str], groups: Groups, console: Console
) -> None:
    """Prints the scores of some evaluators.

    Evaluators with languages share one table of headline metrics; an evaluator without languages
    has its own table of all its metrics.
    """
    by_language: list[str] = []
    alone: list[str] = []
    for name in evaluators:
        # An evaluator that knows no languages has a single row.
        has_languages = set(scores.results[name]) - {ALL}
        (by_language if has_languages else alone).append(name)
    if by_language:
        console.print(_language_table(scores, by_language, groups))
    for name in alone:
        table = Table(title=name)
        table.add_column('metric')
        table.add_column('value', justify='right')
        for metric, value in scores.results[name][ALL].items():
            table.add_row(metric, f'{value:.4g}')
        console.print(table)


def _language_table(scores: CheckpointScores, names: list[str], groups: Groups) -> Table:
    """Returns a column for each evaluator, a block for each group, then other languages."""
    table = Table()
    table.add_column('language')
    metrics = {name: scores.headline(name) for name in names}
    results: dict[str, Results] = {name: scores.results[name] for name in names}
    for name, metric in metrics.items():
        # On several lines, so that three evaluators fit into 80 columns.
        title = name.replace('text_', 'text\n', 1) + f'\n{metric.replace("_", " ")}'
        table.add_column(title, justify='right')

    def add_row(language: str, style: str = '') -> None:
        values = [own.get(language, {}).get(metrics[name]) for name, own in results.items()]
        cells = ['' if value is None else f'{value:.1f}' for value in values]
        if any(cells):
            table.add_row(language, *cells, style=style)

    grouped = {language for group in groups.values() for language in group}
    rest = sorted({language for own in results.values() for language in own} - grouped)
    rest = [language for language in rest if not language.startswith(MEAN)]
    more = {ALL: rest} if ALL not in groups else {}
    for group, members in {**groups, **more}.items():
        # A page of 200 rows hides the means.
        for language in members if len(members) <= MANY else ():
            add_row(language)
        add_row(f'{MEAN}{group}', style='bold')
        table.add_section()
    return table
