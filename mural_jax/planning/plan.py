"""Plan of a training step on given devices: its memory, communication and speed limits."""

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax

from mural_jax.models import cost
from mural_jax.planning.chips import Chip
from mural_jax.planning.collectives import Collective
from mural_jax.planning.compilation import compile_or_refusal
from mural_jax.planning.memory import AbstractRun, MemoryParts, count_examples, measure_parts
from mural_jax.planning.program import Work, measure_work

Config = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class CompiledMemory:
    """Memory of one device in bytes, as the compiler reports it.

    aliased: arguments whose memory becomes that of results, because they are donated.
    code: the program itself.
    peak: 0 if the compiler does not report it.
    """

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int
    peak: int

    @property
    def total(self) -> int:
        """Bytes that must be available at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code

    @classmethod
    def from_program(cls, compiled: Any) -> 'CompiledMemory':
        """Returns the memory of a compiled program."""
        analysis = compiled.memory_analysis()
        return cls(
            arguments=analysis.argument_size_in_bytes,
            outputs=analysis.output_size_in_bytes,
            aliased=analysis.alias_size_in_bytes,
            temporaries=analysis.temp_size_in_bytes,
            code=analysis.generated_code_size_in_bytes,
            peak=getattr(analysis, 'peak_memory_in_bytes', 0),
        )


@dataclasses.dataclass(frozen=True)
class Plan:
    """One config on one topology.

    Memory and traffic are bytes of one device; `flops` and `model_flops` are operations of one
    step on all devices together.

    capacity: bytes of one device that a step may take.
    needed: bytes that a step takes; 0 if the compiler refused it without giving a figure.
    memory: None if the compiler refused the program.
    pairs: examples of one step over all streams; `batches` has them by stream.
    negatives: number of negatives for each anchor, by task.
    flops, model_flops: with and without recomputation.
    traffic: bytes to and from the device's memory in one step.
    unknown_loops: loops whose trip count is unknown, which count as one turn.
    seconds: 'trace' and 'compile', the time this plan took.
    bounds: 'computation', 'memory' and 'links': the seconds that a step takes at least because of
        each.
    """

    device_kind: str
    devices: int
    mesh: dict[str, int]
    microbatches: int
    capacity: float
    fits: bool
    needed: float
    parts: MemoryParts
    memory: CompiledMemory | None
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
        """The largest of `bounds`, by name; None if there is none."""
        return max(self.bounds, key=self.bounds.__getitem__, default=None)

    @property
    def pairs_per_second(self) -> float | None:
        """Upper limit: everything at its published peak, and all of it at the same time."""
        return self.pairs / self.bounds[self.bound] if self.bound else None


def make_plan(config: Config, devices: list[Any], chip: Chip, capacity: float) -> Plan:
    """Compiles the step that `mural train` runs, for `devices`, and returns what it needs.

    capacity: bytes of one device that a step may take.

    Raises UserError if the config is invalid or does not fit the devices.
    """
    abstract = AbstractRun(config, devices)
    started = time.perf_counter()
    lowered = abstract.trainer.lower(abstract.state, abstract.batches)
    traced = time.perf_counter()
    # The compiler for TPUs refuses a program that does not fit. Others compile it, and the memory
    # that it needs is compared with the capacity below.
    compiled, refusal = compile_or_refusal(lowered)
    seconds = {'trace': traced - started, 'compile': time.perf_counter() - traced}
    parts = measure_parts(abstract)
    memory = CompiledMemory.from_program(compiled) if compiled else None
    if memory:
        needed = float(memory.total)
    else:
        # Some messages count temporaries alone.
        needed = refusal.bytes + (parts.arguments if refusal.temporaries else 0)
    work = measure_work(compiled.as_text()) if compiled else Work({}, 0.0, 0)
    flops = count_step_flops(abstract)
    bounds = compute_bounds(chip, flops / len(devices), work.traffic, work.sent) if compiled else {}
    sizes = {name: count_examples(batch) for name, batch in abstract.batches.items()}
    # Recomputed operations are counted by the difference to the same step without any.
    plain_run = AbstractRun(disable_recomputation(config), devices)
    return Plan(
        device_kind=devices[0].device_kind,
        devices=len(devices),
        mesh=dict(abstract.trainer.mesh.shape),
        microbatches=abstract.trainer.spec.microbatches,
        capacity=capacity,
        fits=bool(compiled) and needed <= capacity,
        needed=needed,
        parts=parts,
        memory=memory,
        pairs=abstract.pairs,
        batches=sizes,
        negatives={
            name: negatives
            for name, task in abstract.trainer.tasks.items()
            if (negatives := task.num_negatives(sizes[task.stream]))
        },
        flops=flops,
        model_flops=count_step_flops(plain_run),
        traffic=work.traffic,
        collectives=work.collectives,
        unknown_loops=work.unknown_loops,
        seconds=seconds,
        bounds=bounds,
    )


def compute_bounds(chip: Chip, flops: float, traffic: float, sent: float) -> dict[str, float]:
    """Returns the seconds that computation, memory traffic and links take on their own.

    Leaves out what the step does not use and what has no published peak (the roofline model of
    Williams et al. 2009, doi:10.1145/1498765.1498785, with links added).
    """
    rates = {
        'computation': (flops, chip.flops),
        'memory': (traffic, chip.traffic),
        'links': (sent, chip.link),
    }
    return {name: amount / rate for name, (amount, rate) in rates.items() if rate and amount}


def count_step_flops(abstract: AbstractRun) -> float:
    """Returns the operations of matrix products and convolutions in one step, on all devices."""
    return float(sum(cost.count_jaxpr_flops(abstract.traced.jaxpr.jaxpr).values()))


def disable_recomputation(config: Config) -> Config:
    """Returns the config with settings under which a step computes nothing twice."""
    settings: dict[str, Any] = {'microbatches': 1} if 'microbatches' in config else {}
    settings |= dict.fromkeys(find_remat_keys(config), 'none')
    return replace_values(config, settings)


def find_remat_keys(config: Config) -> list[str]:
    """Returns the config fields that say what the backward pass of each tower recomputes."""
    keys = []
    for name, tower in config['model']['towers'].items():
        path = f'model.towers.{name}'
        keys += [f'{path}.remat'] if 'remat' in tower else []
        keys += [f'{path}.layers.remat'] if 'remat' in tower.get('layers', {}) else []
    return keys


def get_value(config: Config, key: str, default: Any = None) -> Any:
    """Returns the value of a config field such as 'a.b.c'."""
    for part in key.split('.'):
        if part not in config:
            return default
        config = config[part]
    return config


def replace_values(config: Config, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of the config with new values for fields such as 'a.b.c'."""
    result = dict(config)
    for key, new in settings.items():
        head, _, tail = key.partition('.')
        result[head] = replace_values(result.get(head, {}), {tail: new}) if tail else new
    return result


def format_flags(settings: Mapping[str, Any]) -> str:
    """Returns the settings as flags of a command."""
    return ' '.join(f'--config.{key}={new}' for key, new in settings.items())


def plan_to_json(plan: Plan) -> dict[str, Any]:
    """Returns all numbers of a plan as JSON values."""
    return dataclasses.asdict(plan) | {
        'bound': plan.bound,
        'pairs_per_second': plan.pairs_per_second,
        'flops_per_pair': plan.flops / plan.pairs,
        'jax': jax.__version__,
    }
