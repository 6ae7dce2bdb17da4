"""Distillation: the scores of a space learn the ranking of a joint model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mural_jax.config.build import check_known
from mural_jax.tasks.base import Pass, Setup
from mural_jax.tasks.grouped import Grouped
from mural_jax.types import Array, UserError


@dataclasses.dataclass(frozen=True)
class Distillation(Grouped):
    """Scores within a group become like the matching scores of a teacher.

        L = mean_i KL(softmax_j(t_ij) || softmax_j(s_ij / T)), over images and over texts, added

    with t the matching scores (log-odds) of the companion `teacher`, s the scores of `space` and T
    its temperature. Ours: VLDeformer names no form of it. It costs `among` joint passes an
    example, without gradient.

    teacher: Name of the companion, a model of one stream.
    """

    teacher: str = 'teacher'

    def outputs(self, given: Pass) -> dict[str, Array]:
        """See `Task`."""
        model = given.model
        logit_NGG = self.group_scores(model, given.encodings)
        logit_NGG /= model.scalars(self.space)['temperature']
        teacher = model.companions[self.teacher]
        # The teacher explains, it does not learn from the student, even where it is not frozen.
        teacher_NGG = jax.lax.stop_gradient(
            self.match_within_groups(teacher, *self.pair_inputs(given.batch))
        )
        rows, columns = (_divergence(teacher_NGG, logit_NGG, axis) for axis in (2, 1))
        agrees_NG = teacher_NGG.argmax(2) == logit_NGG.argmax(2)
        return {
            'loss_B': (rows + columns).reshape(-1),
            'agree_B': agrees_NG.reshape(-1).astype(jnp.float32),
        }

    def match_within_groups(self, joint_model: Any, text_BL: Array, image: Any) -> Array:
        """Matching scores of each text with each image of its group, float32 [N, G, G]."""
        text_NGL, image = self.to_groups(text_BL), jax.tree.map(self.to_groups, image)
        size = text_NGL.shape[:2]

        def repeat(x: Array, dim: int) -> Array:
            """[N, G, ...] -> [N * G * G, ...]; `dim` says which of the two G varies slowly."""
            wide = jnp.repeat(jnp.expand_dims(x, dim), self.among, axis=dim)
            return wide.reshape(-1, *x.shape[2:])

        # Text i of a group meets its images one after the other.
        texts, images = repeat(text_NGL, 2), jax.tree.map(lambda x: repeat(x, 1), image)
        score_P = joint_model.matches(joint_model.encode('joint', (texts, images)))
        return score_P.reshape(*size, self.among)

    def loss(self, given: Pass, outputs: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
        """See `Task`."""
        return outputs['loss_B'].mean(), {'agreement': outputs['agree_B'].mean()}

    def check(self, setup: Setup, where: str) -> None:
        """See `Task`."""
        super().check(setup, where)
        check_known(self.teacher, setup.companions, f'{where}.teacher')
        if not (setup.companions[self.teacher].init_from or setup.init_from.get('model')):
            raise UserError(
                f'config.{where} learns from the companion {self.teacher!r}, which has no weights. '
                f'Name the run of its joint model: --config.companions.{self.teacher}.init_from='
                'WORKDIR, or --config.init_from.model=WORKDIR where this model starts from it too.'
            )


def _divergence(teacher: Array, student: Array, axis: int) -> Array:
    """KL(softmax(teacher) || softmax(student)) over an axis of [N, G, G] -> [N, G]."""
    wanted, given = (jax.nn.log_softmax(x, axis) for x in (teacher, student))
    return (jnp.exp(wanted) * (wanted - given)).sum(axis)
