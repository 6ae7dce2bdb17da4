"""What the tests of readers of translations share."""

import collections
import random
from collections.abc import Callable
from pathlib import Path

from data.fuzz import FUZZ_ROUNDS, mutate

from mural_jax.data.sources.reader import Example, Reader
from mural_jax.types import UserError


def read_all(reader: Reader) -> dict[str, list[Example]]:
    """The examples of each split."""
    return {
        split: [example for part in parts for example in reader.read_examples(split, part)]
        for split, parts in reader.splits().items()
    }


def write_file(path: Path, content: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return str(path)


def count_texts(reader: Reader) -> dict[str, collections.Counter[str]]:
    """The number of texts in each language by split, once they fit the reader's vocabulary."""
    counts = {
        split: collections.Counter(text[0] for example in examples for text in example.texts)
        for split, examples in read_all(reader).items()
    }
    assert reader.vocabulary()[0] == sorted(set().union(*counts.values()))
    return counts


def check_broken_files(path: Path, data: bytes, make_reader: Callable[[str], Reader]) -> None:
    """Breaks a file in many ways: each time it is read, or refused with a UserError."""
    rng = random.Random(path.name)
    for _ in range(FUZZ_ROUNDS):
        broken = mutate(data, rng)
        write_file(path, broken)
        try:
            make_reader(str(path)).vocabulary()
            for examples in read_all(make_reader(str(path))).values():
                words = [word for e in examples for text in e.texts for word in text]
                assert all(isinstance(word, str) for word in words)
        except UserError:
            pass
        except Exception as error:
            raise AssertionError(f'{broken!r}') from error
