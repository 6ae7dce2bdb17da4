"""What a step needs, by the command line; collectives and loops of compiled programs."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from conftest import mural
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from mural_jax.config.load import load_config
from mural_jax.planning import chips
from mural_jax.planning.program import work_of
from mural_jax.runs.run import Run
from mural_jax.types import UserError


def test_collectives_are_counted_through_loops() -> None:
    """A sum over eight devices in each of five turns, and one gathering after them."""
    mesh = jax.make_mesh((8,), ('data',), axis_types=(AxisType.Auto,))
    place = NamedSharding(mesh, PartitionSpec('data'))

    def program(x: jax.Array) -> jax.Array:
        def turn(x: jax.Array, _: None) -> tuple[jax.Array, None]:
            total = jax.lax.psum(jnp.sin(x), 'data')
            return x + total, None

        x, _ = jax.lax.scan(turn, x, None, length=5)
        return jax.lax.all_gather(x, 'data')

    cut = jax.shard_map(
        program, mesh=mesh, in_specs=PartitionSpec('data'), out_specs=PartitionSpec(),
        check_vma=False,
    )  # fmt: skip
    x = jax.ShapeDtypeStruct((8 * 16,), jnp.float32, sharding=place)
    work = work_of(jax.jit(cut).lower(x).compile().as_text())
    assert work.collectives['all-reduce'].count == 5
    assert work.collectives['all-reduce'].bytes == 5 * 16 * 4
    assert work.collectives['all-gather'].count == 1
    assert work.unknown_loops == 0
    assert work.traffic > 0


def test_a_plan_for_devices_that_are_not_there(tmp_path: Path) -> None:
    out = tmp_path / 'plan.json'
    done = mural('plan', '--config=emoji:tiny', '--topology=cpu:8', f'--json={out}')
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(out.read_text())['tried']
    run = Run.of(load_config('emoji:tiny', []))
    _, params, _ = run.build_model(run.tokenizer.vocab_size, abstract=True)
    size = 4 * sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))
    assert plan['parts']['parameters'] == size
    assert plan['parts']['optimizer'] >= 2 * size
    assert plan['devices'] == 8 and plan['mesh'] == {'data': 8, 'fsdp': 1, 'tensor': 1}
    assert plan['fits'] and plan['needed'] < plan['capacity']
    # The gradient is summed over the devices.
    assert plan['collectives']['all-reduce']['bytes'] >= size
    assert plan['negatives'] == {'image_text': 15, 'text_text': 15}


def test_what_does_not_fit_is_told_and_searched_for(tmp_path: Path) -> None:
    """A device of less memory than a step takes: exit code 1, and settings that would do."""
    words = ('plan', '--config=clip:tiny', '--topology=cpu:2', '--config.mesh.data=2',
             '--config.streams.captions.batch_size=256')  # fmt: skip
    out = tmp_path / 'plan.json'
    whole = mural(*words, f'--json={out}')
    assert whole.returncode == 0, whole.stderr
    needed = json.loads(out.read_text())['tried'][0]['needed'] / 2**30
    less = mural(*words, f'--memory_gib={0.6 * needed}')
    assert less.returncode == 1, less.stdout
    assert 'does not fit' in less.stdout and '--config.' in less.stdout
    found = mural(*words, f'--memory_gib={0.6 * needed}', '--search', f'--json={out}')
    assert found.returncode == 0, found.stdout
    *_, last = json.loads(out.read_text())['tried']
    assert last['settings'] and last['fits'] and last['needed'] <= 0.6 * needed * 2**30


@pytest.mark.parametrize(
    ('topology', 'message'),
    [('cpu:0', 'how many'), ('gpu', 'GPUs of this machine'), ('v9:2x2', 'Examples')],
)
def test_a_topology_that_is_none(topology: str, message: str) -> None:
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
def test_wrong_words_cost_no_compiling(words: str, message: str) -> None:
    verb, *rest = words.split()
    done = mural(verb, '--config=emoji:tiny', *rest)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr and 'Traceback' not in done.stderr


def test_a_pod_of_tpus_that_nobody_holds(tmp_path: Path) -> None:
    if importlib.util.find_spec('libtpu') is None:
        pytest.skip('libtpu is missing; the extra tpu installs it')
    out = tmp_path / 'plan.json'
    done = mural('plan', '--config=emoji:tiny', '--topology=v5e:2x2', f'--json={out}')
    assert done.returncode == 0, done.stderr
    (plan,) = json.loads(out.read_text())['tried']
    assert plan['device_kind'] == 'TPU v5 lite' and plan['devices'] == 4
    assert plan['pairs_per_second'] > 0 and set(plan['bounds']) >= {'computation', 'memory'}


def test_the_chip_table() -> None:
    assert chips.share_of_peak(98.5e12, 'TPU v5 lite') == pytest.approx(0.5)
    assert chips.share_of_peak(1e12, 'a chip of tomorrow') is None
    for chip in chips.CHIPS.values():
        assert chip.source and chip.flops > 1e14 / 2 and chip.memory > 1e10
    with pytest.raises(UserError, match='such as cpu:8'):
        chips.devices_of('cpu:x')


def test_bench_needs_no_tensorflow(tmp_path: Path) -> None:
    """Made-up batches, on a machine where nothing that reads data is installed."""
    out = tmp_path / 'bench.json'
    code = (
        'import sys\n'
        'for name in ("tensorflow", "tensorflow_datasets", "sentencepiece", "array_record"):\n'
        '    sys.modules[name] = None\n'
        'from mural_jax.__main__ import main\n'
        f'sys.exit(main(["bench", "--config=emoji:tiny", "--steps=4", "--json={out}"]))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 0, done.stderr
    numbers = json.loads(out.read_text())
    low, high = numbers['step_seconds_quartiles']
    assert 0 < low <= numbers['step_seconds'] <= high
    assert numbers['pairs_per_second'] == pytest.approx(32 / numbers['step_seconds'])
    assert numbers['compile_seconds'] > 0 and numbers['versions']['jax']
    assert 'data_wait_share' not in numbers and 'share_of_peak' not in numbers


def test_bench_waits_for_real_data(data_dir: Path) -> None:
    done = mural('bench', '--config=emoji:tiny', '--steps=4', f'--data_dir={data_dir}')
    assert done.returncode == 0, done.stderr
    assert 'wait for data' in done.stdout
    few = mural('bench', '--config=emoji:tiny', '--steps=1')
    assert few.returncode == 2 and 'at least 2' in few.stderr
