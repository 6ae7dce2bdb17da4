"""Settings with which a step fits: estimated, put in order of time, and compiled until one does."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax

from mural_jax.models import cost
from mural_jax.planning import plan as planning
from mural_jax.planning.chips import CHIPS, Chip
from mural_jax.planning.memory import Abstract, kept_bytes, len_of
from mural_jax.planning.plan import Config, Plan
from mural_jax.tasks.base import inputs_of

LEVELS = ('none', 'dots', 'full')
# Of a forward pass that is computed again in the backward pass: 'dots' keeps the large products
# and repeats the rest. Ours.
AGAIN = {'none': 0.0, 'dots': 0.15, 'full': 1.0}
MOST_COMPILED = 6  # ours
# Of the capacity that an estimate may take, so that few are compiled in vain. Ours.
FULL = 0.95
# State is split no further where it takes less than this share of the memory. Ours.
SMALL_STATE = 0.15
# Only the order counts where a chip's peaks are not known.
NOMINAL = CHIPS['TPU v5 lite']


@dataclasses.dataclass(frozen=True)
class Candidate:
    """Settings, the bytes of one device they are estimated to take, and the seconds of a step."""

    settings: dict[str, Any]
    arguments: float
    temporaries: float
    seconds: float


@dataclasses.dataclass
class Found:
    """What a search compiled, in order; the last one fits if any does."""

    tried: list[tuple[dict[str, Any], Plan]]

    @property
    def settings(self) -> dict[str, Any] | None:
        """Those that fit, None where none did."""
        settings, plan = self.tried[-1]
        return settings if plan.fits else None


def search(
    config: Config, devices: list[Any], chip: Chip, capacity: float, first: Plan,
    say: Callable[[str], None],
) -> Found:  # fmt: skip
    """Compiles candidates, the fastest by estimate first, until one fits; `first` did not.

    What each program takes corrects the estimates of those that follow.
    """
    candidates = ranked(config, devices, chip, first)
    found = Found([({}, first)])
    ratio = correction(first)
    while len(found.tried) < MOST_COMPILED:
        chosen = next(iter(fitting(candidates, capacity, ratio)), None)
        if chosen is None and len(found.tried) == 1 and candidates:
            # Nothing should fit; the smallest may all the same.
            chosen = min(candidates, key=lambda c: c.arguments + c.temporaries)
        if chosen is None:
            break
        candidates.remove(chosen)
        say(f'compiling with {planning.flags(chosen.settings)}')
        plan = planning.make(planning.changed(config, chosen.settings), devices, chip, capacity)
        found.tried.append((chosen.settings, plan))
        if plan.fits:
            break
        ratio = max(ratio, correction(plan))
    return found


def proposals(
    config: Config, devices: list[Any], chip: Chip, first: Plan, most: int = 3
) -> list[dict[str, Any]]:
    """The settings that should fit by estimate, the fastest first; nothing is compiled."""
    candidates = ranked(config, devices, chip, first)
    return [c.settings for c in fitting(candidates, first.capacity, correction(first))][:most]


def fitting(candidates: list[Candidate], capacity: float, ratio: float) -> list[Candidate]:
    """Those that should fit, the fastest first. ratio: real temporaries over estimated ones."""
    return [c for c in candidates if c.arguments + ratio * c.temporaries <= FULL * capacity]


def correction(plan: Plan) -> float:
    """Temporaries of a compiled or refused plan over their estimate, 1 where nobody knows."""
    estimate = plan.parts.temporaries(plan.microbatches)
    real = plan.memory.temporaries if plan.memory else plan.needed - plan.parts.arguments
    return real / estimate if estimate and real > 0 else 1.0


def ranked(config: Config, devices: list[Any], chip: Chip, first: Plan) -> list[Candidate]:
    """All candidates, the fastest first. `first` is the plan of the config as it is."""
    made = Estimates(config, devices, chip, first)
    candidates = (
        made.candidate(microbatches, fsdp, dict(zip(made.remat, levels)))
        for fsdp in made.splits()
        for microbatches in made.cuts()
        for levels in itertools.product(*made.remat.values())
    )
    return sorted((c for c in candidates if c.settings), key=lambda c: c.seconds)


class Estimates:
    """What settings cost in memory and in time, from traces alone."""

    def __init__(self, config: Config, devices: list[Any], chip: Chip, first: Plan):
        """`first` is the plan of the config as it is."""
        self.config, self.first, self.devices = config, first, devices
        self.chip = chip if chip.flops and chip.link and chip.traffic else NOMINAL
        base = Abstract(config, devices)
        self.batch_devices, self.tensor = base.batch_devices, first.mesh['tensor']
        self.local = {name: size // self.batch_devices for name, size in first.batches.items()}
        self.remat = {
            key: tuple(dict.fromkeys((planning.value(config, key), *LEVELS)))
            for key in planning.remat_keys(config)
        }
        # Bytes that are kept of a device's whole batch: those that do not grow with it, and what
        # each level of each tower saves.
        self.kept = kept_bytes(base, self.local)
        double = kept_bytes(base, {name: 2 * size for name, size in self.local.items()})
        self.fixed = max(2 * self.kept - double, 0)
        self.saved = {
            (key, level): self.kept - self._kept_with(key, level)
            for key, levels in self.remat.items()
            for level in levels
        }
        self.forward = forward_flops(base)

    def _kept_with(self, key: str, level: str) -> int:
        if level == planning.value(self.config, key):
            return self.kept
        changed = planning.changed(self.config, {key: level})
        return kept_bytes(Abstract(changed, self.devices), self.local)

    def splits(self) -> list[int]:
        """Sizes of `mesh.fsdp`, the present one first."""
        now, parts = self.first.mesh['fsdp'], self.first.parts
        state = parts.parameters + parts.optimizer + parts.gradient
        more = [
            2**power for power in range(1, self.batch_devices.bit_length())
            if 2**power > now and self.batch_devices % 2**power == 0
        ]  # fmt: skip
        return [now, *more] if state > SMALL_STATE * self.first.capacity else [now]

    def cuts(self) -> list[int]:
        """Numbers of microbatches that cut the batch of a device evenly."""
        powers = {2**power for power in range(max(self.local.values()).bit_length())}
        return sorted(
            number for number in powers | {self.first.microbatches}
            if all(size % number == 0 for size in self.local.values())
        )  # fmt: skip

    def candidate(self, microbatches: int, fsdp: int, levels: dict[str, str]) -> Candidate:
        """One of them. Its settings are those that differ from the config's."""
        parts, shrink = self.first.parts, self.first.mesh['fsdp'] / fsdp
        saved = sum(self.saved[key, level] for key, level in levels.items())
        kept = self.fixed + max(self.kept - saved - self.fixed, 0) / microbatches
        parts = dataclasses.replace(
            parts,
            parameters=int(parts.parameters * shrink),
            optimizer=int(parts.optimizer * shrink),
            gradient=int(parts.gradient * shrink),
            activations=int(kept),
        )
        wanted: dict[str, Any] = {'microbatches': microbatches, 'mesh.fsdp': fsdp, **levels}
        if self.config['mesh']['data'] != -1:
            wanted['mesh.data'] = self.batch_devices // fsdp
        settings = {
            key: new for key, new in wanted.items()
            if new != planning.value(self.config, key, 1 if key == 'microbatches' else None)
        }  # fmt: skip
        return Candidate(
            settings, parts.arguments, parts.temporaries(microbatches),
            self.seconds(microbatches, fsdp, levels),
        )  # fmt: skip

    def seconds(self, microbatches: int, fsdp: int, levels: dict[str, str]) -> float:
        """Of a step: products at their peak, then parameters and gradients over the links, then
        reading the parameters once in each pass.

        A backward pass costs two forward passes; microbatches are passed forward once more. With
        fsdp each pass gathers the parameters, and each backward pass scatters their gradient.
        """
        chip, whole = self.chip, sum(self.forward.values())
        assert chip.flops and chip.link and chip.traffic, 'see __init__'
        passes = 3.0 + (microbatches > 1)
        again = sum(
            AGAIN.get(level, AGAIN['dots']) * self.forward.get(key.split('.')[2], 0.0)
            for key, level in levels.items()
        )
        products = (passes * whole + again) / len(self.devices) / chip.flops
        size = self.first.parts.parameters * self.first.mesh['fsdp']
        gathers = microbatches * (3.0 + (microbatches > 1)) * size * (1 - 1 / fsdp)
        reduces = 2 * size / fsdp * (1 - fsdp / self.batch_devices)
        reads = microbatches * passes * size
        return products + (gathers + reduces) / chip.link + reads / chip.traffic


def forward_flops(abstract: Abstract) -> dict[str, float]:
    """Operations of one forward pass over a step's batches, by tower."""
    total: dict[str, float] = {}
    views = {(task.stream, task.encode) for task in abstract.trainer.tasks.values()}
    for stream, encode in views:
        batch = abstract.batches[stream]
        for field, tower in encode:
            one = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), inputs_of(batch, field)
            )
            each = sum(cost.forward_flops(abstract.model, tower, one).values())
            total[tower] = total.get(tower, 0.0) + float(each * len_of(batch))
    return total
