"""Matching: does a text belong to an image, asked against the most similar of a group?"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from mural_jax.objectives import prediction
from mural_jax.objectives.prediction import Predicted
from mural_jax.similarity.labels import shares_id
from mural_jax.tasks.base import Pass
from mural_jax.tasks.grouped import Grouped
from mural_jax.types import Array


@dataclasses.dataclass(frozen=True)
class Matching(Grouped):
    """Predicts whether text and image belong together, with negatives that are hard to tell.

    For each text another image of its group is drawn, the more similar the more often (softmax of
    the score over the temperature of `space`), and for each image another text. That is ALBEF (Li
    et al. 2021, arXiv:2107.07651) and X-VLM (Zeng et al. 2022, arXiv:2111.08276), which draw from
    the batch of a device. The scores get no gradient from this task.
    """

    def outputs(self, given: Pass) -> Predicted:
        """See `Task`."""
        model, batch = given.model, given.batch
        text_BL, image = self.pair_inputs(batch)
        score_NGG = jax.lax.stop_gradient(self.group_scores(model, given.encodings))
        logit_NGG = score_NGG / jax.lax.stop_gradient(model.scalars(self.space)['temperature'])
        ids_NGI = self.to_groups(batch['ids'])
        same_NGG = jax.vmap(shares_id)(ids_NGI, ids_NGI)
        # Two keys draw, three are for the dropout of the three joint passes.
        key_5B = jax.vmap(lambda key: jax.random.split(key, 5), out_axes=1)(given.key_B)
        image_B, has_image_B = self.draw_others(key_5B[0], logit_NGG, same_NGG)
        # The same scores, transposed: now each image draws among the texts.
        text_B, has_text_B = self.draw_others(
            key_5B[1], logit_NGG.swapaxes(1, 2), same_NGG.swapaxes(1, 2)
        )
        # (texts, images, which of these pairs count, whether they belong together)
        pairs: tuple[tuple[Array, Any, Array, int], ...] = (
            (text_BL, image, jnp.ones(len(text_BL), bool), 1),
            (text_BL, jax.tree.map(lambda x: x[image_B], image), has_image_B, 0),
            (text_BL[text_B], image, has_text_B, 0),
        )
        predicted = []
        for key_B, (texts, images, counts_B, match) in zip(key_5B[2:], pairs):
            score_B = model.matches(model.encode('joint', (texts, images), key_B))
            target_B = jnp.where(counts_B, match, prediction.NONE)
            predicted.append(prediction.classify_binary(score_B, target_B))
        return jax.tree.map(lambda *parts: sum(parts), *predicted)

    def draw_others(self, key_B: Array, logit_NGG: Array, same_NGG: Array) -> tuple[Array, Array]:
        """(place in the batch of another example of the group, whether there is one), [B] each."""
        open_BG = ~same_NGG.reshape(-1, self.among)
        logit_BG = jnp.where(open_BG, logit_NGG.reshape(-1, self.among), -jnp.inf)
        # A row without any other example would be all -inf; what it draws does not count.
        safe_BG = jnp.where(open_BG.any(1, keepdims=True), logit_BG, 0.0)
        place_B = jax.vmap(jax.random.categorical)(key_B, safe_BG)
        first_B = jnp.arange(len(place_B)) // self.among * self.among
        return first_B + place_B, open_BG.any(1)

    def loss(self, given: Pass, outputs: Predicted) -> tuple[Array, dict[str, Array]]:
        """See `Task`."""
        return prediction.average(outputs)
