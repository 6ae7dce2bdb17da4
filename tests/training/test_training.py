"""The step, the optimizer, the checkpoints and the loop, on streams of plain arrays."""

import json
import math
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from training.batches import (
    NO_DROPOUT,
    VOCABULARY,
    close,
    one_step,
    run_loop,
    step_of,
    streams,
    trainer,
    without_timings,
)

from mural_jax.config.load import load_config
from mural_jax.distributed.mesh import MeshShape, default_axes, global_batch
from mural_jax.runs.run import Run
from mural_jax.training.optimizers import Optimizer, first_match
from mural_jax.training.step import Clamp, train_step
from mural_jax.types import Batch, UserError
from mural_jax.workdir import metrics
from mural_jax.workdir.checkpoints import Checkpoints


def test_eight_devices_equal_one() -> None:
    """Loss, every log and every parameter after a step; batch norm sees the global batch."""
    state, logs = one_step(*NO_DROPOUT)
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == 8
    built, first = trainer(*NO_DROPOUT)
    alone = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    batches = {name: next(iter(s.batches(0, 1))) for name, s in streams().items()}
    inputs = {
        name: {k: v for k, v in batch.items() if k != 'origin'} | {'index': np.arange(16)}
        for name, batch in batches.items()
    }
    one, one_logs = train_step(
        built.fixed, np.uint32(0), jax.device_put(first, alone), jax.device_put(inputs, alone)
    )
    close(logs, one_logs, rtol=2e-4)
    close(state.statistics, one.statistics, rtol=1e-4, atol=1e-5)
    # Adam's first step is the sign of the gradient: a tiny one may differ by twice the rate.
    pair = jax.device_get((state.params, one.params))
    for a, b in zip(*map(jax.tree.leaves, pair), strict=True):
        assert np.mean(np.abs(a - b) > 1e-5) < 0.01


# The arm `shuffled` is `mural` with other data.
@pytest.mark.parametrize('arm', ['mural', 'align'])
def test_every_arm_takes_two_steps(arm: str) -> None:
    built, state = trainer(arm=arm)
    before = jax.device_get(state.params)
    for step in range(2):
        batches = {
            task.stream: next(iter(streams()[task.stream].batches(16 * step, 1)))
            for task in built.tasks.values()
        }
        state, logs = built.step(state, batches)
    assert np.isfinite(logs['loss'])
    assert int(state.step) == 2
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.params))
    assert jax.tree.all(moved), moved


def test_bfloat16_computes_and_float32_keeps() -> None:
    """Losses near those of float32; parameters, embeddings and losses stay float32."""
    state, logs = one_step('--config.model.dtype=bfloat16', *NO_DROPOUT)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype('float32')}
    assert logs['loss'].dtype == jnp.float32
    _, exact = one_step(*NO_DROPOUT)
    assert float(logs['loss']) != float(exact['loss'])
    np.testing.assert_allclose(logs['loss'], exact['loss'], rtol=0.02)


