"""Search for settings under which a step fits the memory of a device.

Candidates are estimated from traces alone, ordered by time, and compiled until one fits.
"""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax

from mural_jax.models import cost
from mural_jax.planning import plan as planning
from mural_jax.planning.chips import CHIPS, Chip
from mural_jax.planning.memory import AbstractRun, count_examples, count_residual_bytes
from mural_jax.planning.plan import Config, Plan
from mural_jax.tasks.base import inputs_of

REMAT_LEVELS = ('none', 'dots', 'full')
# The share of a forward pass that the backward pass repeats: 'dots' keeps the large products and
# repeats the rest (ours).
RECOMPUTED_SHARE = {'none': 0.0, 'dots': 0.15, 'full': 1.0}
MAX_COMPILED = 6  # programs, the config as it is included (ours)
# The share of the capacity that an estimate may fill. The rest is a margin, because a candidate
# that turns out not to fit costs minutes of compiling (ours).
FILL_LIMIT = 0.95
# A model whose state takes less than this share of the memory gains little from sharding it over
# more devices (ours).
SMALL_STATE = 0.15
# Stands in for chips without published peaks: only the order of the estimated times counts.
NOMINAL_CHIP = CHIPS['TPU v5 lite']


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Settings and their estimated cost.

    settings: config fields whose values differ from those of the config.
    arguments, temporaries: bytes on one device.
    seconds: time of a step.
    """

    settings: dict[str, Any]
    arguments: float
    temporaries: float
    seconds: float


@dataclasses.dataclass
class SearchOutcome:
    """The programs that a search compiled, in order. If any fits, it is the last one."""

    tried: list[tuple[dict[str, Any], Plan]]

    @property
    def settings(self) -> dict[str, Any] | None:
        """The settings that fit; None if none do."""
        settings, plan = self.tried[-1]
        return settings if plan.fits else None


def search_settings(
    config: Config,
    devices: list[Any],
    chip: Chip,
    capacity: float,
    first: Plan,
    say: Callable[[str], None],
) -> SearchOutcome:
    """Compiles candidates until one fits, starting with the fastest by estimate.

    first: the plan of the config as it is, which does not fit. say: called with a line before
    each compilation.

    The memory of each compiled program corrects the estimates of the candidates after it.
    """
    candidates = rank_candidates(config, devices, chip, first)
    outcome = SearchOutcome([({}, first)])
    ratio = compute_correction(first)
    while len(outcome.tried) < MAX_COMPILED:
        candidate = next(iter(select_fitting(candidates, capacity, ratio)), None)
        if candidate is None and len(outcome.tried) == 1 and candidates:
            # By estimate nothing fits. Estimates may be wrong, so try the smallest candidate.
            candidate = min(candidates, key=lambda c: c.arguments + c.temporaries)
        if candidate is None:
            break
        candidates.remove(candidate)
        say(f'compiling with {planning.format_flags(candidate.settings)}')
        changed = planning.replace_values(config, candidate.settings)
        plan = planning.make_plan(changed, devices, chip, capacity)
        outcome.tried.append((candidate.settings, plan))
        if plan.fits:
            break
        ratio = max(ratio, compute_correction(plan))
    return outcome


def propose_settings(
    config: Config, devices: list[Any], chip: Chip, first: Plan, most: int = 3
) -> list[dict[str, Any]]:
    """Returns up to `most` settings that fit by estimate, the fastest first. Compiles nothing."""
    candidates = rank_candidates(config, devices, chip, first)
    ratio = compute_correction(first)
    return [c.settings for c in select_fitting(candidates, first.capacity, ratio)][:most]


def select_fitting(candidates: list[Candidate], capacity: float, ratio: float) -> list[Candidate]:
    """Returns the candidates that fit by estimate, in the order given.

    ratio: real temporaries over estimated ones, as compiled programs had them.
    """
    return [c for c in candidates if c.arguments + ratio * c.temporaries <= FILL_LIMIT * capacity]


def compute_correction(plan: Plan) -> float:
    """Returns the real temporaries of a plan over its estimated ones, 1 if they are unknown."""
    estimate = plan.parts.temporaries(plan.microbatches)
    # A refused program has no memory analysis, but the message of the compiler has its need.
    real = plan.memory.temporaries if plan.memory else plan.needed - plan.parts.arguments
    return real / estimate if estimate and real > 0 else 1.0


def rank_candidates(config: Config, devices: list[Any], chip: Chip, first: Plan) -> list[Candidate]:
    """Returns all candidates, the fastest by estimate first.

    first: the plan of the config as it is. The config itself is not a candidate.
    """
    estimator = CostEstimator(config, devices, chip, first)
    candidates = (
        estimator.build_candidate(microbatches, fsdp, dict(zip(estimator.remat, levels)))
        for fsdp in estimator.fsdp_sizes()
        for microbatches in estimator.microbatch_counts()
        for levels in itertools.product(*estimator.remat.values())
    )
    return sorted((c for c in candidates if c.settings), key=lambda c: c.seconds)


class CostEstimator:
    """Memory and time of a step under other settings, estimated from traces alone."""

    def __init__(self, config: Config, devices: list[Any], chip: Chip, first: Plan):
        """`first` is the plan of the config as it is."""
        self.config, self.first, self.devices = config, first, devices
        self.chip = chip if chip.flops and chip.link and chip.traffic else NOMINAL_CHIP
        base = AbstractRun(config, devices)
        self.batch_devices = base.batch_devices
        self.local_sizes = {
            name: size // self.batch_devices for name, size in first.batches.items()
        }
        # The present level of each tower comes first, then the others.
        self.remat = {
            key: tuple(dict.fromkeys((planning.get_value(config, key), *REMAT_LEVELS)))
            for key in planning.find_remat_keys(config)
        }
        # Residual bytes are taken to be linear in the batch, fixed + slope * size. Traces of the
        # batch and of twice the batch tell the two parts.
        self.residuals = count_residual_bytes(base, self.local_sizes)
        double = count_residual_bytes(
            base, {name: 2 * size for name, size in self.local_sizes.items()}
        )
        self.fixed_residuals = max(2 * self.residuals - double, 0)
        # The bytes that each level of each tower saves. They add up, because towers keep their
        # residuals independently; so a product of levels needs no trace of its own.
        self.saved_residuals = {
            (key, level): self.residuals - self._count_residuals_with(key, level)
            for key, levels in self.remat.items()
            for level in levels
        }
        self.forward_flops = count_tower_flops(base)

    def _count_residuals_with(self, key: str, level: str) -> int:
        if level == planning.get_value(self.config, key):
            return self.residuals
        changed = planning.replace_values(self.config, {key: level})
        return count_residual_bytes(AbstractRun(changed, self.devices), self.local_sizes)

    def fsdp_sizes(self) -> list[int]:
        """Returns the sizes of `mesh.fsdp` to try, the present one first."""
        current, parts = self.first.mesh['fsdp'], self.first.parts
        state = parts.parameters + parts.optimizer + parts.gradient
        larger = [
            2**power
            for power in range(1, self.batch_devices.bit_length())
            if 2**power > current and self.batch_devices % 2**power == 0
        ]
        return [current, *larger] if state > SMALL_STATE * self.first.capacity else [current]

    def microbatch_counts(self) -> list[int]:
        """Returns the numbers of microbatches that divide the batch of a device evenly."""
        powers = {2**power for power in range(max(self.local_sizes.values()).bit_length())}
        return sorted(
            number
            for number in powers | {self.first.microbatches}
            if all(size % number == 0 for size in self.local_sizes.values())
        )

    def build_candidate(self, microbatches: int, fsdp: int, levels: dict[str, str]) -> Candidate:
        """Returns the candidate with these values; `levels` maps fields to remat levels."""
        parts, shrink = self.first.parts, self.first.mesh['fsdp'] / fsdp
        saved = sum(self.saved_residuals[key, level] for key, level in levels.items())
        activations = (
            self.fixed_residuals
            + max(self.residuals - saved - self.fixed_residuals, 0) / microbatches
        )
        parts = dataclasses.replace(
            parts,
            parameters=int(parts.parameters * shrink),
            optimizer=int(parts.optimizer * shrink),
            gradient=int(parts.gradient * shrink),
            activations=int(activations),
        )
        values: dict[str, Any] = {'microbatches': microbatches, 'mesh.fsdp': fsdp, **levels}
        # A mesh with data=-1 fills up with what is left; a fixed size has to shrink as fsdp grows.
        if self.config['mesh']['data'] != -1:
            values['mesh.data'] = self.batch_devices // fsdp
        settings = {
            key: new
            for key, new in values.items()
            if new != planning.get_value(self.config, key, 1 if key == 'microbatches' else None)
        }
        return Candidate(
            settings,
            parts.arguments,
            parts.temporaries(microbatches),
            self.estimate_seconds(microbatches, fsdp, levels),
        )

    def estimate_seconds(self, microbatches: int, fsdp: int, levels: dict[str, str]) -> float:
        """Returns the estimated seconds of a step (ours).

        seconds = products / peak + (gathers + reduces) / link + reads / traffic

        A backward pass costs as much as two forward passes, and with microbatches each example
        passes forward once more. With fsdp, each pass gathers the parameters, and each backward
        pass scatters their gradient. Each pass reads the parameters from memory once.
        """
        chip, all_towers = self.chip, sum(self.forward_flops.values())
        assert chip.flops and chip.link and chip.traffic, 'NOMINAL_CHIP replaces others'
        passes = 3.0 + (microbatches > 1)
        # A level that is not in the table, such as 'offload', counts as 'dots'. The third part of
        # a field such as model.towers.image.remat is the name of the tower.
        recomputed = sum(
            RECOMPUTED_SHARE.get(level, RECOMPUTED_SHARE['dots'])
            * self.forward_flops.get(key.split('.')[2], 0.0)
            for key, level in levels.items()
        )
        products = (passes * all_towers + recomputed) / len(self.devices) / chip.flops
        # The parameters of the whole group of fsdp devices.
        size = self.first.parts.parameters * self.first.mesh['fsdp']
        gathers = microbatches * (3.0 + (microbatches > 1)) * size * (1 - 1 / fsdp)
        reduces = 2 * size / fsdp * (1 - fsdp / self.batch_devices)
        reads = microbatches * passes * size
        return products + (gathers + reduces) / chip.link + reads / chip.traffic


def count_tower_flops(abstract: AbstractRun) -> dict[str, float]:
    """Returns the operations of one forward pass over the batches of a step, by tower."""
    total: dict[str, float] = {}
    # Tasks that encode the same fields of the same stream share one pass.
    views = {(task.stream, task.encode) for task in abstract.trainer.tasks.values()}
    for stream, encode in views:
        batch = abstract.batches[stream]
        for field, tower in encode:
            one_example = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), inputs_of(batch, field)
            )
            flops = sum(cost.count_forward_flops(abstract.model, tower, one_example).values())
            total[tower] = total.get(tower, 0.0) + float(flops * count_examples(batch))
    return total
