"""Plans and measurements as tables for the terminal."""

from collections.abc import Iterable, Mapping
from typing import Any

from rich.table import Table

from mural_jax.planning.chips import GIB
from mural_jax.planning.plan import Plan

# Keyed by the field of `MemoryParts`.
ROW_NOTES = {
    'activations': 'kept for the backward pass (estimate)',
    'loss': 'loss and its gradient (compiled alone)',
    'rest': 'batch statistics, counters',
    'batch': 'all streams',
    'gradient': 'of all parameters that learn',
}


def format_bytes(size: float) -> str:
    """Returns a number of bytes with its unit, such as '15.75 GiB'."""
    return f'{size / GIB:.2f} GiB' if size >= GIB / 10 else f'{size / 2**20:.2f} MiB'


def build_memory_table(plan: Plan) -> Table:
    """Returns the memory of one device, by use and as the compiler reports it."""
    table = _new_table('memory of one device', 'what', 'bytes', '')
    for name, size in vars(plan.parts).items():
        table.add_row(name, format_bytes(size), ROW_NOTES.get(name, ''))
    table.add_section()
    if plan.memory:
        memory = plan.memory
        for name in ('arguments', 'outputs', 'aliased', 'temporaries', 'code'):
            table.add_row(f'compiler: {name}', format_bytes(getattr(memory, name)))
        if memory.peak:
            table.add_row('compiler: peak', format_bytes(memory.peak))
    needed = format_bytes(plan.needed) if plan.needed else 'more than available'
    note = '' if plan.memory else 'refused by the compiler'
    table.add_row('needed', needed, note, style='bold')
    available = format_bytes(plan.capacity) if plan.capacity else 'unknown'
    table.add_row('available', available, style='bold')
    return table


def build_collectives_table(plan: Plan) -> Table:
    """Returns the collectives of one device in a step."""
    table = _new_table('collectives of one device per step', 'kind', 'count', 'bytes', 'sent')
    for kind, total in sorted(plan.collectives.items()):
        table.add_row(kind, f'{total.count:,}', format_bytes(total.bytes), format_bytes(total.sent))
    return table


def build_bounds_table(plan: Plan) -> Table:
    """Returns the fastest step that each resource allows at its published peak."""
    table = _new_table('upper limits at published peaks', 'resource', 'step', 'pairs per second')
    for name, seconds in plan.bounds.items():
        style = 'bold' if name == plan.bound else ''
        table.add_row(name, f'{1e3 * seconds:.3f} ms', f'{plan.pairs / seconds:,.0f}', style=style)
    return table


def describe_plan(plan: Plan) -> Iterable[str]:
    """Yields sentences about a plan, for what the tables leave out."""
    mesh = ', '.join(f'{axis}={size}' for axis, size in plan.mesh.items())
    yield f'{plan.devices} x {plan.device_kind}, mesh {mesh}, microbatches={plan.microbatches}'
    for name, negatives in plan.negatives.items():
        yield f'{name}: global batch {negatives + 1:,}, {negatives:,} negatives per anchor'
    recomputed = plan.flops / plan.model_flops - 1 if plan.model_flops else 0.0
    yield (
        f'{plan.flops / plan.devices / 1e12:.3f} TFLOPs per step and device, '
        f'{plan.flops / plan.pairs / 1e9:.3f} GFLOPs per pair; recomputation adds '
        f"{100 * recomputed:.0f}% to the model's operations"
    )
    if plan.memory:
        yield (
            f'{format_bytes(plan.traffic)} to and from the memory of a device per step (estimate)'
        )
    if plan.unknown_loops:
        yield f'{plan.unknown_loops} loops have an unknown trip count and count as one turn'
    yield f'traced in {plan.seconds["trace"]:.1f} s, compiled in {plan.seconds["compile"]:.1f} s'
    if plan.bound:
        yield (
            f'{plan.bound} is the bottleneck: at most {plan.pairs_per_second:,.0f} pairs per '
            f'second, at least {1e3 * plan.bounds[plan.bound]:.3f} ms per step'
        )
    elif plan.memory:
        yield 'no peaks are published for this kind of device, so the plan gives no limit of speed'


def build_measurement_table(title: str, rows: Mapping[str, Any]) -> Table:
    """Returns a table of measurements: name and value."""
    table = _new_table(title, 'what', 'measured')
    for name, value in rows.items():
        table.add_row(name, str(value))
    return table


def _new_table(title: str, *names: str) -> Table:
    """Returns an empty table. Numbers are aligned right: the columns between first and unnamed."""
    table = Table(title=title, title_justify='left')
    for number, name in enumerate(names):
        table.add_column(name, justify='left' if number == 0 or not name else 'right')
    return table
