"""What a compiled program does on one device, read from its text: collectives, memory traffic.

The text is XLA's HLO, `compiled.as_text()`, of one device; loops count as often as they turn.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator
from typing import Any

import jax

KINDS = ('all-reduce', 'all-gather', 'reduce-scatter', 'all-to-all', 'collective-permute')
# Names for what is already there, and what only begins or ends something else.
FREE = {
    'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'while', 'conditional',
    'call', 'after-all', 'partition-id', 'replica-id', 'copy-done', 'async-start', 'async-done',
    'async-update', 'opt-barrier', 'add-dependency', 'domain', 'bitcast-convert',
} | {f'{kind}-done' for kind in KINDS}  # fmt: skip
BITS = {'pred': 8, 's4': 4, 'u4': 4, 'bf16': 16, 'c64': 64, 'c128': 128, 'token': 0, 'opaque': 0}

_HEAD = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{$')
_LINE = re.compile(r'^\s+(ROOT )?%?([\w.-]+) = ')
_ARRAY = re.compile(r'([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](?:\{([^}]*)\})?')
_CALLED = re.compile(r'(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


@dataclasses.dataclass(frozen=True)
class Array:
    """An array in the text. `near`: in a memory on the chip beside the large one."""

    size: int  # bytes, padded to tiles where it is tiled
    near: bool

    @property
    def far(self) -> int:
        """Bytes in the large memory."""
        return 0 if self.near else self.size


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line: `name = shape opcode(operands), rest`."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str
    root: bool

    @functools.cached_property
    def arrays(self) -> list[Array]:
        return [_array(*found) for found in _ARRAY.findall(self.shape)]

    @property
    def size(self) -> int:
        """Bytes of all results."""
        return sum(array.size for array in self.arrays)

    @property
    def far(self) -> int:
        """Bytes of results in the large memory."""
        return sum(array.far for array in self.arrays)


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Need:
    """What a compiler said a program would take that it refused. bytes: on one device, 0 where it
    did not say. temporaries: without arguments and results."""

    bytes: float
    temporaries: bool


def compile_or_need(lowered: Any) -> tuple[Any, Any]:
    """(program, None), or (None, `Need`) where it does not fit the device's memory."""
    try:
        return lowered.compile(), None
    except jax.errors.JaxRuntimeError as error:
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        return None, need_of(str(error))


def need_of(message: str) -> Need:
    """What a message of the compiler asks for: '(46.00G) exceeds', 'Used 20.57G of 15.48G hbm'."""
    found = re.search(r'\(([\d.]+)([KMGT]?)\) exceeds|Used ([\d.]+)([KMGT]?) of', message)
    if not found:
        return Need(0.0, False)
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    power = ('', 'K', 'M', 'G', 'T').index(unit)
    return Need(float(number) * 2 ** (10 * power), 'temporaries' in message)


@dataclasses.dataclass
class Collective:
    """All collectives of one kind in one step. bytes: of what they make, on one device. sent:
    bytes that leave one device, around a ring."""

    count: int = 0
    bytes: float = 0
    sent: float = 0


@dataclasses.dataclass
class Work:
    """What one device does in one run of a program.

    traffic: bytes to and from the large memory, if each operation reads its operands and writes
    its results once. unknown_loops: so many loops did not say how often they turn, and count once.
    """

    collectives: dict[str, Collective]
    traffic: float
    unknown_loops: int

    @property
    def sent(self) -> float:
        return sum(collective.sent for collective in self.collectives.values())


def work_of(text: str) -> Work:
    """What the program does whose text this is."""
    computations, entry = parse(text)
    work = Work({}, 0.0, 0)
    for name, times, fused in _runs(computations, entry, work):
        for instruction in computations[name].values():
            kind = _kind(instruction)
            if kind:
                # TPUs write a reduce-scatter as an all-reduce of which a part is taken.
                scatter = 'reduce-scatter' in name or 'all-reduce-scatter' in name
                kind = 'reduce-scatter' if scatter and kind == 'all-reduce' else kind
                _add(work.collectives.setdefault(kind, Collective()), kind, instruction,
                     computations[name], times)  # fmt: skip
            if not fused:
                work.traffic += times * _traffic(instruction, computations[name], computations)
    return work