def test_rules_say_where_arrays_live() -> None:
    rules = '--config.mesh.fsdp=4'
    run_config = load_config('emoji:tiny', [rules, *NO_DROPOUT])
    run_config['sharding'] = (('token_VD', (None, 'fsdp')), ('up/kernel', (None, None, 'fsdp')))
    run = Run.of(run_config)
    graphdef, params, statistics = run.build_model(VOCABULARY)
    built = run.build_trainer(graphdef, params)
    state = built.place(params, statistics)
    for tree in (state.params, state.optimizer[1].mu):
        table = tree['towers']['text']['token_VD']
        assert table.addressable_shards[0].data.shape == (VOCABULARY, 32 // 4)


def test_one_number_splits_parameters_and_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP and tensor parallelism by the mesh alone; a step gives what it gives without, and
    leaves every array where it was."""
    whole, logs = one_step('--config.tasks.image_text.objective.label_smoothing=0.0')
    monkeypatch.setattr('mural_jax.distributed.mesh.SMALLEST_SPLIT', 64)
    for mesh in (('fsdp=8', 'data=1'), ('fsdp=2', 'tensor=2')):
        flags = [f'--config.mesh.{axis}' for axis in mesh]
        built, state = trainer(*flags, '--config.tasks.image_text.objective.label_smoothing=0.0')
        places = jax.tree.map(lambda x: x.sharding, state)
        state, split_logs = step_of(built, state)
        close(logs, split_logs, rtol=2e-4)
        assert jax.tree.map(lambda x: x.sharding, state) == places
        compiled = train_step._cache_size()
        state, _ = step_of(built, state)
        assert train_step._cache_size() == compiled
        kernel = state.params['towers']['text']['stack']['blocks']['mlp']['up']['kernel']
        assert kernel.addressable_shards[0].data.size * math.prod(
            built.mesh.shape[axis] for axis in kernel.sharding.spec if axis
        ) == kernel.size  # fmt: skip
        assert not kernel.is_fully_replicated
        moment = state.optimizer[1].mu['towers']['text']['stack']['blocks']['mlp']['up']['kernel']
        assert moment.sharding == kernel.sharding


def test_layers_are_split_by_heads_and_units() -> None:
    sizes = {'data': 1, 'fsdp': 4, 'tensor': 2}

    def axes(name: str, *shape: int) -> list:
        return default_axes(f'towers/text/stack/blocks/{name}', shape, sizes)

    assert axes('attention/qkv/kernel', 12, 768, 3, 768) == [None, 'fsdp', None, 'tensor']
    assert axes('attention/out/kernel', 12, 768, 768) == [None, 'tensor', 'fsdp']
    assert axes('mlp/up/kernel', 12, 768, 3072) == [None, 'fsdp', 'tensor']
    assert axes('mlp/down/kernel', 12, 3072, 768) == [None, 'tensor', 'fsdp']
    assert axes('mlp_norm/scale', 12, 768) == [None, None]
    # What an axis does not divide stays whole along it.
    assert axes('mlp/up/kernel', 12, 770, 3071) == [None, None, None]
    assert default_axes('towers/text/token_VD', (250001, 768), sizes) == [None, 'fsdp']


@pytest.mark.parametrize('kind', ['adamw', 'adafactor'])
def test_the_optimizer_waits_on_the_host_and_takes_less(kind: str) -> None:
    """Moments in bfloat16, in the memory of the host: a step goes on as it would."""
    state, logs = one_step(f'--config.optimizer.kind={kind}')
    more = ('--config.optimizer.offload=True', '--config.optimizer.momentum_dtype=bfloat16')
    other, other_logs = one_step(f'--config.optimizer.kind={kind}', *more)
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(other.optimizer)}
    assert kinds == {'pinned_host'}
    close(logs, other_logs, rtol=1e-5)
    close(state.params, other.params, atol=1e-4)
    sizes = [sum(x.nbytes for x in jax.tree.leaves(s.optimizer)) for s in (state, other)]
    assert sizes[1] < 0.8 * sizes[0]


def test_a_mesh_that_does_not_fit_is_refused() -> None:
    with pytest.raises(UserError, match='8 devices'):
        MeshShape(data=3).build()
    with pytest.raises(UserError, match='batch_size=12'):
        trainer('--config.streams.captions.batch_size=12')
    with pytest.raises(UserError, match='4 microbatches'):
        trainer('--config.microbatches=4')


def test_a_clamped_temperature_comes_back() -> None:
    """Clamped after the update: at the bound there is still a gradient."""
    built, state = trainer('--config.clamp.lowest=0.05', '--config.clamp.highest=0.05001')
    batches = {name: next(iter(stream.batches(0, 1))) for name, stream in streams().items()}
    for _ in range(2):
        state, logs = built.step(state, batches)
    np.testing.assert_allclose(logs['image_text/temperature'], 0.05, rtol=1e-3)
    moment = state.optimizer[1].mu['log_temperature']['image_text']
    assert float(jnp.abs(moment)) > 0


def test_a_task_of_weight_zero_is_not_there() -> None:
    """The one-task limit: the other task's head and temperature stay as they were."""
    built, first = trainer('--config.tasks.text_text.weight=0.0')
    before = jax.device_get(first.params)
    batches = {name: next(iter(stream.batches(0, 1))) for name, stream in streams().items()}
    state, logs = built.step(first, batches)
    close(before['log_temperature']['text_text'], state.params['log_temperature']['text_text'])
    np.testing.assert_allclose(logs['loss'], logs['image_text/loss'], rtol=1e-6)


def test_dropout_is_a_function_of_the_step() -> None:
    same, other = (one_step()[1]['loss'] for _ in range(2)), one_step('--config.seed=1')[1]['loss']
    first, second = same
    assert float(first) == float(second)
    assert float(first) != float(other)


def test_decay_and_multipliers_go_by_the_first_pattern() -> None:
    params = {
        'a': {'kernel': jnp.ones((2, 2)), 'bias': jnp.ones(2)},
        'b': {'kernel': jnp.ones((2, 2))},
    }
    zero = jax.tree.map(jnp.zeros_like, params)
    spec = Optimizer(
        'adamw', 0.1, 0, weight_decay=(('bias', 0.0), ('a/', 0.5)), multipliers=(('b/', 0.0),)
    )
    optimizer = spec.build(10)
    update, _ = optimizer.update(zero, optimizer.init(params), params)
    np.testing.assert_allclose(update['a']['kernel'], -0.05)
    np.testing.assert_allclose(update['a']['bias'], 0)
    ones = jax.tree.map(jnp.ones_like, params)
    update, _ = optimizer.update(ones, optimizer.init(params), params)
    np.testing.assert_allclose(update['b']['kernel'], 0)
    assert first_match((('k', 1.0), ('ker', 2.0)), 'kernel') == 1.0
    assert first_match((('x', 1.0),), 'kernel') is None


@pytest.mark.parametrize('kind', ['adamw', 'lamb', 'adafactor'])
def test_optimizers_find_the_bottom(kind: str) -> None:
    target = jnp.arange(6.0).reshape(2, 3)
    optimizer = Optimizer(kind, 0.1, 5, decay='linear').build(300)
    params = {'x': jnp.ones((2, 3))}
    state = optimizer.init(params)
    for _ in range(300):
        gradient = {'x': params['x'] - target}
        update, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, update)
    assert float(jnp.abs(params['x'] - target).max()) < 0.3


