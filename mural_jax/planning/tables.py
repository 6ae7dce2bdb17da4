"""A plan and a bench as tables for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from mural_jax.planning.chips import GIB
from mural_jax.planning.plan import Plan

ABOUT = {
    'activations': 'kept for the backward pass (estimate)',
    'loss': 'of the loss and its gradient (compiled alone)',
    'rest': 'batch statistics, counters',
    'batch': 'of all streams',
    'gradient': 'of what learns',
}


def gib(size: float) -> str:
    """Bytes in words, such as '15.75 GiB'."""
    return f'{size / GIB:.2f} GiB' if size >= GIB / 10 else f'{size / 2**20:.2f} MiB'


def memory(plan: Plan) -> Table:
    """What one device holds."""
    table = _table('memory of one device', 'what', 'bytes', '')
    for name, size in vars(plan.parts).items():
        table.add_row(name, gib(size), ABOUT.get(name, ''))
    table.add_section()
    if plan.memory:
        said = plan.memory
        for name in ('arguments', 'outputs', 'aliased', 'temporaries', 'code'):
            table.add_row(f'compiler: {name}', gib(getattr(said, name)))
        if said.peak:
            table.add_row('compiler: peak', gib(said.peak))
    needed = gib(plan.needed) if plan.needed else 'more than there is'
    table.add_row('needed', needed, 'refused by the compiler' if not plan.memory else '',
                  style='bold')  # fmt: skip
    table.add_row('there is', gib(plan.capacity) if plan.capacity else 'unknown', style='bold')
    return table


def communication(plan: Plan) -> Table:
    """Collectives of one device in a step."""
    table = _table('collectives of one device, a step', 'kind', 'count', 'bytes', 'sent')
    for kind, total in sorted(plan.collectives.items()):
        table.add_row(kind, f'{total.count:,}', gib(total.bytes), gib(total.sent))
    return table


def speed(plan: Plan) -> Table:
    """What each thing allows, if it ran at its published peak."""
    table = _table('at most, at published peaks', 'bound by', 'step', 'pairs a second')
    for name, seconds in plan.bounds.items():
        style = 'bold' if name == plan.bound else ''
        table.add_row(name, f'{1e3 * seconds:.3f} ms', f'{plan.pairs / seconds:,.0f}', style=style)
    return table


def sentences(plan: Plan) -> Iterable[str]:
    """What no table says."""
    mesh = ', '.join(f'{axis}={size}' for axis, size in plan.mesh.items())
    yield f'{plan.devices} x {plan.device_kind}, mesh {mesh}, microbatches={plan.microbatches}'
    for name, negatives in plan.negatives.items():
        yield f'{name}: global batch {negatives + 1:,}, {negatives:,} negatives per anchor'
    again = plan.flops / plan.model_flops - 1 if plan.model_flops else 0.0
    yield (
        f'{plan.flops / plan.devices / 1e12:.3f} TFLOPs a step and device, '
        f"{plan.flops / plan.pairs / 1e9:.3f} GFLOPs a pair; {100 * again:.0f}% of the model's "
        'operations are computed again'
    )
    if plan.memory:
        yield f'{gib(plan.traffic)} to and from the memory of a device in a step (estimate)'
    if plan.unknown_loops:
        yield f'{plan.unknown_loops} loops do not say how often they turn; they count once'
    yield f'traced in {plan.seconds["trace"]:.1f} s, compiled in {plan.seconds["compile"]:.1f} s'
    if plan.bound:
        yield (
            f'{plan.bound} binds: at most {plan.pairs_per_second:,.0f} pairs a second, '
            f'{1e3 * plan.bounds[plan.bound]:.3f} ms a step'
        )
    elif plan.memory:
        yield 'nobody publishes peaks of this kind of device, so no speed is said'


def numbers(title: str, rows: Mapping[str, Any]) -> Table:
    """Names and what was measured."""
    table = _table(title, 'what', 'measured')
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _table(title: str, *names: str) -> Table:
    table = Table(title=title, title_justify='left')
    for number, name in enumerate(names):
        table.add_column(name, justify='left' if number == 0 or not name else 'right')
    return table
