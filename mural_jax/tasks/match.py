"""Matching: does a text belong to an image, against the most similar of a group?"""

import dataclasses

import jax
import jax.numpy as jnp

from mural_jax.models.one_stream import OneStream
from mural_jax.objectives import prediction
from mural_jax.objectives.prediction import Predicted
from mural_jax.similarity.labels import shares_id
from mural_jax.tasks.grouped import Grouped
from mural_jax.types import Array, Batch, Encoding


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
