"""`mural plan` on the command line, and mistakes in the flags of `plan` and `bench`."""

import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import jax
import pytest
from conftest import mural, once

from mural_jax.config.load import load_config
from mural_jax.runs.run import Run

GIB = 2**30
CLIP_ON_TWO_CPUS = (
    'plan',
    '--config=clip:tiny',
    '--topology=cpu:2',
    '--config.mesh.data=2',
    '--config.streams.captions.batch_size=256',
)


def write_plans(factory: pytest.TempPathFactory, name: str, *words: str) -> list[dict[str, Any]]:
    """The plans that a command writes. Several processes of the tests share one run of it."""

    def make(folder: Path) -> None:
        done = mural(*words, f'--json={folder / "plan.json"}')
        assert done.returncode == 0, done.stderr

    return json.loads((once(factory, name, make) / 'plan.json').read_text())['tried']


@pytest.fixture(scope='module')
def emoji_plan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The plan of `emoji:tiny` for eight CPUs."""
    words = ('plan', '--config=emoji:tiny', '--topology=cpu:8')
    (plan,) = write_plans(tmp_path_factory, 'plan-emoji', *words)
    return plan


@pytest.fixture(scope='module')
def parameter_bytes() -> int:
    """Size of the parameters of `emoji:tiny`."""
    run = Run.of(load_config('emoji:tiny', []))
    _, params, _ = run.build_model(run.tokenizer.vocab_size, abstract=True)
    return 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.fixture(scope='module')
def needed_gib(tmp_path_factory: pytest.TempPathFactory) -> float:
    """Memory that a step of `clip:tiny` takes on each of two CPUs."""
    return write_plans(tmp_path_factory, 'plan-clip', *CLIP_ON_TWO_CPUS)[0]['needed'] / GIB


def test_parameters_and_optimizer_have_their_exact_size(
    emoji_plan: dict[str, Any], parameter_bytes: int
) -> None:
    assert emoji_plan['parts']['parameters'] == parameter_bytes
    assert emoji_plan['parts']['optimizer'] >= 2 * parameter_bytes


def test_mesh_spans_the_devices_of_the_topology(emoji_plan: dict[str, Any]) -> None:
    assert emoji_plan['devices'] == 8
    assert emoji_plan['mesh'] == {'data': 8, 'fsdp': 1, 'tensor': 1}


def test_tiny_step_fits(emoji_plan: dict[str, Any]) -> None:
    assert emoji_plan['fits'] and emoji_plan['needed'] < emoji_plan['capacity']


def test_gradient_is_summed_over_devices(emoji_plan: dict[str, Any], parameter_bytes: int) -> None:
    assert emoji_plan['collectives']['all-reduce']['bytes'] >= parameter_bytes


def test_negatives_are_the_rest_of_the_global_batch(emoji_plan: dict[str, Any]) -> None:
    assert emoji_plan['negatives'] == {'image_text': 15, 'text_text': 15}


def test_step_that_does_not_fit_exits_1_with_proposals(needed_gib: float) -> None:
    done = mural(*CLIP_ON_TWO_CPUS, f'--memory_gib={0.6 * needed_gib}')
    assert done.returncode == 1, done.stdout
    assert 'does not fit' in done.stdout and '--config.' in done.stdout


def test_search_ends_with_settings_that_fit(needed_gib: float, tmp_path: Path) -> None:
    out = tmp_path / 'plan.json'
    done = mural(*CLIP_ON_TWO_CPUS, f'--memory_gib={0.6 * needed_gib}', '--search', f'--json={out}')
    assert done.returncode == 0, done.stdout
    *_, last = json.loads(out.read_text())['tried']
    assert last['settings'] and last['fits'] and last['needed'] <= 0.6 * needed_gib * GIB


@pytest.mark.parametrize(
    ('topology', 'message'),
    [('cpu:0', 'how many'), ('gpu', 'GPUs of this machine'), ('v9:2x2', 'Examples')],
)
def test_unknown_topology_is_refused(topology: str, message: str) -> None:
    if topology[0] == 'v' and importlib.util.find_spec('libtpu') is None:
        message = 'libtpu'
    done = mural('plan', '--config=emoji:tiny', f'--topology={topology}')
    assert done.returncode == 2
    assert message in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('plan --topology=cpu:1 --memory_gib=0', '--memory_gib'),
        ('plan --topology=cpu:1 --json=/proc/nowhere/x.json', '--json'),
        ('bench --json=/proc/nowhere/x.json', '--json'),
        ('bench --data_dir=/proc/nowhere', 'mural prepare'),
        ('plan --topology=cpu:3', 'one for each device'),
    ],
)
def test_mistake_in_flags_is_named_before_compiling(words: str, message: str) -> None:
    verb, *rest = words.split()
    done = mural(verb, '--config=emoji:tiny', *rest)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and 'Traceback' not in done.stderr


def test_plan_for_tpus_needs_no_tpu(tmp_path: Path) -> None:
    if importlib.util.find_spec('libtpu') is None:
        pytest.skip("pip install 'mural-jax[tpu]'")
    out = tmp_path / 'plan.json'
    done = mural('plan', '--config=emoji:tiny', '--topology=v5e:2x2', f'--json={out}')
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(out.read_text())['tried']
    assert plan['device_kind'] == 'TPU v5 lite' and plan['devices'] == 4
    assert plan['pairs_per_second'] > 0 and set(plan['bounds']) >= {'computation', 'memory'}
