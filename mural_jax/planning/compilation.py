"""Compilation for a device whose memory may be too small."""

import dataclasses
import re
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class MemoryRefusal:
    """The memory need that the compiler reported when it refused a program.

    bytes: on one device; 0 if the message gave no figure.
    temporaries: whether `bytes` leaves out arguments and results.
    """

    bytes: float
    temporaries: bool


def compile_or_refusal(lowered: Any) -> tuple[Any, Any]:
    """Returns (program, None), or (None, MemoryRefusal) if the device's memory is too small."""
    try:
        return lowered.compile(), None
    except jax.errors.JaxRuntimeError as error:
        # XLA has no exception class of its own for this.
        if 'RESOURCE_EXHAUSTED' not in str(error):
            raise
        return None, parse_refusal(str(error))


def parse_refusal(message: str) -> MemoryRefusal:
    """Returns the need in a compiler's message.

    XLA writes '(46.00G) exceeds' or, for TPUs, 'Used 20.57G of 15.48G hbm'.
    """
    match = re.search(r'\(([\d.]+)([KMGT]?)\) exceeds|Used ([\d.]+)([KMGT]?) of', message)
    if not match:
        return MemoryRefusal(0.0, False)
    number, unit = (match[1], match[2]) if match[1] else (match[3], match[4])
    power = ('', 'K', 'M', 'G', 'T').index(unit)
    return MemoryRefusal(float(number) * 2 ** (10 * power), 'temporaries' in message)
