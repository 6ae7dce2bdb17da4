"""`metrics.jsonl` of a run that is resumed."""

import json
from pathlib import Path

from mural_jax.workdir import metrics


def test_lines_after_the_resumed_step_are_dropped(tmp_path: Path) -> None:
    """Also a line that a killed run left half written."""
    path = tmp_path / 'metrics.jsonl'
    lines = [json.dumps({'step': step, 'loss': 1.0}) for step in (2, 4, 6)]
    path.write_text('\n'.join(lines) + '\n{"step": 8, "lo', encoding='utf-8')
    with metrics.Metrics(tmp_path, 4, 10):
        pass
    assert [line['step'] for line in metrics.read(tmp_path)] == [2, 4]
