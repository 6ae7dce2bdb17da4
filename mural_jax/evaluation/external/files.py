"""Embeddings that others made, from files, and retrieval between them."""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mural_jax.evaluation.evaluators.base import Measured, Scored, enough, retrieved
from mural_jax.evaluation.external.libraries import unit
from mural_jax.evaluation.metrics.recall import PROTOCOL, both_ways
from mural_jax.evaluation.split_data import Sources
from mural_jax.types import UserError

UNIT = 1e-3  # Lengths that are off by less are rounding.


class Vectors(NamedTuple):
    """N embeddings of a file.

    vector_ND: float32, unit vectors; longest: how far the given ones were from length 1 at most.
    ids, languages, kinds: of each; the last two are empty where the file has no such column.
    """

    vector_ND: np.ndarray
    longest: float
    ids: list[str]
    languages: list[str]
    kinds: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stored(Measured):
    """Retrieval between embeddings of files, both ways, one language at a time.

    The gallery of a language is the images that have a text in it, as of ImageText.
    """

    images: Vectors
    texts: Vectors
    files: dict[str, str]

    def needs(self) -> dict[str, str]:
        return {}

    def __call__(self, sources: Sources, languages: Sequence[str]) -> Scored:
        place = {name: row for row, name in enumerate(self.images.ids)}
        owner_M = np.array([place[name] for name in self.texts.ids])
        said_M = np.array(self.texts.languages)
        samples = {}
        for language in self.languages:
            rows = np.flatnonzero(said_M == language)
            found, own_M = np.unique(owner_M[rows], return_inverse=True)
            enough(len(found), self, language)
            scored = both_ways(
                self.images.vector_ND[found], self.texts.vector_ND[rows], own_M, 'image', 'text'
            )
            samples[language] = [s.among(found.tolist()) for s in scored]
        return Scored(retrieved(samples), len(self.images.ids), None, samples)

    @property
    def without_text(self) -> int:
        """How many images have no text in any language."""
        return len(set(self.images.ids) - set(self.texts.ids))

    def protocol(self) -> dict[str, Any]:
        off = {'images': self.images.longest, 'texts': self.texts.longest}
        return PROTOCOL | self.files | {
            'name': 'embeddings from files',
            'relevance': 'by id: every text of an image is right for it',
            'gallery': 'the images with a text in the language; of all images '
            f'{self.without_text} have none and are in no gallery',
            'normalised': [side for side, value in off.items() if value > UNIT],
        }  # fmt: skip


def evaluators(images: Path, texts: Path, language: str) -> dict[str, Stored]:
    """An evaluator for each kind of text of two files, .parquet or .npy. language: of .npy.

    Raises UserError where they do not go together.
    """
    kinds = {images.suffix, texts.suffix}
    if len(kinds) > 1 or not kinds <= {'.npy', '.parquet'}:
        raise UserError(f'{images} and {texts} must be two tables .parquet, or two arrays .npy.')
    parquet = kinds == {'.parquet'}
    if language and parquet:
        raise UserError('--language is for .npy files; a table has the column language.')
    image, text = (
        (read_parquet(images, ()), read_parquet(texts, ('language',))) if parquet
        else (read_array(images), read_array(texts))
    )  # fmt: skip
    if not parquet:
        if len(image.ids) != len(text.ids):
            raise UserError(
                f'{images} has {len(image.ids)} rows and {texts} {len(text.ids)}: arrays are '
                'compared row by row. Several texts of an image need tables .parquet.'
            )
        text = text._replace(languages=[language or 'en'] * len(text.ids))
    _check(images, image, texts, text)
    files = {'images': _about(images), 'texts': _about(texts)}
    made = {}
    for kind in sorted(set(text.kinds)) or ['']:
        own = _of_kind(text, kind)
        made[f'embeddings/{kind}' if kind else 'embeddings'] = Stored(
            dataset=images.name, split=kind, languages=tuple(sorted(set(own.languages))),
            images=image, texts=own, files=files,
        )  # fmt: skip
    return made


