"""The index of a split: the texts of its records, and sizes and hashes of its images.

Texts are sorted by language, then record, then kind, so the texts of one record with the same
language and kind are neighbours. Arrays are mapped from disk, not loaded.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from mural_jax.data.sets import schema
from mural_jax.data.sets.hashes import text_hash, text_sketch
from mural_jax.data.tokenizer import normalise_text

CHUNK = 512  # Records that are parsed at a time.
# Names of the arrays on disk: of texts, of records, and of what filters need.
TEXT_ARRAYS = ('record', 'number', 'kind')
RECORD_ARRAYS = ('bad', 'width', 'height', 'hash')
FACT_ARRAYS = ('words', 'bytes', 'hash')


@dataclasses.dataclass(frozen=True)
class SetIndex:
    """The index of T texts in R records.

    languages: Names of the languages.
    kinds: Names of the kinds of texts.
    offset_L: [languages + 1], the first text of each language, and T at the end.
    record_T: Number of the text's record.
    number_T: Place of the text among the texts of its record.
    kind_T: Number of the text's kind.
    bad_R: Whether the record must not be used.
    width_R, height_R: Size of the image in pixels, 0 without an image.
    hash_R: Perceptual hash of the image, 64 bits unsigned.
    folder: Folder of the arrays.
    """

    languages: list[str]
    kinds: list[str]
    offset_L: np.ndarray
    record_T: np.ndarray
    number_T: np.ndarray
    kind_T: np.ndarray
    bad_R: np.ndarray
    width_R: np.ndarray
    height_R: np.ndarray
    hash_R: np.ndarray
    folder: Path

    @property
    def language_T(self) -> np.ndarray:
        """The number of each text's language."""
        return np.repeat(np.arange(len(self.languages)), np.diff(self.offset_L))

    @property
    def fingerprint(self) -> str:
        """Identifies the content: a different data set or build has a different fingerprint."""
        return json.loads((self.folder / 'about.json').read_text(encoding='utf-8'))['fingerprint']


def read_index(folder: Path, languages: list[str], kinds: list[str]) -> SetIndex:
    """The index that `write_index` wrote. Raises FileNotFoundError if there is none."""
    arrays = {}
    for name in (*(f'{key}_T' for key in TEXT_ARRAYS), *(f'{key}_R' for key in RECORD_ARRAYS)):
        arrays[name] = np.load(folder / f'{name}.npy', mmap_mode='r')
    offset_L = np.load(folder / 'offset_L.npy')
    return SetIndex(languages, kinds, offset_L, folder=folder, **arrays)


def write_index(records: Any, folder: Path, *, has_image: bool) -> list[dict[str, Any]]:
    """Writes the index of records; an interrupted call leaves no index behind.

    Args:
      records: The `Records` to index.
      folder: Folder for the arrays.
      has_image: Whether the records have an image.

    Returns:
      The bad records, each {index, id, reason, where}.
    """
    names = ['bad', 'id', 'where', 'language', 'kind', 'text']
    names += ['width', 'height', 'hash'] if has_image else []
    chunks: dict[str, list[np.ndarray]] = {name: [] for name in ('language', *TEXT_ARRAYS)}
    about: dict[str, list[np.ndarray]] = {name: [] for name in RECORD_ARRAYS}
    bad, digest = [], hashlib.sha256()
    for start, parsed in parse_records(records, *names):
        rows = parsed['language'].value_rowids().numpy()
        starts = parsed['language'].row_starts().numpy()
        chunks['language'].append(parsed['language'].values.numpy().astype(np.uint16))
        chunks['record'].append((rows + start).astype(np.uint32))
        chunks['number'].append((np.arange(len(rows)) - starts[rows]).astype(np.uint16))
        chunks['kind'].append(parsed['kind'].values.numpy().astype(np.uint8))
        # Ids and texts are hashed here, because they are not part of the arrays.
        digest.update(b'\0'.join([*parsed['id'].numpy(), *parsed['text'].values.numpy()]))
        reason_B = parsed['bad'].numpy()
        about['bad'].append(reason_B != b'')
        for name, kind in (('width', np.uint32), ('height', np.uint32), ('hash', np.uint64)):
            given = parsed[name].numpy() if has_image else np.zeros(len(reason_B), np.int64)
            about[name].append(given.astype(kind))
        for row in np.flatnonzero(reason_B != b''):
            place = {key: parsed[key][row].numpy().decode() for key in ('id', 'where')}
            bad.append({'index': int(start + row), 'reason': reason_B[row].decode(), **place})
    text = {name: np.concatenate(parts or [np.zeros(0, int)]) for name, parts in chunks.items()}
    # The last key sorts first: by language, record, kind, then place in the record.
    order = np.lexsort((text['number'], text['kind'], text['record'], text['language']))
    counts = np.bincount(text.pop('language'), minlength=len(records.languages))
    arrays = {f'{name}_T': array[order] for name, array in text.items()}
    arrays |= {f'{name}_R': np.concatenate(parts) for name, parts in about.items()}
    arrays['offset_L'] = np.concatenate([[0], np.cumsum(counts)])
    content = arrays | {'texts': np.frombuffer(digest.digest(), np.uint8)}
    save_arrays(folder, arrays, {'fingerprint': fingerprint_arrays(content)})
    return bad