def parse(text: str) -> tuple[dict[str, Computation], str]:
    """(computations by name, the name of the first one to run)."""
    computations: dict[str, Computation] = {}
    entry, lines = '', dict[str, Instruction]()
    for line in text.splitlines():
        if line.startswith((' ', '\t')):
            instruction = _instruction(line)
            if instruction:
                lines[instruction.name] = instruction
        elif found := _HEAD.match(line):
            lines = computations[found[2]] = {}
            entry = found[2] if found[1] else entry
    return computations, entry


def _instruction(line: str) -> Instruction | None:
    found = _LINE.match(line)
    if not found:
        return None
    rest = re.sub(r'/\*index=\d+\*/', '', line[found.end() :])
    end = _close(rest) if rest.startswith('(') else rest.find(' ')
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition('(')
    end = _close('(' + rest) - 1
    operands = tuple(re.findall(r'%([\w.-]+)', rest[: end - 1]))
    if opcode in ('constant', 'parameter'):
        operands = (rest[: end - 1],)
    return Instruction(found[2], shape, opcode, operands, rest[end:], bool(found[1]))


def _close(text: str) -> int:
    """Just behind the bracket that closes the one that `text` begins with."""
    depth = 0
    for found in re.finditer(r'[()]', text):
        depth += 1 if found[0] == '(' else -1
        if not depth:
            return found.end()
    return len(text)


