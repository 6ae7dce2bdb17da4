"""Rules of a config that no stream, task, space or evaluator could check by itself."""

from collections.abc import Mapping, Sequence
from typing import Any

from mural_jax.config.build import list_arguments
from mural_jax.data.streams.base import Stream
from mural_jax.evaluation.evaluators.base import Evaluator
from mural_jax.evaluation.validation import PREFIX
from mural_jax.models.catalog import TOWERS
from mural_jax.models.spaces import Space
from mural_jax.tasks.base import Task
from mural_jax.training.stages import TrainingStage
from mural_jax.types import PAD, UserError
from mural_jax.workdir.retention import BestCheckpoints


def check_spaces(spaces: Mapping[str, Space], tasks: Mapping[str, Task]) -> None:
    """Raises UserError where a space, or a scalar of one, would never be trained."""
    learned: dict[str, set[str]] = {}
    for task in tasks.values():
        for name, scalars in task.trained_spaces().items():
            learned.setdefault(name, set()).update(scalars)
    # Both mistakes train without an error, and their scores mean nothing.
    for name, space in spaces.items():
        if name not in learned:
            raise UserError(
                f'No task trains config.spaces.{name}. Name it as the space of a task, or leave '
                'it out.'
            )
        for scalar in space.scalars:
            if scalar not in learned[name]:
                raise UserError(
                    f'config.spaces.{name}.{scalar}={getattr(space, scalar)} is never learned: the '
                    f'objectives of its tasks have no {scalar}. Leave it out.'
                )


def check_sizes(streams: Mapping[str, Stream], model: Mapping[str, Any]) -> None:
    """Raises UserError where streams give other images or longer texts than towers take."""
    for tower, node in model['towers'].items():
        for name, stream in streams.items():
            given = stream.images.size if stream.images else None
            taken = node.get('image_size')
            if given and taken and given != taken:
                raise UserError(
                    f'config.streams.{name}.image_size={given} is not what the tower {tower} '
                    f'takes, {taken}. Set both to one value.'
                )
            longest = node.get('max_length')
            if longest and stream.max_length > longest:
                raise UserError(
                    f'config.streams.{name}.max_length={stream.max_length} is more than what the '
                    f'tower {tower} takes, {longest}. Shorten the texts or lengthen the tower.'
                )


def check_best(best: BestCheckpoints, evaluators: Mapping[str, Evaluator]) -> None:
    """Raises UserError where checkpoints would be chosen by no score, or by a test set."""
    metric = best.metric
    if not metric.startswith(f'{PREFIX}/'):
        return
    found = [name for name in evaluators if metric.startswith(f'{PREFIX}/{name}/')]
    where = f'config.schedule.best.metric={metric!r}'
    if not found or not evaluators[found[0]].every:
        raise UserError(
            f'{where} is not scored while the run trains. Name it '
            f'{PREFIX}/EVALUATOR/mean_GROUP/METRIC and give the evaluator a period, '
            f'--config.evaluators.EVALUATOR.every=STEPS; there are {", ".join(evaluators)}.'
        )
    if evaluators[found[0]].split.startswith('test'):
        raise UserError(
            f'{where} chooses checkpoints by the split {evaluators[found[0]].split!r}: its scores '
            'would be too good. Take an evaluator of a validation split.'
        )
    if best.mode == 'min' and not metric.endswith('_rank'):
        raise UserError(f"{where} is better where it is larger: set best.mode='max'.")


def check_stages(stages: Sequence[TrainingStage], evaluators: Mapping[str, Evaluator]) -> None:
    """Raises UserError where a stage ends with scores, and no evaluator scores during training."""
    scored = any(evaluator.every for evaluator in evaluators.values())
    for stage in stages:
        if any(action.scores for action in stage.end_actions) and not scored:
            raise UserError(
                f'config.stages.{stage.name}.at_end asks for scores, but no evaluator scores '
                'during training. Give one a period: --config.evaluators.EVALUATOR.every=STEPS.'
            )


def check_tokenizer(model: Mapping[str, Any], tokenizer: Any) -> None:
    """Raises UserError where a text tower expects other special tokens than the vocabulary has."""
    for tower, node in model['towers'].items():
        if 'vocab_size' not in list_arguments(TOWERS[node['kind']]):
            continue
        where = f'config.model.towers.{tower}'
        # Such a tower finds the end of a text by its token and needs no padding mask.
        pools_end = node.get('pool') == 'eot'
        pad_id = node.get('pad_id', PAD)
        if pools_end and node.get('eot_id') != tokenizer.eos_id:
            raise UserError(
                f'{where}.eot_id={node.get("eot_id")} is not the end of a text in the vocabulary, '
                f'{tokenizer.eos_id}: the tower would pool another token.'
            )
        if not pools_end and not node.get('attend_padding') and pad_id != tokenizer.pad_id:
            raise UserError(
                f'{where}.pad_id={pad_id} is not the padding of the vocabulary, '
                f'{tokenizer.pad_id}: the tower would read padding as text.'
            )
