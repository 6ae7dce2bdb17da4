"""Memory of the streams over 100,000 examples, and how soon the first batch at 10^9 is there.

    python benchmarks/data_memory.py --config=flickr8k --data_dir=DATA [--examples=100000]

Prints for each stream of the config: seconds to open it and to its first batch at position 10^9,
resident memory after a fifth of the examples and at the end, and the slope of a line through the
measurements between, in bytes an example.
"""

import argparse
import os
import time
from pathlib import Path

import numpy as np

from mural_jax.config.load import load_config
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run

FAR = 10**9


def resident() -> int:
    """Bytes of memory that this process holds."""
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


def main() -> None:
    """Measures and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', required=True)
    parser.add_argument('--data_dir', type=Path, required=True)
    parser.add_argument('--examples', type=int, default=100_000)
    arguments = parser.parse_args()
    run = Run.of(load_config(arguments.config, []))
    path = vocabulary_path(arguments.data_dir, run)
    tokenizer = Tokenizer.load(path, run.tokenizer)
    import tensorflow as tf  # Its import is no part of what is measured.

    tf.constant(0)
    print('| stream | open, s | first batch at 10^9, s | examples/s | MB at 20% | MB at the end | '
          'slope, bytes/example |')  # fmt: skip
    print('| --- |' + ' ---: |' * 6)
    for name, spec in run.build_streams().items():
        started = time.perf_counter()
        stream = spec.open(arguments.data_dir, tokenizer, seed=0)
        opened = time.perf_counter()
        next(iter(stream.batches(FAR, 1)))
        first = time.perf_counter()
        count = -(-arguments.examples // spec.batch_size)
        seen, held = [], []
        for number, _ in enumerate(stream.batches(0, count)):
            seen.append((number + 1) * spec.batch_size)
            held.append(resident())
        spent = time.perf_counter() - first
        warm = len(seen) // 5
        slope = np.polyfit(seen[warm:], held[warm:], 1)[0]
        print(f'| {name} | {opened - started:.2f} | {first - opened:.2f} | {seen[-1] / spent:,.0f} '
              f'| {held[warm] / 1e6:.0f} | {held[-1] / 1e6:.0f} | {slope:.1f} |')  # fmt: skip


if __name__ == '__main__':
    main()
