"""Retrieval between embeddings that are read from files, whatever encoder made them."""

import collections
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mural_jax.evaluation.evaluators.base import (
    Evaluation,
    SplitEvaluator,
    require_gallery_size,
    retrieval_metrics,
)
from mural_jax.evaluation.external.libraries import normalize_rows
from mural_jax.evaluation.metrics.recall import PROTOCOL, recall_both_ways
from mural_jax.evaluation.split_data import SplitData
from mural_jax.types import UserError

UNIT = 1e-3  # Lengths within this distance of 1 are rounding.


class FileEmbeddings(NamedTuple):
    """N embeddings of a file.

    vector_ND: float32 unit vectors.
    length_error: the largest distance of a length in the file from 1.
    ids, languages, kinds: one for each embedding; the last two are empty if the file has no such
    column.
    """

    vector_ND: np.ndarray
    length_error: float
    ids: list[str]
    languages: list[str]
    kinds: list[str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FileRetrieval(SplitEvaluator):
    """Recall between embeddings of files in both directions, one language at a time.

    The gallery of a language is the images with a text in it, as for `ImageTextRetrieval`.

    files: what identifies the two files, for the protocol.
    """

    headline: ClassVar[str] = 'mean_recall'

    images: FileEmbeddings
    texts: FileEmbeddings
    files: dict[str, str]

    def needs(self) -> dict[str, str]:
        return {}

    def __call__(self, data: SplitData, languages: Sequence[str]) -> Evaluation:
        # Ids join the two files; rows may be in any order.
        place = {name: row for row, name in enumerate(self.images.ids)}
        owner_M = np.array([place[name] for name in self.texts.ids])
        language_M = np.array(self.texts.languages)
        samples = {}
        for language in self.languages:
            rows = np.flatnonzero(language_M == language)
            # Images with a text in the language, numbered anew from 0.
            places, own_M = np.unique(owner_M[rows], return_inverse=True)
            require_gallery_size(len(places), self, language)
            image_ND, text_MD = self.images.vector_ND[places], self.texts.vector_ND[rows]
            both = recall_both_ways(image_ND, text_MD, own_M, 'image', 'text')
            samples[language] = [one.map_items(places.tolist()) for one in both]
        return Evaluation(retrieval_metrics(samples), len(self.images.ids), None, samples)

    @property
    def images_without_text(self) -> int:
        """The number of images without a text in any language."""
        return len(set(self.images.ids) - set(self.texts.ids))

    def protocol(self) -> dict[str, Any]:
        errors = {'images': self.images.length_error, 'texts': self.texts.length_error}
        own = {
            'name': 'embeddings from files',
            'relevance': 'by id: every text of an image is right for it',
            'gallery': 'the images with a text in the language; of all images '
            f'{self.images_without_text} have none and are in no gallery',
            'normalised': [side for side, error in errors.items() if error > UNIT],
        }
        return PROTOCOL | self.files | own


def build_evaluators(images: Path, texts: Path, language: str) -> dict[str, FileRetrieval]:
    """Returns an evaluator for each kind of text in two files, .parquet or .npy.

    language: the language of the texts in an .npy. Raises UserError if the files do not fit
    together.
    """
    suffixes = {images.suffix, texts.suffix}
    if len(suffixes) > 1 or not suffixes <= {'.npy', '.parquet'}:
        raise UserError(f'{images} and {texts} must be two tables .parquet, or two arrays .npy.')
    if suffixes == {'.parquet'}:
        if language:
            raise UserError('--language is for .npy files; a table has the column language.')
        image, text = read_parquet(images, ()), read_parquet(texts, ('language',))
    else:
        image, text = read_npy(images), read_npy(texts)
        if len(image.ids) != len(text.ids):
            raise UserError(
                f'{images} has {len(image.ids)} rows and {texts} {len(text.ids)}: arrays are '
                'compared row by row. Several texts of an image need tables .parquet.'
            )
        text = text._replace(languages=[language or 'en'] * len(text.ids))
    _check_files(images, image, texts, text)
    files = {'images': _describe_file(images), 'texts': _describe_file(texts)}
    # Each kind of text is a score of its own: captions and names are not comparable.
    evaluators = {}
    for kind in sorted(set(text.kinds)) or ['']:
        own = _select_kind(text, kind)
        evaluators[f'embeddings/{kind}' if kind else 'embeddings'] = FileRetrieval(
            dataset=images.name,
            split=kind,
            languages=tuple(sorted(set(own.languages))),
            images=image,
            texts=own,
            files=files,
        )
    return evaluators


def read_npy(path: Path) -> FileEmbeddings:
    """Returns an array [N, D] of floats, whose ids are the row numbers. Never unpickles.

    Raises UserError if it is not such an array.
    """
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f'{path} is no array of numbers ({error}).') from error
    if array.ndim != 2 or array.dtype.kind != 'f' or not array.size:
        raise UserError(
            f'{path} holds {array.dtype} {list(array.shape)}; floats [N, D] are needed, a row for '
            'each embedding.'
        )
    return _normalize(path, array, [str(row) for row in range(len(array))], [], [])


