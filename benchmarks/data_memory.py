"""Memory of the streams over 100,000 examples, and seconds to the first batch at position 10^9.

    python benchmarks/data_memory.py --config=flickr8k --data_dir=DATA [--examples=100000]

Prints one row for each stream of the config: the seconds to open it and to read its first batch at
position 10^9; resident memory after a fifth of the examples and after all; and the slope in bytes
per example of a line fitted through the measurements in between.
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


def resident_bytes() -> int:
    """Resident memory of this process in bytes."""
    pages = int(Path('/proc/self/statm').read_text(encoding='ascii').split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


def main() -> None:
    """Measures all streams and prints a table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--config', required=True)
    parser.add_argument('--data_dir', type=Path, required=True)
    parser.add_argument('--examples', type=int, default=100_000)
    arguments = parser.parse_args()
    run = Run.of(load_config(arguments.config, []))
    path = vocabulary_path(arguments.data_dir, run)
    tokenizer = Tokenizer.load(path, run.tokenizer)
    # Imported and started before the clock, which measures streams and not TensorFlow.
    import tensorflow as tf

    from mural_jax.data.reading.stream import open_stream

    tf.constant(0)
    print(
        '| stream | open, s | first batch at 10^9, s | examples/s | MB at 20% | MB at the end | '
        'slope, bytes/example |'
    )
    print('| --- |' + ' ---: |' * 6)
    for name, settings in run.streams.items():
        started = time.perf_counter()
        stream = open_stream(settings, arguments.data_dir, tokenizer, seed=0)
        opened_at = time.perf_counter()
        next(iter(stream.batches(FAR, 1)))
        first_at = time.perf_counter()
        num_batches = -(-arguments.examples // settings.batch_size)
        examples, memory = [], []
        for number, _ in enumerate(stream.batches(0, num_batches)):
            examples.append((number + 1) * settings.batch_size)
            memory.append(resident_bytes())
        rate = examples[-1] / (time.perf_counter() - first_at)
        # The first fifth is left out of the slope: caches and buffers still fill up.
        warm = len(examples) // 5
        slope = np.polyfit(examples[warm:], memory[warm:], 1)[0]
        print(
            f'| {name} | {opened_at - started:.2f} | {first_at - opened_at:.2f} | {rate:,.0f} '
            f'| {memory[warm] / 1e6:.0f} | {memory[-1] / 1e6:.0f} | {slope:.1f} |'
        )


if __name__ == '__main__':
    main()
