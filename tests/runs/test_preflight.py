"""The checks before a run, each made to fail, and the lock of a workdir."""

import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mural_jax.distributed import processes
from mural_jax.distributed.mesh import MeshShape
from mural_jax.runs import preflight
from mural_jax.types import UserError

Change = Callable[[Any], Any]


@pytest.fixture
def add_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Returns a function that simulates a second process, whose values are ours, changed."""

    def add(change: Change) -> None:
        monkeypatch.setattr(processes, 'exchange', lambda name, value: [value, change(value)])

    return add


def make_stream(examples: int = 100, batch_size: int = 16) -> Any:
    pool = types.SimpleNamespace(sizes=np.array([examples - 10, 10]))
    return types.SimpleNamespace(batch_size=batch_size, mixture={'data': 'abc'}, pool=pool)


def test_different_versions_are_named(add_process: Callable) -> None:
    add_process(lambda versions: {**versions, 'jax': '0.1.2'})
    (finding,) = preflight.check_versions()
    assert finding.fatal and 'process 1' in finding.message and "'0.1.2'" in finding.message


def test_failed_check_raises_with_advice() -> None:
    finding = preflight.Finding('versions', 'They differ.', 'Install the same versions.', True)
    with pytest.raises(UserError, match=r'They differ\. Install the same versions\.'):
        preflight.require_passed([finding])


def test_different_versions_come_with_advice(add_process: Callable) -> None:
    add_process(lambda versions: {**versions, 'jax': '0.1.2'})
    with pytest.raises(UserError, match='Install the same versions'):
        preflight.require_passed(preflight.check_versions())


def test_different_config_is_named_by_field(add_process: Callable) -> None:
    add_process(lambda config: {**config, 'optimizer': {'learning_rate': 2.0}})
    (finding,) = preflight.check_config({'optimizer': {'learning_rate': 1.0}, 'seed': (0, 1)})
    assert finding.fatal and 'optimizer.learning_rate: 2.0 != 1.0' in finding.message


def test_equal_config_passes(add_process: Callable) -> None:
    add_process(lambda config: config)
    assert not preflight.check_config({'seed': (0, 1)})[0].fatal


def test_different_data_is_named_by_stream(add_process: Callable) -> None:
    add_process(lambda data: {**data, 'captions': 'other'})
    findings = preflight.check_data({'captions': make_stream()}, 'hash')
    assert [finding.fatal for finding in findings] == [True, False]
    assert "captions: 'other' != 'abc'" in findings[0].message


def test_stream_smaller_than_batch_is_refused(add_process: Callable) -> None:
    add_process(lambda data: data)
    findings = preflight.check_data({'captions': make_stream(examples=15)}, 'hash')
    assert findings[-1].fatal and '15 examples' in findings[-1].message
    assert 'batch_size' in findings[-1].advice


def test_stream_of_one_batch_passes(add_process: Callable) -> None:
    add_process(lambda data: data)
    findings = preflight.check_data({'captions': make_stream(examples=16)}, 'hash')
    assert not any(finding.fatal for finding in findings)


def test_different_number_of_devices_is_named(add_process: Callable) -> None:
    add_process(lambda devices: {**devices, 'number': 4})
    (finding,) = preflight.check_devices(MeshShape())
    assert finding.fatal and 'number: 4 != 8' in finding.message


def test_devices_of_a_run_are_described() -> None:
    (finding,) = preflight.check_devices(MeshShape(data=4, tensor=2))
    assert not finding.fatal and finding.message.startswith('8 cpu; data=4, tensor=2; cpu; ')


def test_mesh_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match='does not fit 8 devices'):
        preflight.check_devices(MeshShape(data=3))


def test_workdir_on_another_disk_is_refused(add_process: Callable, tmp_path: Path) -> None:
    add_process(lambda value: False if value is True else value)
    (finding,) = preflight.check_workdir(tmp_path / 'run', 1000)
    assert finding.fatal and 'process 1 is another folder' in finding.message
    assert not list((tmp_path / 'run').glob('.token*'))


def test_shared_workdir_passes(add_process: Callable, tmp_path: Path) -> None:
    add_process(lambda value: value)
    assert not preflight.check_workdir(tmp_path / 'run', 1000)[0].advice


def test_full_disk_is_a_warning(add_process: Callable, tmp_path: Path) -> None:
    add_process(lambda value: value)
    (finding,) = preflight.check_workdir(tmp_path / 'run', 10**15)
    assert not finding.fatal and 'Make room' in finding.advice


def test_second_training_in_a_workdir_is_refused(tmp_path: Path) -> None:
    with preflight.WorkdirLock(tmp_path), pytest.raises(UserError, match='Another training runs'):
        preflight.WorkdirLock(tmp_path)


def test_released_lock_can_be_taken_again(tmp_path: Path) -> None:
    for _ in range(2):
        with preflight.WorkdirLock(tmp_path):
            pass


def test_failed_check_does_not_stop_the_others() -> None:
    def fail() -> list:
        raise UserError('no data')

    findings = preflight.collect_findings(
        {'a': fail, 'b': lambda: [preflight.Finding('b', 'fine')]}
    )
    assert [(finding.check, finding.fatal) for finding in findings] == [('a', True), ('b', False)]
