"""What evaluators found, as tables in the terminal."""

from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from mural_jax.evaluation.scores import Evaluated

HEADLINES = ('mean_recall', 'accuracy', 'top1', 'f1', 'spearman', 'match_auc')  # first found counts
MANY = 40  # languages of which a table shows each


def headline(row: Mapping[str, float]) -> str:
    """The metric that stands for a row."""
    return next((name for name in HEADLINES if name in row), next(iter(row), ''))


def print_tables(results: Evaluated, groups: Mapping[str, Sequence[str]], console: Console) -> None:
    """By language the metric that stands for each evaluator; all metrics of what has one row."""
    by_language = {name: scored for name, scored in results.items() if set(scored) - {'all'}}
    if by_language:
        console.print(_languages(by_language, groups))
    for name, scored in results.items():
        if name in by_language:
            continue
        table = Table(title=name)
        table.add_column('metric')
        table.add_column('value', justify='right')
        for metric, value in scored['all'].items():
            table.add_row(metric, f'{value:.4g}')
        console.print(table)


def _languages(results: Evaluated, groups: Mapping[str, Sequence[str]]) -> Table:
    """A column for each evaluator, a block for each group, then what is in no group."""
    table = Table()
    table.add_column('language')
    metrics = {}
    for name, scored in results.items():
        metrics[name] = headline(next(iter(scored.values()), {}))
        # On several lines, so that three evaluators fit into 80 columns.
        words = name.replace('text_', 'text\n', 1) + f'\n{metrics[name].replace("_", " ")}'
        table.add_column(words, justify='right')

    def add(language: str, style: str = '') -> None:
        cells = [scored.get(language, {}).get(metrics[name]) for name, scored in results.items()]
        words = ['' if cell is None else f'{cell:.1f}' for cell in cells]
        if any(words):
            table.add_row(language, *words, style=style)

    listed = {language for group in groups.values() for language in group}
    rest = sorted({language for scored in results.values() for language in scored} - listed)
    rest = [language for language in rest if not language.startswith('mean_')]
    more = {'all': rest} if 'all' not in groups else {}
    for group, members in {**groups, **more}.items():
        for language in members if len(members) <= MANY else ():
            add(language)
        add(f'mean_{group}', style='bold')
        table.add_section()
    return table
