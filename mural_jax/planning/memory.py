"""Memory of one device during a step: exact for arguments, estimated for activations."""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.extend.core
import numpy as np

from mural_jax.distributed.mesh import BATCH_AXES, batch_sharding
from mural_jax.planning.compilation import compile_or_refusal
from mural_jax.runs.run import Run
from mural_jax.training import step as training_step
from mural_jax.training.gradients import Loss
from mural_jax.training.trainer import Trainer


@dataclasses.dataclass(frozen=True)
class MemoryParts:
    """Bytes on one device, by use. The first four are exact.

    parameters, optimizer, rest, batch: the arguments of a step; `rest` is batch statistics and
        counters, `optimizer` is 0 when its state is offloaded to the host.
    gradient: of all parameters that learn.
    activations: what the backward pass of one microbatch reads from its forward pass, an estimate
        from the trace.
    loss: temporaries of the loss and its gradient with respect to the embeddings, for the whole
        batch, compiled on their own.
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
        """Returns an estimate of the memory that a step needs beside its arguments."""
        if microbatches > 1:
            # The loss is finished before any activations are kept for the backward pass; the
            # accumulated gradient is there all the time.
            return self.gradient + max(self.activations, self.loss)
        # The backward pass frees activations as it produces the gradient, so only the larger of
        # the two counts.
        return max(self.gradient, self.activations + self.loss)


class AbstractRun:
    """The model, trainer and shapes of a run on given devices, without any arrays."""

    def __init__(self, config: Mapping[str, Any], devices: list[Any]):
        """Raises UserError if the config is invalid or does not fit the devices."""
        self.run = Run.of(config)
        self.model = self.run.build_model(self.run.tokenizer.vocab_size, abstract=True)
        graphdef, params, statistics = self.model
        self.trainer: Trainer = self.run.build_trainer(graphdef, params, devices=devices)
        self.state = self.trainer.abstract_state(params, statistics)
        self.batches = self.run.batch_shapes()

    @property
    def batch_devices(self) -> int:
        """Number of devices that share a batch."""
        return math.prod(self.trainer.mesh.shape[axis] for axis in BATCH_AXES)

    @property
    def pairs(self) -> int:
        """Number of examples in one step, over all streams."""
        return sum(count_examples(batch) for batch in self.batches.values())

    @functools.cached_property
    def traced(self) -> Any:
        """The trace of a step, a `jax.stages.Traced`."""
        placed = self.placed_batches()
        seed = jax.ShapeDtypeStruct((), np.uint32)
        with jax.set_mesh(self.trainer.mesh):
            return training_step.train_step.trace(self.trainer.spec, seed, self.state, placed)

    def placed_batches(self) -> Any:
        """Returns the shapes of the global batches with their shardings."""
        sharding = batch_sharding(self.trainer.mesh)
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), self.batches
        )

    def loss(self, key: Any, statistics: Any) -> Loss:
        """Returns the loss of a step."""
        spec, step = self.trainer.spec, np.int32(0)
        return Loss(
            spec.graphdef, dict(spec.tasks), spec.frozen, spec.locked, statistics, key, step
        )


def count_examples(batch: Mapping[str, Any]) -> int:
    """Returns the number of examples in a batch."""
    return batch['ids'].shape[0]


def count_device_bytes(tree: Any) -> int:
    """Returns the bytes that a tree of shapes with shardings takes on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def measure_parts(abstract: AbstractRun) -> MemoryParts:
    """Returns the memory of a step by use. Compiles the loss."""
    state, trainer = abstract.state, abstract.trainer
    frozen = trainer.spec.frozen
    trained_leaves = [
        leaf
        for path, leaf in jax.tree.leaves_with_path(state.params)
        if jax.tree_util.keystr(path, simple=True, separator='/') not in frozen
    ]
    # Examples of one microbatch on one device.
    sizes = {
        name: count_examples(batch) // abstract.batch_devices // trainer.spec.microbatches
        for name, batch in abstract.batches.items()
    }
    offloaded = trainer.spec.offload
    return MemoryParts(
        parameters=count_device_bytes(state.params),
        optimizer=0 if offloaded else count_device_bytes(state.optimizer),
        rest=count_device_bytes((state.statistics, state.usual_norm, state.step)),
        batch=count_device_bytes(abstract.placed_batches()),
        gradient=count_device_bytes(trained_leaves),
        activations=count_residual_bytes(abstract, sizes),
        loss=measure_loss_bytes(abstract),
    )


def count_residual_bytes(abstract: AbstractRun, sizes: Mapping[str, int]) -> int:
    """Returns the bytes that the forward pass keeps for the backward pass, on one device.

    sizes: examples of each stream's batch.

    The bytes are those of the residuals in the trace of `jax.vjp`, without residuals that are
    arguments. The estimate does not know what the compiler fuses away, pads or copies.
    """
    batches = {
        name: jax.tree.map(
            lambda x, size=sizes[name]: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), batch
        )
        for name, batch in abstract.batches.items()
    }

    def keep_residuals(params: Any, statistics: Any, batches: Any, seed: Any) -> list[Any]:
        loss = abstract.loss(jax.random.key(seed), statistics)
        _, backward = jax.vjp(lambda params: loss.embed(params, batches)[0], params)
        # A vjp function is a pytree, and its leaves are exactly the residuals.
        return jax.tree.leaves(backward)

    seed = jax.ShapeDtypeStruct((), np.uint32)
    jaxpr = jax.make_jaxpr(keep_residuals)(*abstract.model[1:], batches, seed).jaxpr
    arguments = {*jaxpr.invars, *jaxpr.constvars}
    # A set, because one array may be the residual of several operations.
    residuals = {var for var in jaxpr.outvars if isinstance(var, jax.extend.core.Var)} - arguments
    avals: list[Any] = [var.aval for var in residuals]
    # The dtype of a random key has no itemsize; a key is two words of 32 bits.
    sizes_in_bytes = [math.prod(aval.shape) * getattr(aval.dtype, 'itemsize', 8) for aval in avals]
    return sum(sizes_in_bytes)


def measure_loss_bytes(abstract: AbstractRun) -> int:
    """Returns the temporary bytes on one device of the loss alone.

    Compiles the loss and its gradient with respect to the embeddings. If that does not fit the
    device, returns the bytes that the compiler reports as needed.
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
    compiled, refusal = compile_or_refusal(lowered)
    return int(compiled.memory_analysis().temp_size_in_bytes if compiled else refusal.bytes)
