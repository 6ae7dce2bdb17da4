"""Kinds of tasks."""

from collections.abc import Mapping
from typing import Any

from mural_jax.config.build import build
from mural_jax.tasks.base import Task
from mural_jax.tasks.contrast import Contrast
from mural_jax.tasks.distill import Distillation
from mural_jax.tasks.match import Matching
from mural_jax.tasks.predict import Prediction

TASKS = {
    'contrast': Contrast,
    'prediction': Prediction,
    'matching': Matching,
    'distillation': Distillation,
}
DEFAULT_KIND = 'contrast'


def build_task(node: Mapping[str, Any], where: str) -> Task:
    """The task of a config node, a contrast where no kind is named.

    A kind whose nodes hold nodes of further kinds names the table of each in `parts`. Raises
    UserError where something does not fit.
    """
    node = {'kind': DEFAULT_KIND, **node}
    tables = getattr(TASKS.get(node['kind']), 'parts', {})
    parts = {
        key: build(table, node.pop(key, {}), f'{where}.{key}') for key, table in tables.items()
    }
    return build(TASKS, node, where, **parts)
