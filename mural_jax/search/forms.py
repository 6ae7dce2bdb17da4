"""Forms of embeddings: how the embedding of one image is stored in a Parquet column."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa


class Form(NamedTuple):
    """The column type of a form, and the functions that write and read such a column.

    column_type: D dimensions -> the type of the column.
    write: the embeddings of N rows -> a column.
    read: a column and D -> the embeddings of its rows.
    """

    column_type: Callable[[int], pa.DataType]
    write: Callable[[np.ndarray], pa.Array]
    read: Callable[[pa.ChunkedArray, int], np.ndarray]


def write_dense(image_ND: np.ndarray) -> pa.Array:
    """A column of vectors of equal length, from float32 [N, D]."""
    flat = pa.array(np.ascontiguousarray(image_ND, np.float32).reshape(-1))
    return pa.FixedSizeListArray.from_arrays(flat, image_ND.shape[1])


def read_dense(column: pa.ChunkedArray, dim: int) -> np.ndarray:
    """The vectors of a column, float32 [N, D]."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in column.chunks]
    return np.concatenate(chunks).reshape(-1, dim)


# A further form is one more entry: the store itself does not depend on the type of the column.
FORMS = {'dense': Form(lambda dim: pa.list_(pa.float32(), dim), write_dense, read_dense)}
