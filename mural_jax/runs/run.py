"""What a config describes: a model, streams, tasks, how to train and what to measure.

The literal tables here and in `assembly` are the only places where a name in a config meets a
class.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from mural_jax.config.build import arguments_of, build, check_known, make
from mural_jax.data.fields.region_settings import Regions, most
from mural_jax.data.tokenizer import Vocabulary
from mural_jax.distributed.mesh import MeshShape, Rules
from mural_jax.evaluation.evaluators.base import Evaluator
from mural_jax.evaluation.evaluators.catalog import EVALUATORS
from mural_jax.evaluation.validation import PREFIX
from mural_jax.models import build as model_build
from mural_jax.models import functional
from mural_jax.models.catalog import TOWERS
from mural_jax.models.one_stream import WAYS
from mural_jax.objectives.sigmoid import Sigmoid
from mural_jax.objectives.softmax import Softmax
from mural_jax.tasks.base import Task
from mural_jax.tasks.contrast import Contrast
from mural_jax.tasks.distill import Distillation
from mural_jax.tasks.grouped import Grouped
from mural_jax.tasks.match import Matching
from mural_jax.tasks.predict import Prediction
from mural_jax.training.loop import Schedule
from mural_jax.training.optimizers import Optimizer
from mural_jax.training.safety import Safety
from mural_jax.training.step import Clamp, Fixed, locked_towers
from mural_jax.training.trainer import Trainer
from mural_jax.types import PAD, UserError

if TYPE_CHECKING:
    from mural_jax.data.streams.base import Stream

OBJECTIVES = {'softmax': Softmax, 'sigmoid': Sigmoid}
FIELDS = {  # of a stream
    'captions': ('image', 'text'),
    'translations': ('source', 'target'),
    'regions': ('regions', 'text'),
    'hidden': ('regions', 'text', 'word_place', 'word_target', 'region_place', 'region_target',
               'match'),
}  # fmt: skip
PICTURE = ('regions', 'regions_negative')
TASKS = {
    'contrast': Contrast, 'prediction': Prediction, 'matching': Matching,
    'distillation': Distillation,
}  # fmt: skip


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
    microbatches: int = 1
    safety: Safety = Safety()
    init_from: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> 'Run':
        """Raises UserError where a key is unknown, missing, or its value does not fit."""
        run = make(cls, config, '')
        run.build_tasks()
        run.build_evaluators()
        run._check_sizes()
        if run.microbatches < 1:
            raise UserError(f'config.microbatches={run.microbatches} must be at least 1.')
        run._check_best()
        for name in run.init_from:
            check_known(name, {**run.model['towers'], 'model': None}, 'init_from')
        return run

    def _check_best(self) -> None:
        """Raises UserError where a run would choose checkpoints by no score, or by a test."""
        metric = self.schedule.best.metric
        if not metric.startswith(f'{PREFIX}/'):
            return
        evaluators = self.build_evaluators()
        found = [name for name in evaluators if metric.startswith(f'{PREFIX}/{name}/')]
        where = f'config.schedule.best.metric={metric!r}'
        if not found or not evaluators[found[0]].every:
            raise UserError(
                f'{where} is not scored while the run trains. Name it '
                f'{PREFIX}/EVALUATOR/mean_GROUP/METRIC and give the evaluator a period, '
                '--config.evaluators.EVALUATOR.every=STEPS; there are '
                f'{", ".join(evaluators)}.'
            )
        if evaluators[found[0]].split.startswith('test'):
            raise UserError(
                f'{where} chooses checkpoints by the split {evaluators[found[0]].split!r}: its '
                'scores would be too good. Take an evaluator of a validation split.'
            )
        if self.schedule.best.mode == 'min' and not metric.endswith('_rank'):
            raise UserError(f"{where} is better where it is larger: set best.mode='max'.")

    def build_tasks(self) -> dict[str, Task]:
        """The tasks by name, in the order of their names."""
        return {name: self._task(self.tasks[name], f'tasks.{name}') for name in sorted(self.tasks)}

    def _task(self, node: Mapping[str, Any], where: str) -> Task:
        node = {'kind': 'contrast', **node}
        if node['kind'] == 'contrast':
            objective = build(OBJECTIVES, node.pop('objective', {}), f'{where}.objective')
            task = build(TASKS, node, where, objective=objective)
            self._check_contrast(task, where)
        else:
            task = build(TASKS, node, where)
            if self.model['kind'] != 'one_stream':
                raise UserError(f"config.{where} needs model.kind='one_stream'.")
        check_known(task.stream, self.streams, f'{where}.stream')
        if isinstance(task, Grouped):
            self._check_grouped(task, where)
        regions = self.streams[task.stream].get('regions', {})
        classless = regions.get('by') == 'patches' and not regions.get('codebook')
        if isinstance(task, Prediction) and task.predict == 'regions' and classless:
            raise UserError(
                f'config.{where} predicts classes, and patches of {task.stream} have none. Set '
                'regions.codebook to a number of visual words, and model.num_classes to the same.'
            )
        self._check_tags(task, where)
        return task

    def _check_grouped(self, task: Grouped, where: str) -> None:
        space = self.tasks.get(task.space, {})
        if space.get('kind', 'contrast') != 'contrast' or not space:
            raise UserError(f'config.{where}.space={task.space!r} must name a contrast task.')
        size = self.streams[task.stream]['batch_size']
        if size % (task.among * self.microbatches):
            raise UserError(
                f'config.{where}.among={task.among} must divide the batch of {task.stream}, '
                f'{size} in {self.microbatches} parts.'
            )
        teacher = 'teacher' in self.model['towers']
        if isinstance(task, Distillation) and not (teacher and self.init_from.get('model')):
            raise UserError(
                f'config.{where} needs model.towers.teacher, and init_from.model, the run whose '
                'joint model teaches: --config.init_from.model=WORKDIR.'
            )

    def _check_tags(self, task: Task, where: str) -> None:
        """Raises UserError where a stream has tags and a task leaves them out, or the reverse."""
        named = 'tags' in repr([field for field, _ in task.encode])
        if named != bool(self.streams[task.stream].get('tags')):
            raise UserError(
                f'config.{where}.encode={task.encode} and streams.{task.stream}.tags do not go '
                "together: with tags a picture is ('tags', 'regions'), without 'regions'."
            )

    def _check_contrast(self, task: Contrast, where: str) -> None:
        for _, tower in task.encode:
            check_known(tower, self.ways, f'{where}.encode')
        objective = task.objective
        all_at_once = isinstance(objective, Softmax) and objective.by == 'gathered'
        if len(task.encode) > 2 and not all_at_once:
            raise UserError(f"config.{where} has hard negatives: they need softmax, by='gathered'.")
        if ('bias' in arguments_of(task.objective.__call__)) != (task.bias is not None):
            raise UserError(
                f'config.{where}.bias={task.bias} does not go with its objective: sigmoid '
                'learns a bias and needs a first one, such as -10.0; the others have none.'
            )

    @property
    def ways(self) -> Mapping[str, Any]:
        """What the model encodes by, by name: its towers, or the ways of one stream."""
        towers = self.model['towers']
        return dict.fromkeys(WAYS) if self.model['kind'] == 'one_stream' else towers

    @property
    def contrasts(self) -> dict[str, Contrast]:
        """The tasks that compare embeddings."""
        return {k: task for k, task in self.build_tasks().items() if isinstance(task, Contrast)}

    def build_evaluators(self) -> dict[str, Evaluator]:
        """The evaluators by name."""
        evaluators = {}
        for name, node in self.evaluators.items():
            evaluator = build(EVALUATORS, node, f'evaluators.{name}')
            for table, needed in evaluator.needs().items():
                check_known(needed, getattr(self, table), f'evaluators.{name}')
            evaluators[name] = evaluator
        return evaluators

    def build_streams(self) -> dict[str, 'Stream']:
        """All streams of the config, those that no task draws from too. Imports TensorFlow."""
        from mural_jax.data.streams.captions import Captions
        from mural_jax.data.streams.hidden import HiddenCaptions
        from mural_jax.data.streams.regions import RegionCaptions
        from mural_jax.data.streams.translations import Translations

        kinds = {
            'captions': Captions, 'translations': Translations, 'regions': RegionCaptions,
            'hidden': HiddenCaptions,
        }  # fmt: skip
        return {name: build(kinds, node, f'streams.{name}') for name, node in self.streams.items()}

    def build_model(self, vocab_size: int, abstract: bool = False) -> tuple[Any, Any, Any]:
        """(structure, parameters, batch statistics); with `abstract` only shapes, at no cost."""
        given = self.model, self.contrasts, vocab_size
        graphdef, params, statistics = model_build.abstract(*given)
        if not abstract:
            construct = model_build.constructor(*given, self.seed)
            # In one program: array by array it takes several seconds.
            params, statistics = jax.jit(lambda: functional.split(construct())[1:])()
        return graphdef, params, statistics

    def build_trainer(
        self, graphdef: Any, params: Any, devices: Sequence[Any] | None = None
    ) -> Trainer:
        """Everything that is fixed before the first step; of `params` only the paths count.

        devices: those of the mesh, all there are for None.
        """
        frozen = self.optimizer.frozen(params)
        fixed = Fixed(
            graphdef=graphdef, tasks=tuple(self.build_tasks().items()), clamp=self.clamp,
            optimizer=self.optimizer.build(self.schedule.num_steps), frozen=frozen,
            locked=locked_towers(params, frozen), microbatches=self.microbatches,
            rules=self.sharding, offload=self.optimizer.offload, safety=self.safety,
        )  # fmt: skip
        trainer = Trainer(fixed, self.seed, self.mesh.build(devices))
        trainer.check_batches({name: self.streams[name]['batch_size'] for name in self.drawn})
        return trainer

    @property
    def drawn(self) -> list[str]:
        """The streams that tasks draw from, in the order of the config."""
        wanted = {task.stream for task in self.build_tasks().values()}
        return [name for name in self.streams if name in wanted]

    def batch_shapes(self) -> dict[str, dict[str, jax.ShapeDtypeStruct]]:
        """Shapes of the global batches of all streams that are drawn, as a step takes them."""
        shapes = {}
        for name in self.drawn:
            stream = self.streams[name]
            fields = FIELDS[stream['kind']]
            if stream.get('hard_negatives'):
                fields += ('regions_negative', 'text_negative')
            if stream.get('tags'):
                fields += tuple(f.replace('regions', 'tags') for f in fields if f in PICTURE)
            # An id of the picture, or of the meaning, and one of each text.
            texts = sum(field in ('text', 'source', 'target') for field in fields)
            sizes: dict[str, tuple] = {field: _shape(field, stream) for field in fields}
            sizes |= {'index': (), 'ids': (1 + texts,)}
            types = dict(image=np.uint8, regions=np.float32, regions_negative=np.float32)
            shapes[name] = {
                field: jax.ShapeDtypeStruct(
                    (stream['batch_size'], *size), types.get(field, np.int32)
                )
                for field, size in sizes.items()
            }
        return shapes

    @property
    def paired_tasks(self) -> list[str]:
        """The tasks that compare pictures with texts."""
        return [name for name, task in self.contrasts.items() if len(task.towers) > 1]

    @property
    def regions(self) -> Regions | None:
        """How pictures become regions, None where the model takes them whole."""
        if self.model['kind'] != 'one_stream':
            return None
        nodes = [node['regions'] for node in self.streams.values() if 'regions' in node]
        return make(Regions, nodes[0] if nodes else {}, 'streams.regions')

    @property
    def tags(self) -> str:
        """The kind of text that is a part of a picture, '' for none."""
        return next((node['tags'] for node in self.streams.values() if node.get('tags')), '')

    @property
    def text_length(self) -> int:
        """Tokens of a text, at most."""
        return max(stream['max_length'] for stream in self.streams.values())

    @property
    def image_size(self) -> int:
        """Side of a picture in pixels."""
        return self._pictures['image_size']

    @property
    def image_resize(self) -> int:
        """Side that a picture is brought to before its middle is cut out, in pixels."""
        return self._pictures.get('resize') or self.image_size

    @property
    def _pictures(self) -> Mapping[str, Any]:
        """The first stream with pictures: all give them to the same tower."""
        with_pictures = [node for node in self.streams.values() if 'image_size' in node]
        return with_pictures[0] if with_pictures else self.model['towers']['image']

    def _check_sizes(self) -> None:
        """Streams give pictures of the size that towers take, and texts no longer than that."""
        for name, stream in self.streams.items():
            words = stream.get('regions', {}).get('codebook', 0)
            if words and words != self.model.get('num_classes', words):
                raise UserError(
                    f'config.streams.{name}.regions.codebook={words} must be '
                    f'config.model.num_classes={self.model["num_classes"]}.'
                )
        for tower, node in self.model['towers'].items():
            for name, stream in self.streams.items():
                given, taken = stream.get('image_size'), node.get('image_size')
                if given and taken and given != taken:
                    raise UserError(
                        f'config.streams.{name}.image_size={given} is not what the tower {tower} '
                        f'takes, {taken}. Set both to one value.'
                    )
                given, taken = stream.get('max_length', 0), node.get('max_length')
                if taken and given > taken:
                    raise UserError(
                        f'config.streams.{name}.max_length={given} is more than what the tower '
                        f'{tower} takes, {taken}. Shorten the texts or lengthen the tower.'
                    )

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Raises UserError where a text tower expects other marks than the vocabulary has."""
        for tower, node in self.model['towers'].items():
            if 'vocab_size' not in arguments_of(TOWERS[node['kind']]):
                continue
            where = f'config.model.towers.{tower}'
            ends = node.get('pool') == 'eot'
            pad_id = node.get('pad_id', PAD)
            if ends and node.get('eot_id') != tokenizer.eos_id:
                raise UserError(
                    f'{where}.eot_id={node.get("eot_id")} is not the end of a text in the '
                    f'vocabulary, {tokenizer.eos_id}: the tower would pool another token.'
                )
            if not ends and not node.get('attend_padding') and pad_id != tokenizer.pad_id:
                raise UserError(
                    f'{where}.pad_id={pad_id} is not the padding of the vocabulary, '
                    f'{tokenizer.pad_id}: the tower would read padding as text.'
                )


def _shape(field: str, stream: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of one example's field in a stream."""
    if field == 'match':
        return ()
    if field == 'image':
        return (stream['image_size'], stream['image_size'], 3)
    if not field.startswith('region'):
        length = stream['max_length']
        share = stream.get('hide_words', 0.15)
        return (most(share, length) if field.startswith('word') else length,)
    regions = make(Regions, stream.get('regions', {}), 'streams.regions')
    if field in ('regions', 'regions_negative'):
        return (regions.most, regions.feature_size + regions.geometry)
    return (most(stream.get('hide_regions', 0.15), regions.most),)
