"""Work of a compiled program on one device: its collectives and its memory traffic.

XLA's own cost analysis counts the body of a loop once, although a scan over layers or over
microbatches spends most of its time there. This module reads the program's text instead, and
multiplies by the trip counts of loops.
"""

import dataclasses
import re
from collections.abc import Iterator

from mural_jax.planning.collectives import Collective, add_collective, get_collective_kind
from mural_jax.planning.hlo import Computation, Instruction, find_root, parse_module
from mural_jax.planning.traffic import count_traffic


@dataclasses.dataclass
class Work:
    """Work of one device in one run of a program.

    collectives: totals by kind.
    traffic: bytes to and from the large memory, if each operation reads its operands and writes
        its results once.
    unknown_loops: number of loops whose trip count the text does not tell. They count once.
    """

    collectives: dict[str, Collective]
    traffic: float
    unknown_loops: int

    @property
    def sent(self) -> float:
        """Bytes that leave the device."""
        return sum(collective.sent for collective in self.collectives.values())


def measure_work(text: str) -> Work:
    """Returns the work of a program, given its HLO text."""
    computations, entry = parse_module(text)
    work = Work({}, 0.0, 0)
    for name, times, fused in _walk_calls(computations, entry, work):
        lines = computations[name]
        for instruction in lines.values():
            kind = get_collective_kind(instruction, name)
            if kind:
                total = work.collectives.setdefault(kind, Collective())
                add_collective(total, kind, instruction, lines, times)
            # Inside of a fusion data stays on the chip; the fusion itself was counted.
            if not fused:
                work.traffic += times * count_traffic(instruction, lines, computations)
    return work


def _walk_calls(
    computations: dict[str, Computation], entry: str, work: Work
) -> Iterator[tuple[str, int, bool]]:
    """Yields (computation, how often it runs, whether it is the inside of one operation).

    Yields a computation once for each place that calls it. Counts `work.unknown_loops`.
    """
    pending = [(entry, 1, False)]
    while pending:
        name, times, fused = pending.pop()
        yield name, times, fused
        for instruction in computations[name].values():
            trips = 1
            if instruction.opcode == 'while':
                trips = _count_trips(instruction, computations)
                work.unknown_loops += not trips
            # Control flow runs operations of its own; the computation that any other opcode calls
            # (a fusion, the addition of a reduction) is a part of that one operation.
            inside = fused or instruction.opcode not in ('while', 'conditional', 'call')
            called = instruction.called_computations()
            pending += [(call, times * (trips or 1), inside) for call in called]


def _count_trips(loop: Instruction, computations: dict[str, Computation]) -> int:
    """Returns how often the body of a loop runs, 0 if the text does not tell."""
    # Most loops carry the count as an attribute.
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.attributes)
    if known:
        return int(known[1])
    condition = re.search(r'condition=%?([\w.-]+)', loop.attributes)
    lines = computations.get(condition[1], {}) if condition else {}
    root = find_root(lines)
    # JAX's loops count from 0 up to a constant, `counter < limit`.
    if root and root.opcode == 'compare' and 'direction=LT' in root.attributes:
        limit = lines.get(root.operands[1])
        if limit and limit.opcode == 'constant' and limit.operands[0].isdigit():
            return int(limit.operands[0])
    return 0
