"""What a device holds during a step: exact for what goes in, estimated for what is kept."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.extend.core
import numpy as np

from mural_jax.distributed.mesh import BATCH_AXES, batch_sharding
from mural_jax.planning.program import compile_or_need
from mural_jax.runs.run import Run
from mural_jax.training import step as training_step
from mural_jax.training.gradients import Loss
from mural_jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class Parts:
    """Bytes on one device. The first four are exact.

    gradient: of all parameters that learn. activations: what the backward pass of one microbatch
    keeps, an estimate from the trace. loss: temporaries of the loss and of its gradient by the
    embeddings, compiled alone for the whole batch.
    """

    parameters: int
    optimizer: int
    rest: int
    batch: int
    gradient: int
    activations: int
    loss: int

    @property
    def arguments(self) -> int:
        return self.parameters + self.optimizer + self.rest + self.batch

    def temporaries(self, microbatches: int) -> int:
        """Estimate of what a step needs besides: with microbatches the loss is over before
        anything is kept."""
        if microbatches > 1:
            return self.gradient + max(self.activations, self.loss)
        return max(self.gradient, self.activations + self.loss)


class Abstract:
    """A run's model, trainer and shapes on devices, without arrays."""

    def __init__(self, config: Mapping[str, Any], devices: list[Any]):
        """Raises UserError where the config is wrong or does not fit the devices."""
        self.run = Run.of(config)
        self.model = self.run.build_model(self.run.tokenizer.vocab_size, abstract=True)
        graphdef, params, statistics = self.model
        self.trainer: Trainer = self.run.build_trainer(graphdef, params, devices=devices)
        self.state = self.trainer.abstract(params, statistics)
        self.batches = self.run.batch_shapes()

    @property
    def batch_devices(self) -> int:
        """Devices that a batch is cut over."""
        return math.prod(self.trainer.mesh.shape[axis] for axis in BATCH_AXES)

    @property
    def pairs(self) -> int:
        """Examples of all streams in one step."""
        return sum(len_of(batch) for batch in self.batches.values())

    @functools.cached_property
    def traced(self) -> Any:
        """The step's trace, `jax.stages.Traced`."""
        placed = self.placed_batches()
        seed = jax.ShapeDtypeStruct((), np.uint32)
        with jax.set_mesh(self.trainer.mesh):
            return training_step.train_step.trace(self.trainer.fixed, seed, self.state, placed)

    def placed_batches(self) -> Any:
        """The shapes of the global batches, with where they live."""
        sharding = batch_sharding(self.trainer.mesh)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), self.batches
        )

    def loss(self, key: Any, statistics: Any) -> Loss:
        """The loss of a step."""
        fixed = self.trainer.fixed
        return Loss(
            fixed.graphdef, dict(fixed.tasks), fixed.frozen, fixed.locked,
            statistics,
            key,
        )  # fmt: skip


def len_of(batch: Mapping[str, Any]) -> int:
    """Examples of a batch."""
    return batch['ids'].shape[0]


def bytes_on_device(tree: Any) -> int:
    """Bytes of a tree of placed shapes on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def parts_of(abstract: Abstract) -> Parts:
    """What is where in a step; compiles the loss."""
    state, trainer = abstract.state, abstract.trainer
    frozen = trainer.fixed.frozen
    learning = [
        leaf for path, leaf in jax.tree.leaves_with_path(state.params)
        if jax.tree_util.keystr(path, simple=True, separator='/') not in frozen
    ]  # fmt: skip
    sizes = {
        name: len_of(batch) // abstract.batch_devices // trainer.fixed.microbatches
        for name, batch in abstract.batches.items()
    }
    on_host = trainer.fixed.offload
    return Parts(
        parameters=bytes_on_device(state.params),
        optimizer=0 if on_host else bytes_on_device(state.optimizer),
        rest=bytes_on_device((state.statistics, state.usual, state.step)),
        batch=bytes_on_device(abstract.placed_batches()),
        gradient=bytes_on_device(learning),
        activations=kept_bytes(abstract, sizes),
        loss=loss_bytes(abstract),
    )


def kept_bytes(abstract: Abstract, sizes: Mapping[str, int]) -> int:
    """Bytes that are kept from the forward pass for the backward pass, of batches of these sizes.

    Read from the trace of `jax.vjp` on one device: its residuals, less those that are arguments.
    What the compiler fuses away, pads and copies is not in it.
    """
    batches = {
        name: jax.tree.map(
            lambda x, size=sizes[name]: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), batch
        )
        for name, batch in abstract.batches.items()
    }

    def kept(params: Any, statistics: Any, batches: Any, seed: Any) -> list[Any]:
        loss = abstract.loss(jax.random.key(seed), statistics)
        _, back = jax.vjp(lambda params: loss.embed(params, batches)[0], params)
        return jax.tree.leaves(back)

    seed = jax.ShapeDtypeStruct((), np.uint32)
    jaxpr = jax.make_jaxpr(kept)(*abstract.model[1:], batches, seed).jaxpr
    given = {*jaxpr.invars, *jaxpr.constvars}
    outputs = {var for var in jaxpr.outvars if isinstance(var, jax.extend.core.Var)} - given
    avals: list[Any] = [var.aval for var in outputs]
    # A key has no size of its own: two words of 32 bits.
    held = [math.prod(aval.shape) * getattr(aval.dtype, 'itemsize', 8) for aval in avals]
    return sum(held)


def loss_bytes(abstract: Abstract) -> int:
    """Temporaries on one device of the loss alone: value and gradient by the embeddings.

    What the compiler says it would need, where that is more than there is.
    """
    params = abstract.state.params
    sharding = batch_sharding(abstract.trainer.mesh)

    def embed(params: Any, statistics: Any, batches: Any) -> Any:
        return abstract.loss(jax.random.key(0), statistics).embed(params, batches)[0]

    embedded = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(embed, *abstract.model[1:], abstract.batches),
    )

    def compare(params: Any, embedded: Any, batches: Any) -> Any:
        loss = abstract.loss(jax.random.key(0), abstract.model[2])
        return jax.value_and_grad(loss.compare, argnums=(0, 1), has_aux=True)(
            params, embedded, batches
        )

    with jax.set_mesh(abstract.trainer.mesh):
        lowered = jax.jit(compare).lower(params, embedded, abstract.placed_batches())
    compiled, need = compile_or_need(lowered)
    return int(compiled.memory_analysis().temp_size_in_bytes if compiled else need.bytes)
