"""mural params: counts the parameters and operations of a config."""

import argparse
from typing import TYPE_CHECKING, Any

from mural_jax.cli import flags

if TYPE_CHECKING:
    from rich.table import Table

    from mural_jax.runs.run import Run


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    text = 'Count the parameters and operations of a config.'
    flags.add_config(flags.add_verb(verbs, 'params', run, text))


def run(arguments: argparse.Namespace) -> None:
    """Prints parameters and forward FLOPs by tower and part, without allocating any array."""
    from rich.console import Console

    from mural_jax.runs.run import Run

    config_run = Run.of(flags.load_config(arguments))
    Console().print(_build_table(config_run))
    pixels = config_run.image_size
    print(
        f'GFLOPs are for one image of {pixels} x {pixels} pixels or one text of '
        f'{config_run.text_length} tokens. They count matrix products and convolutions; a '
        'multiplication with its addition counts as two operations.'
    )


def _build_table(config_run: 'Run') -> 'Table':
    """One row for each part of a tower, and totals of each tower and of the model."""
    import jax
    import numpy as np
    from rich.table import Table

    from mural_jax.models import cost

    model: Any = config_run.build_model(config_run.tokenizer.vocab_size, abstract=True)
    inputs = {
        'image': jax.ShapeDtypeStruct(
            (1, config_run.image_size, config_run.image_size, 3), np.uint8
        ),
        'text': jax.ShapeDtypeStruct((1, config_run.text_length), np.int32),
    }
    table = Table(title='parameters, and operations of one forward pass')
    for name in ('', 'part', 'parameters', 'GFLOPs'):
        table.add_column(name, justify='left' if name in ('', 'part') else 'right')
    counts = cost.count_parameters(model[1])
    # Towers first: only these have a forward pass that is counted.
    for group in sorted(counts, key=lambda group: group not in inputs):
        parts = counts[group]
        flops = cost.count_forward_flops(model, group, inputs[group]) if group in inputs else {}
        for part in sorted(parts):
            work = f'{flops[part] / 1e9:.3f}' if part in flops else ''
            table.add_row(group, part, f'{parts[part]:,}', work)
        work = f'{sum(flops.values()) / 1e9:.3f}' if flops else ''
        table.add_row(group, 'all', f'{sum(parts.values()):,}', work, style='bold')
        table.add_section()
    total = sum(sum(parts.values()) for parts in counts.values())
    table.add_row('all', '', f'{total:,}', '', style='bold')
    return table