def test_the_schedule_rises_and_falls() -> None:
    for decay in ('linear', 'cosine'):
        rate = Optimizer('adamw', 1e-3, 10, decay=decay).schedule(100)
        assert float(rate(0)) == 0
        assert float(rate(10)) == pytest.approx(1e-3)
        assert float(rate(55)) == pytest.approx(5e-4)
        assert float(rate(100)) == pytest.approx(0, abs=1e-9)


def test_resume_is_exact_bit_for_bit(tmp_path: Path) -> None:
    """Stopped after 8 of 12 steps, with dropout on, and started again."""
    whole = run_loop(tmp_path / 'whole')
    halted = streams()
    real = halted['captions'].batches

    def stops(first: int, *rest: int) -> Iterator[Batch]:
        for step, batch in enumerate(real(first, *rest), first):
            if step == 9:
                raise KeyboardInterrupt
            yield batch

    halted['captions'].batches = stops
    with pytest.raises(KeyboardInterrupt):
        run_loop(tmp_path / 'parts', given=halted)
    again = run_loop(tmp_path / 'parts')
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(a, b)
    assert without_timings(tmp_path / 'whole') == without_timings(tmp_path / 'parts')
    assert [line['step'] for line in metrics.read(tmp_path / 'parts')] == [2, 4, 6, 8, 10, 12]


def test_a_checkpoint_holds_one_integer_a_stream(tmp_path: Path) -> None:
    run_loop(tmp_path)
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps == [8, 12]
    about = checkpoints.about(12)
    assert about['positions'] == {'captions': 192, 'translations': 192}
    assert sum(about['counts']['captions']) == 192
    with pytest.raises(UserError, match='step 5'):
        checkpoints.choose(5)
    checkpoints.close()


def test_a_half_written_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / 'metrics.jsonl'
    lines = [json.dumps({'step': step, 'loss': 1.0}) for step in (2, 4, 6)]
    path.write_text('\n'.join(lines) + '\n{"step": 8, "lo', encoding='utf-8')
    with metrics.Metrics(tmp_path, 4, 10):
        pass
    assert [line['step'] for line in metrics.read(tmp_path)] == [2, 4]


def test_the_clamp_is_what_the_config_says() -> None:
    run = Run.of(
        load_config('emoji:tiny', ['--config.clamp.lowest=0.02', '--config.clamp.highest=0.5'])
    )
    assert run.clamp == Clamp(0.02, 0.5)


def test_a_global_batch_is_cut_over_the_devices() -> None:
    mesh = MeshShape().build()
    batch = global_batch({'x': np.arange(16)}, mesh)
    assert batch['x'].addressable_shards[3].data.tolist() == [6, 7]
