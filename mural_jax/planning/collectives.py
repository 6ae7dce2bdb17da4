"""Collectives of a compiled program: how many bytes one device sends for each."""

import dataclasses
import math
import re

from mural_jax.planning.hlo import Computation, Instruction

COLLECTIVE_KINDS = (
    'all-reduce',
    'all-gather',
    'reduce-scatter',
    'all-to-all',
    'collective-permute',
)


@dataclasses.dataclass
class Collective:
    """All collectives of one kind in one step.

    bytes: of their results on one device; for an all-gather and a reduce-scatter, of the whole
        array, which is the larger side.
    sent: bytes that leave one device if the devices form a ring.
    """

    count: int = 0
    bytes: float = 0
    sent: float = 0


def get_collective_kind(instruction: Instruction, computation: str) -> str | None:
    """Returns the kind of collective, or None for any other instruction.

    computation: the name of the computation that holds the instruction.
    """
    # An asynchronous collective is a pair of -start and -done; the first one counts.
    kind = instruction.opcode.removesuffix('-start')
    if kind not in COLLECTIVE_KINDS:
        return None
    # On TPUs, XLA writes a reduce-scatter as a computation with this name, which takes a part of
    # the result of an all-reduce.
    if kind == 'all-reduce' and (
        'reduce-scatter' in computation or 'all-reduce-scatter' in computation
    ):
        return 'reduce-scatter'
    return kind


def add_collective(
    total: Collective, kind: str, instruction: Instruction, lines: Computation, times: int
) -> None:
    """Adds a collective of `lines` that runs `times` times to the total of its kind."""
    operand_bytes = sum(lines[name].size for name in instruction.operands if name in lines)
    size = instruction.size
    if instruction.opcode.endswith('-start'):
        # The result of a -start is a tuple: the operands, the results, and buffers of the device.
        # That of an all-reduce is the results alone, which are as large as the operands.
        arrays, number = instruction.arrays, len(instruction.operands)
        size = (
            operand_bytes
            if kind == 'all-reduce'
            else sum(array.size for array in arrays[number : 2 * number])
        )
    group = count_group(instruction.attributes)
    # Around a ring of n devices, each device passes on all of the array but its own 1/n.
    passed_on = (group - 1) / group if group else 1.0
    whole = max(size, operand_bytes) if kind in ('all-gather', 'reduce-scatter') else size
    # An all-reduce is a reduce-scatter and an all-gather. A permute sends everything once.
    factor = {'all-reduce': 2 * passed_on, 'collective-permute': 1.0}.get(kind, passed_on)
    total.count += times
    total.bytes += times * whole
    total.sent += times * factor * whole


def count_group(attributes: str) -> int:
    """Returns the number of devices that take part together, 0 if the text does not say.

    XLA writes groups as mesh['a'=4,'b'=2] {'a'}, as {{0,1},{2,3}} or as [2,4]<=[8].
    """
    mesh = re.search(r'replica_groups=(?:\w+ )?mesh\[([^\]]*)\][^{]*\{([^}]*)\}', attributes)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        # A part of an axis is written with its own size behind it: 'a':(1)2.
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    lists = re.search(r'replica_groups=\{\{([\d,]*)\}', attributes)
    if lists:
        return len(lists[1].split(','))
    # [2,4]<=[8]: two groups of four.
    counts = re.search(r'replica_groups=\[(\d+),(\d+)\]', attributes)
    return int(counts[2]) if counts else 0
