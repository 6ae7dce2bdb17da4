"""Small files in published layouts, and the images that they describe."""

import collections
import gzip
import json
import random
from pathlib import Path
from typing import Any

from data.fuzz import FUZZ_ROUNDS, mutate
from data.sources.image_files import encode_colour, write_tar

from mural_jax.data.sources import join
from mural_jax.data.sources.reader import Example, JoinedReader
from mural_jax.types import UserError

COCO = 'COCO_val2014_000000000042.jpg'
OTHER = 'COCO_train2014_000000000009.jpg'
RED, BLUE = encode_colour('red'), encode_colour('blue')
IMAGES = {f'val2014/{COCO}': RED, f'train2014/{OTHER}': BLUE, 'f/1.jpg': RED, 'f/2.jpg': BLUE}


def write_images(folder: Path) -> tuple[str]:
    """The flag --images of an archive with all images."""
    return (write_tar(folder / 'images.tar.gz', list(IMAGES.items())),)


def write_file(path: Path, content: Any) -> str:
    """Writes text as it is and anything else as JSON, compressed if the name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == '.gz' else text.encode())
    return str(path)


def write_karpathy(folder: Path) -> str:
    entries = [
        {
            'filepath': 'val2014',
            'filename': COCO,
            'split': 'test',
            'cocoid': 42,
            'sentids': [1, 2],
            'sentences': make_sentences(1, 2),
        },
        {
            'filepath': 'train2014',
            'filename': OTHER,
            'split': 'train',
            'cocoid': 9,
            'sentids': [3],
            'sentences': make_sentences(3),
        },
        {'filename': '1.jpg', 'split': 'restval', 'imgid': 3, 'sentences': make_sentences(4)},
    ]
    return write_file(folder / 'dataset_coco.json', {'images': entries, 'dataset': 'coco'})


def make_sentences(*numbers: int) -> list[dict[str, Any]]:
    return [{'raw': f'Text {n}.', 'tokens': ['text', str(n)], 'sentid': n} for n in numbers]


def read_sorted(reader: JoinedReader, split: str) -> list[Example]:
    examples = join.read_split(reader, split)
    return sorted(examples, key=lambda example: (example.id, example.score))


def check_broken_files(path: Path, reader: JoinedReader, name: str, may_pass: bool = False) -> None:
    """Breaks a file in many ways: some are read, others refused with a UserError.

    Args:
      path: A file of the reader, which this function breaks.
      reader: The reader.
      name: Seed of the faults.
      may_pass: Whether the reader may accept all of the broken files.
    """
    data, rng = path.read_bytes(), random.Random(name)
    outcomes: collections.Counter[bool] = collections.Counter()
    for _ in range(FUZZ_ROUNDS):
        path.write_bytes(mutate(data, rng))
        try:
            for split in reader.splits():
                read_sorted(reader, split)
            outcomes[True] += 1
        except UserError:
            outcomes[False] += 1
    assert outcomes[True] and (outcomes[False] or may_pass)
