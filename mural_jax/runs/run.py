"""A config made real: a model, spaces, streams, tasks, stages and evaluators, all checked.

Kinds meet their classes in the `catalog.py` of each package; no class of a kind is named here.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np

from mural_jax.config.build import build, check_known, make
from mural_jax.config.changes import MEANS
from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.data.streams.base import Stream
from mural_jax.data.streams.catalog import STREAMS
from mural_jax.data.tokenizer import Vocabulary
from mural_jax.distributed.mesh import MeshShape, Rules, check_rules
from mural_jax.evaluation.evaluators.base import Evaluator
from mural_jax.evaluation.evaluators.catalog import EVALUATORS
from mural_jax.models import functional
from mural_jax.models.build import abstract_model, encoders_of, model_constructor
from mural_jax.models.companions import COMPANIONS, Companion, frozen_pattern
from mural_jax.models.spaces import Space
from mural_jax.runs import checks
from mural_jax.tasks.base import Task
from mural_jax.tasks.catalog import build_task
from mural_jax.training.optimizers import Optimizer
from mural_jax.training.safety import Safety
from mural_jax.training.schedule import Schedule
from mural_jax.training.stages import StageProgram, StageSettings, TrainingStage, resolve_stages
from mural_jax.training.step import Clamp, StepSpec, find_locked_towers
from mural_jax.training.trainer import Trainer
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Run:
    """A config, checked. The model is built and data is read when they are asked for.

    streams, spaces, tasks, evaluators: By name; tasks in the order of their names.
    model: The config node of the model.
    languages: Groups of languages, by name.
    init_from: Files or workdirs that weights come from, by tower or 'model'.
    companions: Further models that teach this one, by name.
    stages: Trainings that follow each other, by name; none for a single one.
    """

    schedule: Schedule
    optimizer: Optimizer
    tokenizer: Vocabulary
    streams: Mapping[str, Stream]
    model: Mapping[str, Any]
    spaces: Mapping[str, Space]
    tasks: Mapping[str, Task]
    evaluators: Annotated[Mapping[str, Evaluator], MEANS]
    languages: Annotated[Mapping[str, tuple[str, ...]], MEANS]
    seed: int = 0
    clamp: Clamp = Clamp()
    mesh: Annotated[MeshShape, MEANS] = MeshShape()
    sharding: Annotated[Rules, MEANS] = ()
    microbatches: Annotated[int, MEANS] = 1
    safety: Annotated[Safety, MEANS] = Safety()
    init_from: Mapping[str, str] = dataclasses.field(default_factory=dict)
    companions: Mapping[str, Companion] = dataclasses.field(default_factory=dict)
    stages: Mapping[str, StageSettings] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> 'Run':
        """Raises UserError where a key is unknown, missing, or its value does not fit."""
        built = {}
        for key, build_node in _BUILDERS.items():
            if key not in config:
                raise UserError(f'config lacks the key {key!r}.')
            nodes = config[key]
            # In the order of names: the order of a file does not survive its flags.
            built[key] = {name: build_node(nodes[name], f'{key}.{name}') for name in sorted(nodes)}
        rest = {key: node for key, node in config.items() if key not in built}
        run: Run = make(cls, rest, '', **built)
        run._check()
        return run

    def _check(self) -> None:
        if self.microbatches < 1:
            raise UserError(f'config.microbatches={self.microbatches} must be at least 1.')
        check_rules(self.sharding)
        for name in self.init_from:
            check_known(name, {**self.model['towers'], 'model': None}, 'init_from')
        for name, task in self.tasks.items():
            task.check(self, f'tasks.{name}')
        for name, evaluator in self.evaluators.items():
            for table, needed in evaluator.needs().items():
                check_known(needed, getattr(self, table), f'evaluators.{name}')
        checks.check_spaces(self.spaces, self.tasks)
        checks.check_sizes(self.streams, self.model)
        checks.check_best(self.schedule.best, self.evaluators)
        checks.check_stages(self.build_stages(), self.evaluators)

    @property
    def encoders(self) -> tuple[str, ...]:
        """What the model encodes by: its towers, or the views of one stream."""
        return encoders_of(self.model)

    @property
    def paired_spaces(self) -> list[str]:
        """The spaces that compare two encoders, such as images with texts."""
        return [name for name, space in self.spaces.items() if len(space.sides) > 1]

    @property
    def initial_weights(self) -> dict[str, str]:
        """Sources of first weights, by tower, 'model' or 'companions/NAME'; '' for none."""
        companions = {
            f'{COMPANIONS}/{name}': companion.init_from or self.init_from.get('model', '')
            for name, companion in self.companions.items()
        }
        return {**self.init_from, **companions}

    def build_model(self, vocab_size: int, abstract: bool = False) -> tuple[Any, Any, Any]:
        """(structure, parameters, batch statistics); with `abstract` only shapes, at no cost."""
        given = (self.model, self.spaces, vocab_size)
        graphdef, params, statistics = abstract_model(*given, self.companions)
        if not abstract:
            construct = model_constructor(*given, self.seed, self.companions)
            # As one program: array by array it takes several seconds.
            params, statistics = jax.jit(lambda: functional.split(construct())[1:])()
        return graphdef, params, statistics

    def build_stages(self) -> tuple[TrainingStage, ...]:
        """The stages in their order; a run without stages is one stage."""
        num_steps = self.schedule.num_steps
        stages = resolve_stages(self.stages, self.optimizer, num_steps, list(self.tasks))
        # Companions stay frozen whatever multipliers a stage sets.
        pattern = frozen_pattern(self.companions)
        return tuple(stage.freeze(pattern) for stage in stages) if pattern else stages

    def build_programs(self, graphdef: Any, params: Any) -> list[StageProgram]:
        """All stages with their trainers; only the paths of `params` count."""
        return [
            StageProgram(stage, self.build_trainer(graphdef, params, stage=stage))
            for stage in self.build_stages()
        ]

    def build_trainer(
        self,
        graphdef: Any,
        params: Any,
        devices: Sequence[Any] | None = None,
        stage: TrainingStage | None = None,
    ) -> Trainer:
        """The trainer of a stage, the largest one for None; only the paths of `params` count.

        devices: Devices of the mesh; None for all.
        """
        stage = stage or self.largest_stage
        # The optimizer's state must fit all stages, so each knows the optimizers of the others.
        others = tuple(other.optimizer for other in self.build_stages() if other.name != stage.name)
        frozen = stage.optimizer.frozen(params)
        trains_all = len(stage.tasks) == len(self.tasks)
        freezes_alike = all(other.frozen(params) == frozen for other in others)
        spec = StepSpec(
            graphdef=graphdef,
            tasks=tuple((name, self.tasks[name]) for name in stage.tasks),
            clamp=self.clamp,
            optimizer=stage.optimizer.build(stage.num_steps, others),
            frozen=frozen,
            hold_unused=not (trains_all and freezes_alike),
            locked=find_locked_towers(params, frozen),
            microbatches=self.microbatches,
            rules=self.sharding,
            offload=stage.optimizer.offload,
            safety=self.safety,
        )
        trainer = Trainer(spec, self.seed, self.mesh.build(devices))
        trainer.check_batches({name: self.streams[name].batch_size for name in trainer.streams})
        return trainer

    @property
    def largest_stage(self) -> TrainingStage:
        """The stage whose steps draw the most examples, the first of equals."""

        def count_examples(stage: TrainingStage) -> int:
            return sum(self.streams[name].batch_size for name in self.list_streams(stage))

        return max(self.build_stages(), key=count_examples)

    def list_streams(self, *stages: TrainingStage) -> list[str]:
        """The streams that tasks of these stages draw from, in the order of their names."""
        active = {self.tasks[name].stream for stage in stages for name in stage.tasks}
        return [name for name in self.streams if name in active]

    @property
    def drawn(self) -> list[str]:
        """The streams that the tasks of any stage draw from, in the order of their names."""
        return self.list_streams(*self.build_stages())

    def batch_shapes(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Shapes of the global batches that a step of the largest stage takes, by stream."""
        shapes = {}
        for name in self.list_streams(self.largest_stage):
            stream = self.streams[name]
            fields: dict[str, tuple] = {
                field: (about.shape, about.dtype) for field, about in stream.fields().items()
            }
            # What reading and the trainer add to the fields of the stream.
            fields |= {'index': ((), np.int32), 'ids': ((stream.num_ids,), np.int32)}
            shapes[name] = {
                field: jax.ShapeDtypeStruct((stream.batch_size, *shape), dtype)
                for field, (shape, dtype) in fields.items()
            }
        return shapes

    # How a trained model reads its inputs: as the streams of its run gave them.

    @property
    def text_length(self) -> int:
        """Most tokens of a text."""
        return max(stream.max_length for stream in self.streams.values())

    @property
    def image_size(self) -> int:
        """Side of an image in pixels."""
        images = self._first_images and self._first_images.images
        return images.size if images else self.model['towers']['image']['image_size']

    @property
    def image_resize(self) -> int:
        """Side in pixels that an image is resized to before its middle is cut out."""
        images = self._first_images and self._first_images.images
        return images.resize if images else self.image_size

    @property
    def regions(self) -> RegionSettings | None:
        """How an image becomes regions, None where the model takes it whole."""
        if 'joint' not in self.encoders:
            return None
        return self._first_images.regions if self._first_images else RegionSettings()

    @property
    def tags(self) -> str:
        """The kind of text that is a part of an image, '' for none."""
        return next((stream.tags for stream in self.streams.values() if stream.tags), '')

    @property
    def _first_images(self) -> Stream | None:
        """The first stream with images: all streams feed the same tower."""
        return next((stream for stream in self.streams.values() if stream.images), None)


def _build_stream(node: Mapping[str, Any], where: str) -> Stream:
    return build(STREAMS, node, where)


def _build_evaluator(node: Mapping[str, Any], where: str) -> Evaluator:
    return build(EVALUATORS, node, where)


# Config keys whose nodes are of several kinds.
_BUILDERS = {'streams': _build_stream, 'tasks': build_task, 'evaluators': _build_evaluator}
