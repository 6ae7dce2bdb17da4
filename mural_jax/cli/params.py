"""mural params: parameters and operations of a config."""

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

from mural_jax.config.load import Config
from mural_jax.models import cost
from mural_jax.runs.run import Run


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
