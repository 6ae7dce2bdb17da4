"""Tasks that pass pairs of other examples jointly: of every group of examples that follow."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mural_jax.models.one_stream import OneStream
from mural_jax.objectives import prediction
from mural_jax.objectives.prediction import Predicted
from mural_jax.objectives.similarity import shares_id
from mural_jax.tasks import Encode, inputs_of
from mural_jax.types import Array, Batch, Encoding, UserError


@dataclasses.dataclass(frozen=True)
class Grouped:
    """What these tasks share.

    stream: of whole pairs. encode: ((picture, 'image'), (text, 'text')), what is compared, as in
    the contrast task `space`, in whose space it is. among: examples of a group, at least 2; the
    others of its group are the others of an example. It divides the batch, and each part of it
    where a step passes it in parts: these have other groups than the whole batch. weight: of the
    loss.
    """

    stream: str
    encode: Encode
    space: str = 'image_text'
    among: int = 16
    weight: float = 1.0

    def __post_init__(self) -> None:
        if [tower for _, tower in self.encode[:2]] != ['image', 'text']:
            raise UserError(
                f"encode={self.encode} must be ((picture, 'image'), (text, 'text'), ...)."
            )
        if self.among < 2:
            raise UserError(f'among={self.among} must be at least 2.')

    def similarity(self, model: OneStream, encodings: list[Encoding]) -> Array:
        """Cosines of texts with the pictures of their group, float32 [N, G, G]."""
        image_NGD, text_NGD = (
            self.grouped(model.project(self.space, tower, encoding).pooled_BD)
            for (_, tower), encoding in zip(self.encode[:2], encodings)
        )
        return jnp.einsum('ngd,nhd->ngh', text_NGD, image_NGD)

    def grouped(self, x: Array) -> Array:
        """[B, ...] -> [N, G, ...]."""
        return x.reshape(-1, self.among, *x.shape[1:])

    def pair(self, batch: Batch) -> tuple[Any, Any]:
        """(texts, pictures) of a batch."""
        (picture, _), (text, _) = self.encode[:2]
        return inputs_of(batch, text), inputs_of(batch, picture)


@dataclasses.dataclass(frozen=True)
class Matching(Grouped):
    """Whether text and picture belong together, against the most similar of a group.

    For each text a picture that is not its own is drawn, more often the more similar by the
    cosine over the temperature of `space`, and a text for each picture (ALBEF, Li et al. 2021,
    arXiv:2107.07651; X-VLM, Zeng et al. 2022, arXiv:2111.08276, which draw from the batch of a
    device). Similarity gets no gradient.
    """

    def outputs(
        self, name: str, model: OneStream, encodings: list[Encoding], batch: Batch, key_B: Array
    ) -> Predicted:
        text_BL, picture = self.pair(batch)
        cosine_NGG = jax.lax.stop_gradient(self.similarity(model, encodings))
        logit_NGG = cosine_NGG / jax.lax.stop_gradient(model.scalars(self.space)['temperature'])
        ids_NGI = self.grouped(batch['ids'])
        same_NGG = jax.vmap(shares_id)(ids_NGI, ids_NGI)
        key_5B = jax.vmap(lambda key: jax.random.split(key, 5), out_axes=1)(key_B)
        drawn = []
        for keys, logits, same in (
            (key_5B[0], logit_NGG, same_NGG),
            (key_5B[1], logit_NGG.swapaxes(1, 2), same_NGG.swapaxes(1, 2)),
        ):
            drawn.append(self._drawn(keys, logits, same))
        (picture_B, has_picture_B), (text_B, has_text_B) = drawn
        pairs = (
            (text_BL, picture, jnp.ones(len(text_BL), bool), 1),
            (text_BL, jax.tree.map(lambda x: x[picture_B], picture), has_picture_B, 0),
            (text_BL[text_B], picture, has_text_B, 0),
        )
        found = []
        for keys, (text, seen, real_B, match) in zip(key_5B[2:], pairs):
            score_B = model.matches(model.encode('joint', (text, seen), keys))
            target_B = jnp.where(real_B, match, prediction.NONE)
            found.append(prediction.yes_or_no(score_B, target_B))
        return jax.tree.map(lambda *parts: sum(parts), *found)

    def _drawn(self, key_B: Array, logit_NGG: Array, same_NGG: Array) -> tuple[Array, Array]:
        """(place in the batch of another one of the group, whether there is one), [B] each."""
        open_BG = ~same_NGG.reshape(-1, self.among)
        logit_BG = jnp.where(open_BG, logit_NGG.reshape(-1, self.among), -jnp.inf)
        own_BG = jnp.where(open_BG.any(1, keepdims=True), logit_BG, 0.0)
        place_B = jax.vmap(jax.random.categorical)(key_B, own_BG)
        first_B = jnp.arange(len(place_B)) // self.among * self.among
        return first_B + place_B, open_BG.any(1)

    def loss(
        self, name: str, model: OneStream, outputs: Predicted, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        return prediction.mean(outputs)


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
