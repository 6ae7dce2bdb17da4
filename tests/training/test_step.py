"""The training step on streams of plain arrays: devices, dtypes, shardings, the clamp, dropout."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from training.batches import (
    NO_DROPOUT,
    VOCABULARY_SIZE,
    assert_close,
    first_batches,
    make_streams,
    make_trainer,
    run_first_step,
)

from mural_jax.config.load import load_config
from mural_jax.runs.run import Run
from mural_jax.training.step import Clamp, train_step
from mural_jax.training.trainer import Trainer
from mural_jax.types import UserError


def test_eight_devices_equal_one() -> None:
    """Loss, every log and every parameter after a step; batch norm sees the global batch."""
    state, logs = run_first_step(*NO_DROPOUT)
    assert len(jax.tree.leaves(state.params)[0].sharding.device_set) == 8
    trainer, first = make_trainer(*NO_DROPOUT)
    one_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    inputs = {
        name: {k: v for k, v in batch.items() if k != 'origin'} | {'index': np.arange(16)}
        for name, batch in first_batches().items()
    }
    one, one_logs = train_step(
        trainer.spec,
        np.uint32(0),
        jax.device_put(first, one_device),
        jax.device_put(inputs, one_device),
    )
    assert_close(logs, one_logs, rtol=2e-4)
    assert_close(state.statistics, one.statistics, rtol=1e-4, atol=1e-5)
    # Adam's first step is the sign of the gradient: a tiny one may differ by twice the rate.
    pair = jax.device_get((state.params, one.params))
    for a, b in zip(*map(jax.tree.leaves, pair), strict=True):
        assert np.mean(np.abs(a - b) > 1e-5) < 0.01


def test_two_steps_move_every_parameter() -> None:
    trainer, state = make_trainer()
    before = jax.device_get(state.params)
    for step in range(2):
        batches = {
            name: next(iter(make_streams()[name].batches(16 * step, 1))) for name in trainer.streams
        }
        state, logs = trainer.step(state, batches)
    assert np.isfinite(logs['loss'])
    assert int(state.step) == 2
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.params))
    assert jax.tree.all(moved), moved


def test_bfloat16_computes_and_float32_keeps() -> None:
    """Losses near those of float32; parameters, embeddings and losses stay float32."""
    state, logs = run_first_step('--config.model.dtype=bfloat16', *NO_DROPOUT)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype('float32')}
    assert logs['loss'].dtype == jnp.float32
    _, exact = run_first_step(*NO_DROPOUT)
    assert float(logs['loss']) != float(exact['loss'])
    np.testing.assert_allclose(logs['loss'], exact['loss'], rtol=0.02)


def test_sharding_rules_of_the_config_shard_parameters_and_moments() -> None:
    config = load_config('emoji:tiny', ['--config.mesh.fsdp=4', *NO_DROPOUT])
    config['sharding'] = (('token_VD', (None, 'fsdp')), ('up/kernel', (None, None, 'fsdp')))
    run = Run.of(config)
    graphdef, params, statistics = run.build_model(VOCABULARY_SIZE)
    state = run.build_trainer(graphdef, params).initial_state(params, statistics)
    for tree in (state.params, state.optimizer[1].mu):
        table = tree['towers']['text']['token_VD']
        assert table.addressable_shards[0].data.shape == (VOCABULARY_SIZE, 32 // 4)


def test_mesh_alone_shards_parameters_and_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step gives the logs of an unsharded one, and leaves every array where it was."""
    _, logs = run_first_step(*NO_DROPOUT)
    monkeypatch.setattr('mural_jax.distributed.mesh.SMALLEST_SPLIT', 64)
    trainer, state = make_trainer('--config.mesh.fsdp=2', '--config.mesh.tensor=2', *NO_DROPOUT)
    places = jax.tree.map(lambda x: x.sharding, state)
    state, sharded_logs = trainer.step(state, first_batches())
    assert_close(logs, sharded_logs, rtol=2e-4)
    assert jax.tree.map(lambda x: x.sharding, state) == places
    compiled = train_step._cache_size()
    state, _ = trainer.step(state, first_batches())
    assert train_step._cache_size() == compiled
    kernel = state.params['towers']['text']['stack']['blocks']['mlp']['up']['kernel']
    parts = math.prod(trainer.mesh.shape[axis] for axis in kernel.sharding.spec if axis)
    assert kernel.addressable_shards[0].data.size * parts == kernel.size
    assert not kernel.is_fully_replicated
    moment = state.optimizer[1].mu['towers']['text']['stack']['blocks']['mlp']['up']['kernel']
    assert moment.sharding == kernel.sharding


def test_offloaded_bfloat16_moments_give_the_same_step_in_less_memory() -> None:
    state, logs = run_first_step()
    other, other_logs = run_first_step(
        '--config.optimizer.offload=True', '--config.optimizer.momentum_dtype=bfloat16'
    )
    kinds = {leaf.sharding.memory_kind for leaf in jax.tree.leaves(other.optimizer)}
    assert kinds == {'pinned_host'}
    assert_close(logs, other_logs, rtol=1e-5)
    assert_close(state.params, other.params, atol=1e-4)
    sizes = [sum(x.nbytes for x in jax.tree.leaves(s.optimizer)) for s in (state, other)]
    assert sizes[1] < 0.8 * sizes[0]


def test_batch_that_does_not_split_over_the_devices_is_refused() -> None:
    with pytest.raises(UserError, match='batch_size=12'):
        make_trainer('--config.streams.captions.batch_size=12')


def test_batch_that_does_not_split_into_microbatches_is_refused() -> None:
    with pytest.raises(UserError, match='4 microbatches'):
        make_trainer('--config.microbatches=4')


def test_clamped_temperature_still_has_a_gradient() -> None:
    trainer, state = make_trainer('--config.clamp.lowest=0.05', '--config.clamp.highest=0.05001')
    for _ in range(2):
        state, logs = trainer.step(state, first_batches())
    np.testing.assert_allclose(logs['image_text/temperature'], 0.05, rtol=1e-3)
    moment = state.optimizer[1].mu['spaces']['image_text']['log_temperature']
    assert float(jnp.abs(moment)) > 0


def test_clamp_comes_from_the_config() -> None:
    overrides = ['--config.clamp.lowest=0.02', '--config.clamp.highest=0.5']
    assert Run.of(load_config('emoji:tiny', overrides)).clamp == Clamp(0.02, 0.5)


def test_task_of_weight_zero_changes_nothing() -> None:
    """Its head's temperature stays as it was, and the loss is that of the other task."""
    trainer, first = make_trainer('--config.tasks.text_text.weight=0.0')
    before = jax.device_get(first.params)
    state, logs = trainer.step(first, first_batches())
    temperatures = [
        params['spaces']['text_text']['log_temperature'] for params in (before, state.params)
    ]
    assert_close(*temperatures)
    np.testing.assert_allclose(logs['loss'], logs['image_text/loss'], rtol=1e-6)


def test_dropout_is_a_function_of_seed_and_step() -> None:
    def compute_loss(seed: int) -> float:
        trainer, state = make_trainer()
        trainer = Trainer(trainer.spec, seed, trainer.mesh)
        return float(trainer.step(state, first_batches())[1]['loss'])

    assert compute_loss(0) == compute_loss(0)
    assert compute_loss(0) != compute_loss(1)