def _array(dtype: str, dims: str, layout: str) -> Array:
    digits = re.search(r'\d+', dtype)
    bits = BITS.get(dtype) if dtype in BITS else int(digits[0]) if digits else 0
    sizes = [int(size.strip('<=')) for size in dims.split(',') if size]
    order, _, memory = layout.partition(':')
    tile = re.search(r'T\(([\d,]+)\)', memory)
    if tile and sizes:
        minor = [int(dim) for dim in order.split(',')]
        for dim, unit in zip(minor, reversed([int(unit) for unit in tile[1].split(',')])):
            sizes[dim] = -(-sizes[dim] // unit) * unit
    near = re.search(r'S\((\d+)\)', memory)
    return Array(math.prod(sizes) * (bits or 0) // 8, bool(near and near[1] != '0'))


def _runs(
    computations: dict[str, Computation], entry: str, work: Work
) -> Iterator[tuple[str, int, bool]]:
    """(computation, how often it runs, whether inside of one operation)."""
    waiting = [(entry, 1, False)]
    while waiting:
        name, times, fused = waiting.pop()
        yield name, times, fused
        for instruction in computations[name].values():
            called = _CALLED.findall(instruction.rest)
            called += re.findall(r'%?([\w.-]+)', ' '.join(_BRANCHES.findall(instruction.rest)))
            turns = 1
            if instruction.opcode == 'while':
                turns = _turns(instruction, computations)
                work.unknown_loops += not turns
            inside = fused or instruction.opcode not in ('while', 'conditional', 'call')
            waiting += [(call, times * (turns or 1), inside) for call in called]


def _turns(loop: Instruction, computations: dict[str, Computation]) -> int:
    """How often a loop turns, 0 where nothing says so."""
    known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.rest)
    if known:
        return int(known[1])
    condition = re.search(r'condition=%?([\w.-]+)', loop.rest)
    lines = computations.get(condition[1], {}) if condition else {}
    root = next((line for line in lines.values() if line.root), None)
    # The loops of JAX count from 0 up to a constant.
    if root and root.opcode == 'compare' and 'direction=LT' in root.rest:
        limit = lines.get(root.operands[1])
        if limit and limit.opcode == 'constant' and limit.operands[0].isdigit():
            return int(limit.operands[0])
    return 0


def _kind(instruction: Instruction) -> str | None:
    opcode = instruction.opcode.removesuffix('-start')
    return opcode if opcode in KINDS else None


def _add(
    total: Collective, kind: str, instruction: Instruction, lines: Computation, times: int
) -> None:
    operands = sum(lines[name].size for name in instruction.operands if name in lines)
    size = instruction.size
    if instruction.opcode.endswith('-start'):
        # Their results are (operands, results, and what the device needs for itself).
        arrays, number = instruction.arrays, len(instruction.operands)
        size = (
            operands if kind == 'all-reduce' else sum(a.size for a in arrays[number : 2 * number])
        )
    group = group_size(instruction.rest)
    away = (group - 1) / group if group else 1.0
    whole = max(size, operands) if kind in ('all-gather', 'reduce-scatter') else size
    factor = {'all-reduce': 2 * away, 'collective-permute': 1.0}.get(kind, away)
    total.count += times
    total.bytes += times * whole
    total.sent += times * factor * whole


def group_size(text: str) -> int:
    """Devices that take part together, 0 where the text does not say.

    Groups are written as mesh['a'=4,'b'=2] {'a'}, as {{0,1},{2,3}} or as [2,4]<=[8].
    """
    mesh = re.search(r'replica_groups=(?:\w+ )?mesh\[([^\]]*)\][^{]*\{([^}]*)\}', text)
    if mesh:
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", mesh[1]))
        axes = re.findall(r"'(\w+)'(?::\(\d+\)(\d+))?", mesh[2])
        return math.prod(int(part or sizes[axis]) for axis, part in axes)
    listed = re.search(r'replica_groups=\{\{([\d,]*)\}', text)
    if listed:
        return len(listed[1].split(','))
    counted = re.search(r'replica_groups=\[(\d+),(\d+)\]', text)
    return int(counted[2]) if counted else 0


def _traffic(
    instruction: Instruction, lines: Computation, computations: dict[str, Computation]
) -> float:
    """Bytes that one operation moves to and from the large memory."""
    opcode = instruction.opcode
    if opcode in FREE:
        return 0
    operands = [lines[name] for name in instruction.operands if name in lines]
    if opcode in ('dynamic-slice', 'slice', 'gather'):
        return instruction.far + (instruction.size if operands and operands[0].far else 0)
    if opcode == 'dynamic-update-slice':
        return 2 * operands[1].size if instruction.far else operands[1].far
    if opcode == 'copy-start':
        return instruction.arrays[0].far + operands[0].far
    if opcode.endswith('-start'):
        return 2 * sum(operand.far for operand in operands)
    called = re.search(r'calls=%?([\w.-]+)', instruction.rest)
    if opcode == 'fusion' and called and called[1] in computations:
        return _fused(instruction, operands, computations[called[1]])
    return instruction.far + sum(operand.far for operand in operands)


def _fused(instruction: Instruction, operands: list[Instruction], inside: Computation) -> float:
    """Of a fusion: of an operand that is only sliced its slices count, of a result that is an
    operand with a part replaced that part."""
    users: dict[str, list[Instruction]] = {}
    for line in inside.values():
        for name in line.operands:
            users.setdefault(name, []).append(line)
    total = 0
    for line in inside.values():
        if line.opcode != 'parameter':
            continue
        number = int(line.operands[0])
        if number < len(operands) and operands[number].far:
            total += min(_read(line, users, inside), operands[number].far)
    root = next((line for line in inside.values() if line.root), None)
    written = [root] if root else []
    if root and root.opcode == 'tuple':
        written = [inside[name] for name in root.operands if name in inside]
    for array, line in zip(instruction.arrays, written):
        line = _origin(line, inside)
        replaced = line.opcode == 'dynamic-update-slice' and line.operands[1] in inside
        total += min(array.far, inside[line.operands[1]].size) if replaced else array.far
    return total


def _read(line: Instruction, users: dict[str, list[Instruction]], inside: Computation) -> int:
    """Bytes of an operand that a fusion looks at."""
    total = 0
    for user in users.get(line.name, []):
        first = user.operands[0] == line.name
        if user.opcode in ('bitcast', 'reshape', 'copy'):
            total += _read(user, users, inside)
        elif user.opcode in ('dynamic-slice', 'slice', 'gather') and first:
            total += user.size
        elif not (user.opcode == 'dynamic-update-slice' and first):
            return line.size
    return total


def _origin(line: Instruction, inside: Computation) -> Instruction:
    while line.opcode in ('bitcast', 'reshape', 'copy') and line.operands[0] in inside:
        line = inside[line.operands[0]]
    return line
