"""A stream that is read for long takes no more memory."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import os, sys
from pathlib import Path
import numpy as np
from mural_jax.config.load import load_config
from mural_jax.data.reading.stream import open_stream
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.runs.prepare import vocabulary_path
from mural_jax.runs.run import Run

data_dir = Path(sys.argv[1])
run = Run.of(load_config('emoji:tiny', []))
tokenizer = Tokenizer.load(vocabulary_path(data_dir, run), run.tokenizer)
big = ['--config.streams.%s.batch_size=256' % name for name in run.streams]
streams = Run.of(load_config('emoji:tiny', big)).streams
page = os.sysconf('SC_PAGE_SIZE')
for name, batches in (('captions', 200), ('translations', 200)):
    stream, held = open_stream(streams[name], data_dir, tokenizer, seed=0), []
    for _ in stream.batches(0, batches):
        held.append(int(Path('/proc/self/statm').read_text().split()[1]) * page)
    warm = batches // 2
    slope = np.polyfit(np.arange(warm, batches) * 256, held[warm:], 1)[0]
    print(name, slope)
"""


def test_memory_does_not_grow(data_dir: Path) -> None:
    """Over 51,200 images and as many pairs; keeping the images would take 12,000 bytes each."""
    done = subprocess.run(
        [sys.executable, '-c', SCRIPT, str(data_dir)], capture_output=True, text=True, check=True
    )
    slopes = dict(line.split() for line in done.stdout.splitlines())
    assert float(slopes['captions']) < 1500, slopes
    assert float(slopes['translations']) < 200, slopes
