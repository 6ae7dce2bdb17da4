"""Breaks files at random, for tests that a parser meets any of them with a UserError."""

import os
import random

FUZZ_ROUNDS = int(os.environ.get('FUZZ_ROUNDS', '200'))
# Bytes with a meaning in some format.
SPECIAL = (b'\0', b'\n', b'\r', b'\t', b'"', b'\\', b'{', b'[', b'%', b'\xff', b'\xed\xa0\x80')


def mutate(data: bytes, rng: random.Random) -> bytes:
    """The data with one to four faults: bytes changed, inserted, repeated, removed or cut off."""
    for _ in range(rng.randint(1, 4)):
        start, end = sorted(rng.randint(0, len(data)) for _ in range(2))
        end = min(end, start + rng.choice((1, 4, 64, len(data))))
        # A long run takes long to parse, so only a few runs are long.
        run = rng.choice(SPECIAL) * (100_000 if rng.random() < 0.1 else 100)
        noise = rng.randbytes(rng.randint(1, 8))
        piece = rng.choice((*SPECIAL, run, noise, data[start:end] * 2, b''))
        data = data[:start] if rng.random() < 0.1 else data[:start] + piece + data[end:]
    return data
