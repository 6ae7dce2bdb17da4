"""XLA's text form of a compiled program (HLO, from `compiled.as_text()`), parsed.

A module is a list of computations, of which one is the entry. A computation is a list of
instructions, each of the form `%name = shape opcode(operands), attributes`:

    ENTRY %main.7 (x: f32[16,4]) -> f32[16,4] {
      %x = f32[16,4]{1,0} parameter(0)
      ROOT %all-reduce = f32[16,4]{1,0} all-reduce(%x), replica_groups={{0,1}}, to_apply=%add
    }

The text describes what one device does. XLA documents no grammar for it, so the parser takes only
the parts that the rest of this package needs, and skips the lines it does not recognise.
"""

import dataclasses
import functools
import math
import re

# Bits of dtypes whose name does not end in their number of bits.
DTYPE_BITS = {
    'pred': 8,
    's4': 4,
    'u4': 4,
    'bf16': 16,
    'c64': 64,
    'c128': 128,
    'token': 0,
    'opaque': 0,
}

_COMPUTATION = re.compile(r'^(ENTRY )?%?([\w.-]+) .*\{$')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%?([\w.-]+) = ')
# dtype, dimensions and layout, such as bf16[128,<=512]{1,0:T(8,128)S(1)}.
_ARRAY = re.compile(r'([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](?:\{([^}]*)\})?')
_CALLED = re.compile(r'(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.-]+)')
_BRANCHES = re.compile(r'branch_computations=\{([^}]*)\}')


@dataclasses.dataclass(frozen=True)
class HloArray:
    """One array of a shape.

    size: bytes, with the padding of a tiled layout.
    on_chip: whether the array lives in the small memory on the chip (VMEM of a TPU) instead of
        the large one (HBM).
    """

    size: int
    on_chip: bool

    @property
    def hbm_bytes(self) -> int:
        """Bytes in the large memory."""
        return 0 if self.on_chip else self.size


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation.

    operands: names of other instructions. For a parameter it is its number, for a constant its
        value, as text.
    attributes: the text behind the operands.
    root: whether its result is the result of the computation.
    """

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str
    root: bool

    @functools.cached_property
    def arrays(self) -> list[HloArray]:
        """The results: several if the shape is a tuple."""
        return [_parse_array(*groups) for groups in _ARRAY.findall(self.shape)]

    @property
    def size(self) -> int:
        """Bytes of all results."""
        return sum(array.size for array in self.arrays)

    @property
    def hbm_bytes(self) -> int:
        """Bytes of the results that live in the large memory."""
        return sum(array.hbm_bytes for array in self.arrays)

    def called_computations(self) -> list[str]:
        """Returns the names of the computations that this instruction runs.

        The condition of a loop is not among them: it costs next to nothing.
        """
        branches = ' '.join(_BRANCHES.findall(self.attributes))
        return _CALLED.findall(self.attributes) + re.findall(r'%?([\w.-]+)', branches)


Computation = dict[str, Instruction]


def parse_module(text: str) -> tuple[dict[str, Computation], str]:
    """Returns (the computations by name, the name of the entry computation)."""
    computations: dict[str, Computation] = {}
    entry, current = '', dict[str, Instruction]()
    for line in text.splitlines():
        # Instructions are indented, the heads of computations are not.
        if line.startswith((' ', '\t')):
            instruction = _parse_instruction(line)
            if instruction:
                current[instruction.name] = instruction
        elif head := _COMPUTATION.match(line):
            current = computations[head[2]] = {}
            entry = head[2] if head[1] else entry
    return computations, entry


def find_root(computation: Computation) -> Instruction | None:
    """Returns the instruction whose result is the result of the computation."""
    return next((line for line in computation.values() if line.root), None)


def _parse_instruction(line: str) -> Instruction | None:
    head = _INSTRUCTION.match(line)
    if not head:
        return None
    # Long tuples carry comments such as /*index=5*/, which would break the patterns below.
    rest = re.sub(r'/\*index=\d+\*/', '', line[head.end() :])
    # The shape is a tuple in brackets, which may hold spaces, or one word.
    end = _find_closing_bracket(rest) if rest.startswith('(') else rest.find(' ')
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, _, rest = rest.partition('(')
    end = _find_closing_bracket('(' + rest) - 1
    operands = tuple(re.findall(r'%([\w.-]+)', rest[: end - 1]))
    if opcode in ('constant', 'parameter'):
        operands = (rest[: end - 1],)
    return Instruction(head[2], shape, opcode, operands, rest[end:], bool(head[1]))


def _find_closing_bracket(text: str) -> int:
    """Returns the index behind the bracket that closes the first character of `text`."""
    depth = 0
    for bracket in re.finditer(r'[()]', text):
        depth += 1 if bracket[0] == '(' else -1
        if not depth:
            return bracket.end()
    return len(text)


def _parse_array(dtype: str, dims: str, layout: str) -> HloArray:
    """Parses the three groups of `_ARRAY`.

    A layout such as `1,0:T(8,128)(2,1)S(1)` lists the dimensions from the minor to the major one,
    then tiles T, then the memory space S.
    """
    digits = re.search(r'\d+', dtype)
    bits = DTYPE_BITS.get(dtype) if dtype in DTYPE_BITS else int(digits[0]) if digits else 0
    # A dynamic dimension is written with its bound, <=512.
    sizes = [int(size.strip('<=')) for size in dims.split(',') if size]
    order, _, memory = layout.partition(':')
    tile = re.search(r'T\(([\d,]+)\)', memory)
    if tile and sizes:
        # The first tile covers the minor dimensions, which are padded to whole tiles. On TPUs this
        # is often most of a small array.
        minor_dims = [int(dim) for dim in order.split(',')]
        units = reversed([int(unit) for unit in tile[1].split(',')])
        for dim, unit in zip(minor_dims, units):
            sizes[dim] = -(-sizes[dim] // unit) * unit
    space = re.search(r'S\((\d+)\)', memory)
    on_chip = bool(space and space[1] != '0')
    return HloArray(math.prod(sizes) * (bits or 0) // 8, on_chip)
