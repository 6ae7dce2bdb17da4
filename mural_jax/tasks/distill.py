"""Distillation: the scores of a group become like those of a joint model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mural_jax.models.one_stream import OneStream
from mural_jax.tasks.grouped import Grouped
from mural_jax.types import Array, Batch, Encoding


@dataclasses.dataclass(frozen=True)
class Distillation(Grouped):
    """The cosines of a group become like the matching scores of the joint model, the teacher.

        L = mean_i KL(softmax_j(t_ij) || softmax_j(s_ij / T)), over pictures and over texts, added

    with t the matching scores (log-odds) of the tower `teacher`, s the cosines, T the temperature
    of `space`. Ours: VLDeformer names no form of it. It costs `among` joint passes an example,
    without gradient.
    """

    def outputs(
        self, name: str, model: OneStream, encodings: list[Encoding], batch: Batch, key_B: Array
    ) -> dict[str, Array]:
        logit_NGG = self.similarity(model, encodings) / model.scalars(self.space)['temperature']
        teacher_NGG = jax.lax.stop_gradient(self._taught(model, *self.pair(batch)))
        rows, columns = (_divergence(teacher_NGG, logit_NGG, axis) for axis in (2, 1))
        best_NG = teacher_NGG.argmax(2) == logit_NGG.argmax(2)
        agree_B = best_NG.reshape(-1).astype(jnp.float32)
        return {'loss_B': (rows + columns).reshape(-1), 'agree_B': agree_B}

    def _taught(self, model: OneStream, text_BL: Array, picture: Any) -> Array:
        """The teacher's scores of each text with each picture of its group, [N, G, G]."""
        text_NGL, picture = self.grouped(text_BL), jax.tree.map(self.grouped, picture)
        size = text_NGL.shape[:2]

        def each(x: Array, dim: int) -> Array:
            """[N, G, ...] -> [N * G * G, ...], one of the two the outer one."""
            wide = jnp.repeat(jnp.expand_dims(x, dim), self.among, axis=dim)
            return wide.reshape(-1, *x.shape[2:])

        text, seen = each(text_NGL, 2), jax.tree.map(lambda x: each(x, 1), picture)
        return model.taught(text, seen).reshape(*size, self.among)

    def loss(
        self, name: str, model: OneStream, outputs: dict[str, Array], batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        return outputs['loss_B'].mean(), {'agreement': outputs['agree_B'].mean()}


def _divergence(teacher: Array, student: Array, axis: int) -> Array:
    """KL(softmax(teacher) || softmax(student)) over an axis of [N, G, G] -> [N, G]."""
    wanted, given = (jax.nn.log_softmax(x, axis) for x in (teacher, student))
    return (jnp.exp(wanted) * (wanted - given)).sum(axis)
