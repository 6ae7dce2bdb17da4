"""What a config describes: a model, streams, tasks, how to train and what to measure.

The literal tables here are the only places where a name in a config meets a class.
"""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
from flax import nnx

from mural_jax.config import arguments_of, build, make, nearest
from mural_jax.evaluation.evaluators import ImageText, TextText
from mural_jax.models import functional
from mural_jax.models.dual_encoder import DualEncoder
from mural_jax.models.text import Transformer
from mural_jax.models.vision import ViT
from mural_jax.objectives.contrastive import Softmax
from mural_jax.sharding import MeshShape, Rules
from mural_jax.tasks import Task
from mural_jax.training.loop import Schedule, Trainer
from mural_jax.training.optimizers import Optimizer
from mural_jax.training.step import Clamp
from mural_jax.types import UserError

if TYPE_CHECKING:
    from mural_jax.data.streams import Stream

TOWERS = {'vit': ViT, 'transformer': Transformer}
OBJECTIVES = {'softmax': Softmax}
EVALUATORS = {'image_text': ImageText, 'text_text': TextText}


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """How the vocabulary is made: pieces at most, and the share of characters with a piece."""

    vocab_size: int
    character_coverage: float = 0.9995


@dataclasses.dataclass(frozen=True)
class Run:
    """A config, checked. Towers, streams and data are built when they are asked for."""

    schedule: Schedule
    optimizer: Optimizer
    tokenizer: Vocabulary
    streams: Mapping[str, Any]
    model: Mapping[str, Any]
    tasks: Mapping[str, Any]
    evaluators: Mapping[str, Any]
    languages: Mapping[str, tuple[str, ...]]
    seed: int = 0
    clamp: Clamp = Clamp()
    mesh: MeshShape = MeshShape()
    sharding: Rules = ()

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> 'Run':
        """Raises UserError where a key is unknown, missing, or its value does not fit."""
        run = make(cls, config, '')
        run.build_tasks()
        run.build_evaluators()
        for name, stream in run.streams.items():
            for key, most in (('max_length', run.text_length), ('image_size', run.image_size)):
                if key in stream and stream[key] != most:
                    raise UserError(
                        f'config.streams.{name}.{key}={stream[key]} is not what the tower takes, '
                        f'{most}. Set both to one value.'
                    )
        return run

    def build_tasks(self) -> dict[str, Task]:
        """The tasks by name, in the order of their names."""
        tasks = {}
        for name in sorted(self.tasks):
            node = dict(self.tasks[name])
            where = f'tasks.{name}'
            objective = build(OBJECTIVES, node.pop('objective', {}), f'{where}.objective')
            task = tasks[name] = make(Task, node, where, objective=objective)
            self._known(task.stream, self.streams, f'{where}.stream')
            for _, tower in task.encode:
                self._known(tower, self.model['towers'], f'{where}.encode')
        return tasks

    def build_evaluators(self) -> dict[str, ImageText | TextText]:
        """The evaluators by name, with '.' in a config's key for '/' in results."""
        evaluators = {}
        for name, node in self.evaluators.items():
            evaluator = build(EVALUATORS, node, f'evaluators.{name}')
            self._known(evaluator.task, self.tasks, f'evaluators.{name}.task')
            evaluators[name] = evaluator
        return evaluators

    def build_streams(self) -> dict[str, 'Stream']:
        """All streams of the config, those that no task draws from too. Imports TensorFlow."""
        from mural_jax.data.streams import Captions, Translations

        kinds = {'captions': Captions, 'translations': Translations}
        return {name: build(kinds, node, f'streams.{name}') for name, node in self.streams.items()}

    def build_model(self, vocab_size: int, abstract: bool = False) -> tuple[Any, Any, Any]:
        """(structure, parameters, batch statistics); with `abstract` only shapes, at no cost."""

        def construct() -> DualEncoder:
            rngs = nnx.Rngs(self.seed)
            given = {'run': self, 'rngs': rngs, 'vocab_size': vocab_size}
            return build(MODELS, self.model, 'model', **given)

        graphdef, params, statistics = functional.split(nnx.eval_shape(construct))
        if not abstract:
            # In one program: array by array it takes several seconds.
            params, statistics = jax.jit(lambda: functional.split(construct())[1:])()
        return graphdef, params, statistics

    def build_trainer(self, graphdef: Any) -> Trainer:
        """Everything that is fixed before the first step."""
        return Trainer(
            graphdef=graphdef, tasks=self.build_tasks(), clamp=self.clamp, seed=self.seed,
            optimizer=self.optimizer.build(self.schedule.num_steps), schedule=self.schedule,
            mesh=self.mesh.build(), rules=self.sharding,
        )  # fmt: skip

    @property
    def text_length(self) -> int:
        """Tokens of a text, at most."""
        return self.model['towers']['text']['max_length']

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels."""
        return self.model['towers']['image']['image_size']

    def _known(self, name: str, table: Mapping[str, Any], where: str) -> None:
        if name not in table:
            raise UserError(f'config.{where} names {name!r}.{nearest(name, table)}')


def _dual_encoder(
    *, run: Run, rngs: nnx.Rngs, vocab_size: int, towers: dict[str, Any], embedding: int
) -> DualEncoder:
    built, widths = {}, {}
    for name, node in towers.items():
        given: dict[str, Any] = {'rngs': rngs}
        kind = TOWERS.get(node.get('kind'))
        if kind and 'vocab_size' in arguments_of(kind):
            given['vocab_size'] = vocab_size
        built[name] = build(TOWERS, node, f'model.towers.{name}', **given)
        widths[name] = node['width']
    tasks = run.build_tasks()
    return DualEncoder(
        rngs=rngs, towers=built, widths=widths, embedding=embedding,
        heads={name: task.towers for name, task in tasks.items()},
        temperature={name: task.temperature for name, task in tasks.items()},
    )  # fmt: skip


MODELS = {'dual_encoder': _dual_encoder}


def vocabulary_path(data_dir: Path, run: Run) -> Path:
    """Where `mural prepare` puts the vocabulary of these streams and these settings."""
    drawn = {
        name: {key: node[key] for key in ('kind', 'dataset', 'split', 'languages', 'pivots')
               if key in node}
        for name, node in run.streams.items()
    }  # fmt: skip
    words = json.dumps([drawn, dataclasses.asdict(run.tokenizer)], sort_keys=True)
    name = hashlib.sha256(words.encode()).hexdigest()[:16]
    return data_dir / 'vocabularies' / f'{name}.model'
