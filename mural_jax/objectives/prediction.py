"""Predictions of hidden parts: one cross-entropy an example, so that parts of a batch add up."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mural_jax.types import Array

NONE = -1  # The target of a place where nothing is predicted.


class Predicted(NamedTuple):
    """What each example adds to a loss and an accuracy: float32 [B] each.

    loss_B: Sum of the losses of its places. right_B: Number of places whose most likely class is
    the target. count_B: Number of places with a target.
    """

    loss_B: Array
    right_B: Array
    count_B: Array


def classify(logit_BMV: Array, target_BM: Array) -> Predicted:
    """-log softmax(logit)[target], summed over the places of an example that have a target.

    logit_BMV: Scores of V classes at M places. target_BM: Class numbers, int32, NONE where nothing
    is to be predicted.
    """
    logit_BMV = logit_BMV.astype(jnp.float32)
    real_BM = target_BM != NONE
    # Where there is no target any class will do: its loss is masked out below.
    wanted_BM1 = jnp.where(real_BM, target_BM, 0)[..., None]
    own_BM = jnp.take_along_axis(logit_BMV, wanted_BM1, axis=-1)[..., 0]
    loss_BM = jax.nn.logsumexp(logit_BMV, axis=-1) - own_BM
    right_BM = jnp.argmax(logit_BMV, axis=-1) == wanted_BM1[..., 0]
    return Predicted(*(jnp.where(real_BM, x, 0.0).sum(1) for x in (loss_BM, right_BM, 1.0)))


def classify_binary(logit_B: Array, target_B: Array) -> Predicted:
    """-log sigmoid(logit) where the target is 1, -log sigmoid(-logit) where it is 0.

    target_B: int32, NONE where nothing is to be predicted.
    """
    logit_B = logit_B.astype(jnp.float32)
    real_B = target_B != NONE
    loss_B = jax.nn.softplus(jnp.where(target_B == 1, -logit_B, logit_B))
    right_B = (logit_B > 0) == (target_B == 1)
    return Predicted(*(jnp.where(real_B, x, 0.0) for x in (loss_B, right_B, 1.0)))


def average(predicted: Predicted) -> tuple[Array, dict[str, Array]]:
    """(loss, logs): means over all places of all examples; a loss of 0 where there is none.

    Logs: `accuracy`, the share of places that are predicted right, in [0, 1].
    """
    # Without any target the sums are 0, and so is their mean.
    count = jnp.maximum(predicted.count_B.sum(), 1.0)
    accuracy = predicted.right_B.sum() / count
    return predicted.loss_B.sum() / count, {'accuracy': accuracy}
