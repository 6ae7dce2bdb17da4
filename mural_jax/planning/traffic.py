"""Traffic of a compiled program between the chip and its large memory (HBM).

The model is a machine without a cache: an operation reads its operands from the large memory and
writes its results there, once each. A fusion is one operation, and what happens inside of it stays
on the chip. Reads and writes of slices count the slices alone.
"""

import re

from mural_jax.planning.collectives import COLLECTIVE_KINDS
from mural_jax.planning.hlo import Computation, Instruction, find_root

# Opcodes that move nothing: names for data that is there already, and the begin or end of another
# operation. Of `while`, `conditional` and `call`, the computations they run count instead.
FREE_OPCODES = {
    'add-dependency',
    'after-all',
    'async-done',
    'async-start',
    'async-update',
    'bitcast',
    'bitcast-convert',
    'call',
    'conditional',
    'constant',
    'copy-done',
    'domain',
    'get-tuple-element',
    'opt-barrier',
    'parameter',
    'partition-id',
    'replica-id',
    'tuple',
    'while',
} | {f'{kind}-done' for kind in COLLECTIVE_KINDS}


def count_traffic(
    instruction: Instruction, lines: Computation, computations: dict[str, Computation]
) -> float:
    """Returns the bytes that one operation of `lines` moves to and from the large memory."""
    opcode = instruction.opcode
    if opcode in FREE_OPCODES:
        return 0
    operands = [lines[name] for name in instruction.operands if name in lines]
    if opcode in ('dynamic-slice', 'slice', 'gather'):
        # Reads as much of its first operand as it returns.
        reads_hbm = operands and operands[0].hbm_bytes
        return instruction.hbm_bytes + (instruction.size if reads_hbm else 0)
    if opcode == 'dynamic-update-slice':
        # Updates in place: reads the new part and writes it, the rest of the array stays.
        update = operands[1]
        return 2 * update.size if instruction.hbm_bytes else update.hbm_bytes
    if opcode == 'copy-start':
        # The result is a tuple of the destination, the source and a context.
        return instruction.arrays[0].hbm_bytes + operands[0].hbm_bytes
    if opcode.endswith('-start'):
        # An asynchronous collective counts as one read and one write of its operands.
        return 2 * sum(operand.hbm_bytes for operand in operands)
    called = re.search(r'calls=%?([\w.-]+)', instruction.attributes)
    if opcode == 'fusion' and called and called[1] in computations:
        return _count_fusion_traffic(instruction, operands, computations[called[1]])
    return instruction.hbm_bytes + sum(operand.hbm_bytes for operand in operands)


def _count_fusion_traffic(
    fusion: Instruction, operands: list[Instruction], body: Computation
) -> float:
    """Returns the bytes that a fusion moves.

    A scan fuses the slicing of its stacked inputs and the update of its stacked outputs into the
    operations of one turn. If the whole stack counted each turn, a loop over layers would seem to
    move the parameters of all layers once per layer.
    """
    users: dict[str, list[Instruction]] = {}
    for line in body.values():
        for name in line.operands:
            users.setdefault(name, []).append(line)
    total = 0
    for line in body.values():
        if line.opcode != 'parameter':
            continue
        number = int(line.operands[0])
        if number < len(operands) and operands[number].hbm_bytes:
            total += min(_count_read(line, users, body), operands[number].hbm_bytes)
    # The results: those of the root, or of each element of a root that is a tuple.
    root = find_root(body)
    results = [root] if root else []
    if root and root.opcode == 'tuple':
        results = [body[name] for name in root.operands if name in body]
    for array, line in zip(fusion.arrays, results):
        line = _skip_views(line, body)
        in_place = line.opcode == 'dynamic-update-slice' and line.operands[1] in body
        # An update in place writes the new part alone.
        total += min(array.hbm_bytes, body[line.operands[1]].size) if in_place else array.hbm_bytes
    return total


def _count_read(line: Instruction, users: dict[str, list[Instruction]], body: Computation) -> int:
    """Returns the bytes of an operand that a fusion reads.

    line: the parameter of the fusion's body, or a view of it.
    """
    total = 0
    for user in users.get(line.name, []):
        is_source = user.operands[0] == line.name
        if user.opcode in ('bitcast', 'reshape', 'copy'):
            total += _count_read(user, users, body)
        elif user.opcode in ('dynamic-slice', 'slice', 'gather') and is_source:
            total += user.size
        elif not (user.opcode == 'dynamic-update-slice' and is_source):
            # Any other use reads everything. The array that an update replaces a part of is not
            # read at all.
            return line.size
    return total


def _skip_views(line: Instruction, body: Computation) -> Instruction:
    """Returns the instruction that computes a value, behind bitcasts, reshapes and copies."""
    while line.opcode in ('bitcast', 'reshape', 'copy') and line.operands[0] in body:
        line = body[line.operands[0]]
    return line