def read_parquet(path: Path, more: Sequence[str]) -> FileEmbeddings:
    """Returns a table with the columns id, embedding, `more`, and for texts kind if it exists.

    Raises UserError if it cannot be read, or lacks a column or a value.
    """
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
    # Only the short columns become Python lists, not the embeddings.
    columns = {name: table[name].to_pylist() for name in wanted if name != 'embedding'}
    for name, values in columns.items():
        if any(value is None or value == '' for value in values):
            raise UserError(f'{path}: the column {name} has empty places.')
    words = {name: [str(value) for value in values] for name, values in columns.items()}
    array = _stack_lists(path, table['embedding'])
    return _normalize(path, array, words['id'], words.get('language', []), words.get('kind', []))


def _stack_lists(path: Path, column: Any) -> np.ndarray:
    """Returns [N, D] from a column of lists. Raises UserError if their lengths differ."""
    from pyarrow import compute, types

    kind = column.type
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    if not is_list or not types.is_floating(kind.value_type) or not len(column):
        raise UserError(
            f'{path}: embedding holds {len(column)} times {kind}; lists of floats are needed.'
        )
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    sizes = {size.as_py() for chunk in chunks for size in compute.list_value_length(chunk).unique()}
    if len(sizes) > 1 or not sizes - {None, 0}:
        raise UserError(f'{path}: embeddings have {len(sizes)} lengths, {sorted(map(str, sizes))}.')
    # Flattened chunk by chunk: a Python list of a million vectors would take minutes.
    rows = [np.asarray(chunk.flatten()).reshape(len(chunk), -1) for chunk in chunks]
    return np.concatenate(rows)


def _normalize(
    path: Path, array: np.ndarray, ids: list[str], languages: list[str], kinds: list[str]
) -> FileEmbeddings:
    vector_ND = normalize_rows(array, f'embeddings of {path}')
    # Of the file as given; the protocol says whether it had to be scaled.
    error = float(np.abs(np.linalg.norm(array.astype(np.float64), axis=1) - 1).max())
    return FileEmbeddings(vector_ND, error, ids, languages, kinds)


def _check_files(images: Path, image: FileEmbeddings, texts: Path, text: FileEmbeddings) -> None:
    """Raises UserError if two files are not in one space, or their ids do not match."""
    sizes = [len(one.vector_ND[0]) for one in (image, text)]
    if sizes[0] != sizes[1]:
        raise UserError(
            f'{images} has {sizes[0]} dimensions and {texts} {sizes[1]}: not one space.'
        )
    repeated = [name for name, count in collections.Counter(image.ids).items() if count > 1]
    if repeated:
        raise UserError(
            f'{images} has {len(repeated)} ids more than once, such as {repeated[0]}, but an image '
            'has one embedding. Remove the others.'
        )
    unknown = sorted(set(text.ids) - set(image.ids))
    if unknown:
        raise UserError(
            f'{len(unknown)} ids of {texts} are no images of {images}, such as {unknown[0]}: a '
            'text without its image has no right answer. Add the images or remove the texts.'
        )


def _select_kind(text: FileEmbeddings, kind: str) -> FileEmbeddings:
    """Returns the texts of a kind, or all of them for ''."""
    if not kind:
        return text
    rows = [row for row, own in enumerate(text.kinds) if own == kind]
    ids, languages = ([column[row] for row in rows] for column in (text.ids, text.languages))
    return text._replace(
        vector_ND=text.vector_ND[rows], ids=ids, languages=languages, kinds=[kind] * len(rows)
    )


def _describe_file(path: Path) -> str:
    """Returns the name of a file and a hash of its content."""
    with path.open('rb') as file:
        return f'{path.name}, sha256 {hashlib.file_digest(file, "sha256").hexdigest()[:16]}'