def fingerprint_arrays(arrays: dict[str, np.ndarray]) -> str:
    """Sixteen hexadecimal digits that identify the names and the content of arrays."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()[:16]


def read_text_facts(records: Any, index: SetIndex) -> dict[str, np.ndarray]:
    """Facts about texts that filters need: {words, bytes, hash}, each [T] in the index's order.

    They are computed once and stored. `words` is the number of `split_words`, `bytes` the length
    in UTF-8, both at most 65,535; `hash` is the `text_hash` of the normalised text.
    """
    folder = index.folder.with_name(index.folder.name + '-words')
    if not folder.exists():
        arrays: dict[str, np.ndarray] = {
            'words_T': np.zeros(len(index.record_T), np.uint16),
            'bytes_T': np.zeros(len(index.record_T), np.uint16),
            'hash_T': np.zeros(len(index.record_T), np.uint64),
        }
        for row, text in read_texts(records, index):
            arrays['words_T'][row] = min(len(split_words(text)), 2**16 - 1)
            arrays['bytes_T'][row] = min(len(text.encode()), 2**16 - 1)
            arrays['hash_T'][row] = text_hash(normalise_text(text))
        save_arrays(folder, arrays, {})
    return {name: np.load(folder / f'{name}_T.npy', mmap_mode='r') for name in FACT_ARRAYS}


def read_sketches(records: Any, index: SetIndex) -> np.ndarray:
    """The SimHash of each normalised text, uint64 [T]; computed once and stored."""
    folder = index.folder.with_name(index.folder.name + '-sketches')
    if not folder.exists():
        sketch_T = np.zeros(len(index.record_T), np.uint64)
        for row, text in read_texts(records, index):
            sketch_T[row] = text_sketch(normalise_text(text))
        save_arrays(folder, {'sketch_T': sketch_T}, {})
    return np.load(folder / 'sketch_T.npy', mmap_mode='r')


def read_region_facts(records: Any, index: SetIndex) -> dict[str, Any]:
    """Facts about the regions of good records: {num_classes, sizes}; computed once and stored.

    `num_classes` is the highest class + 1, or 0 if no region has a class. `sizes` lists all
    numbers of features per region that occur.
    """
    path = index.folder.with_name(index.folder.name + '-regions.json')
    if path.exists():
        return json.loads(path.read_text(encoding='utf-8'))
    highest, sizes = -1, set()
    for _, parsed in parse_records(records, 'bad', 'boxes', 'classes', 'features'):
        good_B = parsed['bad'] == b''
        class_N = tf.ragged.boolean_mask(parsed['classes'], good_B).values.numpy()
        highest = max(highest, int(class_N.max(initial=-1)))
        boxes_B = parsed['boxes'].row_lengths().numpy() // 4
        there_B = good_B.numpy() & (boxes_B > 0)
        features_B = parsed['features'].row_lengths().numpy()
        sizes |= set((features_B[there_B] // boxes_B[there_B]).tolist())
    facts = {'num_classes': highest + 1, 'sizes': sorted(sizes)}
    # Several processes may write this at once: each writes a file of its own, and renaming is
    # atomic.
    part = path.with_name(f'{path.name}.{os.getpid()}.part')
    # If this machine may only read the data, the facts are computed again by each process.
    with contextlib.suppress(OSError):
        part.write_text(json.dumps(facts), encoding='utf-8')
        part.replace(path)
    return facts


def read_texts(records: Any, index: SetIndex) -> Iterator[tuple[int, str]]:
    """Yields (place in the index, text) of all texts, record by record."""
    # Texts are read record by record, but the index sorts them by language.
    order = np.lexsort((index.number_T, index.record_T))
    place = 0
    for _, parsed in parse_records(records, 'text'):
        for text in parsed['text'].values.numpy():
            yield int(order[place]), text.decode(errors='replace')
            place += 1


# Chinese, Japanese, Thai, Lao, Burmese and Khmer put no spaces between words, so each of their
# characters counts as a word (ours).
_UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x3040, 0x30FF),
    (0x3400, 0x9FFF),
    (0x20000, 0x3134F),
)


def split_words(text: str) -> list[str]:
    """The words of a text, between spaces; in scripts without spaces each character is a word."""
    if text.isascii():
        return text.split()
    spaced = ''.join(
        f' {c} ' if any(low <= ord(c) <= high for low, high in _UNSPACED) else c for c in text
    )
    return spaced.split()


def parse_records(records: Any, *names: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields (number of the first record, named fields) of all records, CHUNK at a time."""
    for start in range(0, len(records), CHUNK):
        index_B = np.arange(start, min(start + CHUNK, len(records)))
        yield start, schema.parse_examples(tf.constant(list(records.read(index_B))), *names)


def save_arrays(folder: Path, arrays: dict[str, np.ndarray], about: dict[str, Any]) -> None:
    """Writes arrays and `about` into a folder; an interrupted call leaves no folder behind."""
    part = folder.with_name(f'{folder.name}.{os.getpid()}.part')
    shutil.rmtree(part, ignore_errors=True)
    # The folder is complete when it gets its name, since renaming is atomic.
    part.mkdir(parents=True)
    for name, array in arrays.items():
        np.save(part / f'{name}.npy', array)
    (part / 'about.json').write_text(json.dumps(about), encoding='utf-8')
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