def read_array(path: Path) -> Vectors:
    """An array [N, D] of floats; ids are the numbers of its rows. Never unpickles."""
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f'{path} is no array of numbers ({error}).') from error
    if array.ndim != 2 or array.dtype.kind != 'f' or not array.size:
        raise UserError(
            f'{path} holds {array.dtype} {list(array.shape)}; floats [N, D] are needed, a row for '
            'each embedding.'
        )
    return _vectors(path, array, [str(row) for row in range(len(array))], [], [])


def read_parquet(path: Path, more: Sequence[str]) -> Vectors:
    """A table with the columns id, embedding and `more`, and a kind if it is there."""
    import pyarrow
    from pyarrow import parquet

    try:
        names = parquet.read_schema(path).names
        missing = [name for name in ('id', 'embedding', *more) if name not in names]
        if missing:
            raise UserError(f'{path} has no column {", ".join(missing)}; it has {names}.')
        wanted = ['id', 'embedding', *more, *(['kind'] if more and 'kind' in names else [])]
        table = parquet.read_table(path, columns=wanted)
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f'{path} is not a readable Parquet file ({error}).') from error
    columns = {name: table[name].to_pylist() for name in wanted if name != 'embedding'}
    for name, values in columns.items():
        if any(value is None or value == '' for value in values):
            raise UserError(f'{path}: the column {name} has empty places.')
    words = {name: [str(value) for value in values] for name, values in columns.items()}
    array = _listed(path, table['embedding'])
    return _vectors(path, array, words['id'], words.get('language', []), words.get('kind', []))


def _listed(path: Path, column: Any) -> np.ndarray:
    """Lists of equally many floats -> [N, D]."""
    from pyarrow import types

    kind = column.type
    lists = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not lists or not types.is_floating(kind.value_type) or not len(column):
        raise UserError(
            f'{path}: embedding holds {len(column)} times {kind}; lists of floats are needed.'
        )
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    sizes = {size.as_py() for chunk in chunks for size in _lengths(chunk)}
    if len(sizes) > 1 or not sizes - {None, 0}:
        raise UserError(f'{path}: embeddings have {len(sizes)} lengths, {sorted(map(str, sizes))}.')
    rows = [np.asarray(chunk.flatten()).reshape(len(chunk), -1) for chunk in chunks]
    return np.concatenate(rows)


def _lengths(chunk: Any) -> Any:
    from pyarrow import compute

    return compute.list_value_length(chunk).unique()


def _vectors(
    path: Path, array: np.ndarray, ids: list[str], languages: list[str], kinds: list[str]
) -> Vectors:
    vector_ND = unit(array, f'embeddings of {path}')
    longest = float(np.abs(np.linalg.norm(array.astype(np.float64), axis=1) - 1).max())
    return Vectors(vector_ND, longest, ids, languages, kinds)


def _check(images: Path, image: Vectors, texts: Path, text: Vectors) -> None:
    """Raises UserError where two files are not of one space, or ids do not join them."""
    sizes = [len(one.vector_ND[0]) for one in (image, text)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f'{images} has {sizes[0]} dimensions and {texts} {sizes[1]}: not one space.'
        )
    twice = [name for name, count in collections.Counter(image.ids).items() if count > 1]
    if twice:
        raise UserError(
            f'{images} has {len(twice)} ids more than once, such as {twice[0]}: an image has one '
            'embedding. Take the others out.'
        )
    lost = sorted(set(text.ids) - set(image.ids))
    if lost:
        raise UserError(
            f'{len(lost)} ids of {texts} are no images of {images}, such as {lost[0]}: such a '
            'text has no right answer. Add the images or take the texts out.'
        )


def _of_kind(text: Vectors, kind: str) -> Vectors:
    """The texts of a kind; all of them for ''."""
    if not kind:
        return text
    rows = [row for row, own in enumerate(text.kinds) if own == kind]
    ids, languages = ([column[row] for row in rows] for column in (text.ids, text.languages))
    return text._replace(
        vector_ND=text.vector_ND[rows], ids=ids, languages=languages, kinds=[kind] * len(rows)
    )


def _about(path: Path) -> str:
    """The name of a file and what tells it from one of other content."""
    with path.open('rb') as file:
        return f'{path.name}, sha256 {hashlib.file_digest(file, "sha256").hexdigest()[:16]}'
