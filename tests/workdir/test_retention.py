"""Which checkpoints stay: the newest, the best, the pinned."""

from pathlib import Path

import jax.numpy as jnp
import pytest

from mural_jax.types import UserError
from mural_jax.workdir.checkpoints import Checkpoints
from mural_jax.workdir.retention import BestCheckpoints

TREES = {'params': {'a': jnp.ones(3)}}


def test_newest_and_best_checkpoints_stay(tmp_path: Path) -> None:
    """Values that are missing or not finite are never the best; a reopened workdir knows them."""
    best = BestCheckpoints('recall', 'max', keep=2)
    checkpoints = Checkpoints(tmp_path, keep=1, best=best)
    assert checkpoints.best_step is None
    scores = [0.3, 0.9, float('nan'), 0.5, float('inf'), None, 0.1]
    for step, score in enumerate(scores):
        metrics = None if score is None else {'recall': score, 'loss': 1.0}
        checkpoints.save(step, TREES, {}, metrics)
    assert checkpoints.best_step == 1
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=1, best=best)
    assert (again.steps, again.best_step) == ([1, 3, 6], 1)
    again.close()
    lowest = Checkpoints(tmp_path, keep=1, best=BestCheckpoints('recall', 'min'))
    assert lowest.best_step == 6
    lowest.save(7, TREES, {})
    lowest.close()
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['6', '7']


def test_pinned_checkpoints_stay(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=1, pinned=[2, 9])
    for step in range(5):
        checkpoints.save(step, TREES, {})
    checkpoints.close()
    assert sorted(path.name for path in (tmp_path / 'checkpoints').iterdir()) == ['2', '4']


def test_metric_that_no_checkpoint_has_names_no_best(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=2, best=BestCheckpoints('recall', 'min'))
    checkpoints.save(1, TREES, {}, {'loss': 1.0})
    assert checkpoints.best_step is None
    checkpoints.close()


def test_unknown_mode_is_refused() -> None:
    with pytest.raises(UserError, match="'min' or the 'max'"):
        BestCheckpoints('loss', 'lowest')  # type: ignore[arg-type]
