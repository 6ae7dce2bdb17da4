"""What a training step of a config needs on a kind of chip, and how fast it may be there."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax

from mural_jax.models import cost
from mural_jax.planning.chips import Chip
from mural_jax.planning.memory import Abstract, Parts, len_of, parts_of
from mural_jax.planning.program import Collective, Work, compile_or_need, work_of
from mural_jax.tasks.contrast import Contrast

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Memory:
    """What the compiler says of one device, in bytes. `peak` is 0 where it does not say."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    peak: int

    @property
    def total(self) -> int:
        """What has to be there at once; donated arguments become results in their place."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    @classmethod
    def of(cls, compiled: Any) -> 'Memory':
        """Of a compiled program."""
        said = compiled.memory_analysis()
        return cls(
            arguments=said.argument_size_in_bytes, outputs=said.output_size_in_bytes,
            aliased=said.alias_size_in_bytes, temporaries=said.temp_size_in_bytes,
            code=said.generated_code_size_in_bytes,
            peak=getattr(said, 'peak_memory_in_bytes', 0),
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Plan:
    """One config on one topology. Bytes are of one device, operations of a step on all of them.

    needed: bytes that the step takes, 0 where the compiler refused it and did not say. memory:
    None where it was refused. flops: with what is computed again; model_flops: without. traffic:
    bytes to and from memory. seconds: 'trace' and 'compile'. negatives: by task, of each anchor.
    """

    device_kind: str
    devices: int
    mesh: dict[str, int]
    microbatches: int
    capacity: float
    fits: bool
    needed: float
    parts: Parts
    memory: Memory | None
    pairs: int
    batches: dict[str, int]
    negatives: dict[str, int]
    flops: float
    model_flops: float
    traffic: float
    collectives: dict[str, Collective]
    unknown_loops: int
    seconds: dict[str, float]
    bounds: dict[str, float]

    @property
    def bound(self) -> str | None:
        """What binds: 'computation', 'memory' or 'links'; None where nothing is known."""
        return max(self.bounds, key=self.bounds.__getitem__, default=None)

    @property
    def pairs_per_second(self) -> float | None:
        """At most, if everything ran at its published peak and at the same time."""
        return self.pairs / self.bounds[self.bound] if self.bound else None


def make(config: Config, devices: list[Any], chip: Chip, capacity: float) -> Plan:
    """Compiles the step that `mural train` runs, for `devices`, and measures it.

    capacity: bytes of one device that a step may take. Raises UserError where the config is wrong
    or does not fit the devices.
    """
    abstract = Abstract(config, devices)
    started = time.perf_counter()
    lowered = abstract.trainer.lower(abstract.state, abstract.batches)
    traced = time.perf_counter()
    compiled, need = compile_or_need(lowered)
    seconds = {'trace': traced - started, 'compile': time.perf_counter() - traced}
    parts = parts_of(abstract)
    memory = Memory.of(compiled) if compiled else None
    if memory:
        needed = float(memory.total)
    else:
        needed = need.bytes + (parts.arguments if need.temporaries else 0)
    work = work_of(compiled.as_text()) if compiled else Work({}, 0.0, 0)
    flops = step_flops(abstract)
    bounds = bounds_of(chip, flops / len(devices), work.traffic, work.sent) if compiled else {}
    sizes = {name: len_of(batch) for name, batch in abstract.batches.items()}
    return Plan(
        device_kind=devices[0].device_kind, devices=len(devices),
        mesh=dict(abstract.trainer.mesh.shape),
        microbatches=abstract.trainer.fixed.microbatches, capacity=capacity,
        fits=bool(compiled) and needed <= capacity, needed=needed, parts=parts, memory=memory,
        pairs=abstract.pairs, batches=sizes,
        negatives={
            name: sizes[task.stream] - 1 for name, task in abstract.trainer.tasks.items()
            if isinstance(task, Contrast)
        },
        flops=flops, model_flops=step_flops(Abstract(without_recomputing(config), devices)),
        traffic=work.traffic, collectives=work.collectives, unknown_loops=work.unknown_loops,
        seconds=seconds, bounds=bounds,
    )  # fmt: skip


def bounds_of(chip: Chip, flops: float, traffic: float, sent: float) -> dict[str, float]:
    """Seconds that each thing takes alone, by name; only of what is published and is done."""
    rates = {'computation': (flops, chip.flops), 'memory': (traffic, chip.traffic),
             'links': (sent, chip.link)}  # fmt: skip
    return {name: amount / rate for name, (amount, rate) in rates.items() if rate and amount}


def step_flops(abstract: Abstract) -> float:
    """Operations of matrix products and convolutions in one step, on all devices together."""
    return float(sum(cost.of_jaxpr(abstract.traced.jaxpr.jaxpr).values()))


def without_recomputing(config: Config) -> Config:
    """The config with nothing computed twice: the operations that the model needs."""
    settings: dict[str, Any] = {'microbatches': 1} if 'microbatches' in config else {}
    settings |= dict.fromkeys(remat_keys(config), 'none')
    return changed(config, settings)


def remat_keys(config: Config) -> list[str]:
    """Where a config says what the backward pass of a tower computes again."""
    keys = []
    for name, tower in config['model']['towers'].items():
        where = f'model.towers.{name}'
        keys += [f'{where}.remat'] if 'remat' in tower else []
        keys += [f'{where}.layers.remat'] if 'remat' in tower.get('layers', {}) else []
    return keys


def value(config: Config, key: str, default: Any = None) -> Any:
    """What a config has at 'a.b.c'."""
    for part in key.split('.'):
        if part not in config:
            return default
        config = config[part]
    return config


def changed(config: Config, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The config with values at 'a.b.c' replaced."""
    result = dict(config)
    for key, new in settings.items():
        head, _, tail = key.partition('.')
        result[head] = changed(result.get(head, {}), {tail: new}) if tail else new
    return result


def flags(settings: Mapping[str, Any]) -> str:
    """The words to add to a command."""
    return ' '.join(f'--config.{key}={new}' for key, new in settings.items())


def as_json(plan: Plan) -> dict[str, Any]:
    """All numbers of a plan, for a file."""
    numbers = dataclasses.asdict(plan)
    return numbers | {
        'bound': plan.bound, 'pairs_per_second': plan.pairs_per_second,
        'flops_per_pair': plan.flops / plan.pairs, 'jax': jax.__version__,
    }  # fmt: skip
