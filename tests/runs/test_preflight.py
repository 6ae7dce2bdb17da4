"""Each check before a run, made to fail; and `mural doctor`."""

import re
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import mural

from mural_jax.distributed import processes
from mural_jax.runs import preflight
from mural_jax.types import UserError


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], Any]], None]:
    """Gives this process a second one, whose values are those of this one, changed."""

    def give(change: Callable[[Any], Any]) -> None:
        monkeypatch.setattr(processes, 'exchange', lambda name, value: [value, change(value)])

    return give


def stream(examples: int = 100, batch_size: int = 16, data: str = 'abc') -> Any:
    pool = types.SimpleNamespace(sizes=np.array([examples - 10, 10]))
    return types.SimpleNamespace(batch_size=batch_size, mixture={'data': data}, pool=pool)


def test_other_versions_are_named(second: Callable) -> None:
    second(lambda versions: {**versions, 'jax': '0.1.2'})
    (finding,) = preflight.same_programs()
    assert finding.fatal and 'process 1' in finding.said and "'0.1.2'" in finding.said
    with pytest.raises(UserError, match='Install the same versions'):
        preflight.require([finding])


def test_another_config_is_named_by_field(second: Callable) -> None:
    second(lambda config: {**config, 'optimizer': {'learning_rate': 2.0}})
    (finding,) = preflight.same_config({'optimizer': {'learning_rate': 1.0}, 'seed': (0, 1)})
    assert finding.fatal and 'optimizer.learning_rate: 2.0 != 1.0' in finding.said
    second(lambda config: config)
    assert not preflight.same_config({'seed': (0, 1)})[0].fatal


def test_other_data_and_too_little_are_named(second: Callable) -> None:
    second(lambda data: {**data, 'captions': 'other'})
    found = preflight.same_data({'captions': stream()}, 'hash')
    assert [f.fatal for f in found] == [True, False]
    assert "captions: 'other' != 'abc'" in found[0].said
    second(lambda data: data)
    found = preflight.same_data({'captions': stream(examples=15)}, 'hash')
    assert found[-1].fatal and '15 examples' in found[-1].said
    assert 'batch_size' in found[-1].advice
    assert not any(f.fatal for f in preflight.same_data({'captions': stream(examples=16)}, 'hash'))


def test_other_devices_are_named(second: Callable) -> None:
    second(lambda devices: {**devices, 'number': 4})
    (finding,) = preflight.same_devices()
    assert finding.fatal and 'number: 4 != 8' in finding.said


def test_another_folder_is_named(second: Callable, tmp_path: Path) -> None:
    second(lambda value: False if value is True else value)
    (finding,) = preflight.one_folder(tmp_path / 'run', 1000)
    assert finding.fatal and 'process 1 is another folder' in finding.said
    assert not list((tmp_path / 'run').glob('.token*'))
    second(lambda value: value)
    assert not preflight.one_folder(tmp_path / 'run', 1000)[0].advice
    (finding,) = preflight.one_folder(tmp_path / 'run', 10**15)
    assert not finding.fatal and 'Make room' in finding.advice


def test_the_lock_is_free_again(tmp_path: Path) -> None:
    with preflight.Lock(tmp_path), pytest.raises(UserError, match='Another training runs'):
        preflight.Lock(tmp_path)
    with preflight.Lock(tmp_path):
        pass


def test_one_failure_does_not_hide_the_others() -> None:
    def fails() -> list:
        raise UserError('no data')

    found = preflight.collect({'a': fails, 'b': lambda: [preflight.Finding('b', 'fine')]})
    assert [(f.check, f.fatal) for f in found] == [('a', True), ('b', False)]


def test_doctor(data_dir: Path, workdir: Path, tmp_path: Path) -> None:
    new = tmp_path / 'new'
    done = mural('doctor', '--config=emoji:tiny', f'--data_dir={data_dir}', f'--workdir={new}')
    assert done.returncode == 0, done.stderr
    for check in ('versions', 'config', 'devices', 'data', 'workdir'):
        assert check in done.stdout
    assert not new.exists()
    done = mural('doctor', '--config=emoji:mural', f'--data_dir={tmp_path}', f'--workdir={workdir}')
    assert done.returncode == 2
    table = ' '.join(re.sub('[│┃]', ' ', done.stdout).split())
    assert 'mural prepare' in table and 'belongs to a run of another config' in table
    assert 'Not ready: data, workdir' in done.stderr
