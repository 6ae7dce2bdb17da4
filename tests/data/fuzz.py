"""Broken files for the tests of parsers: what a reader meets must never be a surprise."""

import os
import random

FUZZ_ROUNDS = int(os.environ.get('FUZZ_ROUNDS', '200'))
# Bytes that mean something to one format or another.
SPECIAL = (b'\0', b'\n', b'\r', b'\t', b'"', b'\\', b'{', b'[', b'%', b'\xff', b'\xed\xa0\x80')


def mutated(data: bytes, rng: random.Random) -> bytes:
    """The data with one to four faults: bytes changed, put in, repeated, left out or cut off."""
    for _ in range(rng.randint(1, 4)):
        start, end = sorted(rng.randint(0, len(data)) for _ in range(2))
        end = min(end, start + rng.choice((1, 4, 64, len(data))))
        # Long runs take long to parse, so few are.
        run = rng.choice(SPECIAL) * (100_000 if rng.random() < 0.1 else 100)
        noise = rng.randbytes(rng.randint(1, 8))
        piece = rng.choice((*SPECIAL, run, noise, data[start:end] * 2, b''))
        data = data[:start] if rng.random() < 0.1 else data[:start] + piece + data[end:]
    return data
