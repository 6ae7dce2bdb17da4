"""Which texts of a stream's sources may be drawn, after their filters."""

from pathlib import Path
from typing import Any

import numpy as np

from mural_jax.data.sets.filters import ensure_selection, selection_path
from mural_jax.data.sets.records import Records, open_split
from mural_jax.data.streams.base import Stream, StreamSource
from mural_jax.types import UserError


def ensure_filters(stream: Stream, data_dir: Path) -> dict[str, dict[str, Any]]:
    """The results of the filters, {counts, leaks, ...}, by source that has any.

    Computes and stores a result that is missing.
    """
    return {
        name: ensure_selection(
            Records(source.dataset, source.split, data_dir),
            source.filters,
            data_dir,
            lambda test: open_split(test, data_dir),
        )
        for name, source in stream.sources.items()
        if source.filters.active
    }


def read_keep_mask(records: Records, source: StreamSource, data_dir: Path) -> np.ndarray:
    """Which texts of the index a source may use, bool [T]: not bad, and passed by the filters.

    Raises UserError where `mural prepare` has not stored the result of the filters.
    """
    if not source.filters.active:
        return ~np.asarray(records.index.bad_R)[records.index.record_T]
    # The path depends on the filters and on the content of the data sets that they name.
    path = selection_path(
        data_dir, records, source.filters, lambda test: open_split(test, data_dir)
    )
    try:
        return np.load(path / 'keep_T.npy', mmap_mode='r')
    except FileNotFoundError as error:
        raise UserError(
            f'The filters of {records.name} have not been worked out yet. '
            'Run `mural prepare` with the same --config and --data_dir first.'
        ) from error
