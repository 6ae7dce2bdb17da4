"""What no change of the code's form may change: losses, batches, scores and weights."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import UNOPTIMISED, once
from golden.record import RUNS

STORED: dict[str, Any] = json.loads(Path(__file__).with_name('golden.json').read_text())
# Another processor adds the terms of a sum in another order, and rounds pixels another way.
LOSS, PIXEL, WEIGHT = 1e-4, 1e-3, 1e-3
RECALL = 2.0  # percent: one item of a small gallery that changes its place


@pytest.fixture(scope='module')
def recorded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same runs, made by the code as it is now."""

    def make(folder: Path) -> None:
        environment = os.environ | {'XLA_FLAGS': UNOPTIMISED, 'PYTHONWARNINGS': 'ignore'}
        script = Path(__file__).with_name('record.py')
        subprocess.run(
            [sys.executable, str(script), str(folder / 'golden.json')],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=880,
        )

    return json.loads((once(tmp_path_factory, 'golden', make) / 'golden.json').read_text())


@pytest.mark.parametrize('name', RUNS)
def test_losses_and_gradient_norms_stay(name: str, recorded: dict[str, Any]) -> None:
    assert len(recorded[name]['steps']) == len(STORED[name]['steps'])
    for now, then in zip(recorded[name]['steps'], STORED[name]['steps']):
        assert now == pytest.approx(then, rel=LOSS)


@pytest.mark.parametrize('name', RUNS)
def test_batches_stay(name: str, recorded: dict[str, Any]) -> None:
    now, then = recorded[name]['streams'], STORED[name]['streams']
    assert {s: list(fields) for s, fields in now.items()} == {s: list(f) for s, f in then.items()}
    for stream, fields in then.items():
        for field, digest in fields.items():
            if field.startswith(('image', 'region')):
                assert now[stream][field]['mean'] == pytest.approx(digest['mean'], rel=PIXEL)
            else:
                assert now[stream][field] == digest, f'{stream}/{field}'


@pytest.mark.parametrize('name', [name for name in RUNS if 'scores' in STORED[name]])
def test_scores_stay(name: str, recorded: dict[str, Any]) -> None:
    for evaluator, rows in STORED[name]['scores'].items():
        for language, row in rows.items():
            now = recorded[name]['scores'][evaluator][language]
            assert now == pytest.approx(row, abs=RECALL), f'{evaluator}/{language}'


def test_exported_weights_stay(recorded: dict[str, Any]) -> None:
    now, then = (found['emoji']['weights']['norms'] for found in (recorded, STORED))
    assert now == pytest.approx(then, rel=WEIGHT)
