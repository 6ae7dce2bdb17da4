"""Predictions of what was hidden, against float64 loops; parts add up."""

import jax
import jax.numpy as jnp
import numpy as np

from mural_jax.objectives import prediction
from mural_jax.objectives.prediction import NONE

LOGIT_BMV = np.array(jax.random.normal(jax.random.key(0), (4, 3, 5))) * 3
TARGET_BM = np.array([[0, 4, NONE], [2, NONE, NONE], [NONE] * 3, [1, 1, 3]])


def test_class_losses_equal_double_loop() -> None:
    predicted = prediction.classify(jnp.array(LOGIT_BMV), jnp.array(TARGET_BM))
    for b, targets in enumerate(TARGET_BM):
        losses, right = [], 0
        for m, target in enumerate(targets):
            if target != NONE:
                logit = LOGIT_BMV[b, m].astype(np.float64)
                losses.append(np.log(np.exp(logit).sum()) - logit[target])
                right += int(logit.argmax() == target)
        np.testing.assert_allclose(predicted.loss_B[b], sum(losses), rtol=1e-5)
        assert predicted.right_B[b] == right and predicted.count_B[b] == len(losses)


def test_binary_losses_equal_loop() -> None:
    logit_B, target_B = np.array([2.0, -3.0, 0.5, 7.0, -90.0]), np.array([1, 1, 0, NONE, 0])
    predicted = prediction.classify_binary(jnp.array(logit_B), jnp.array(target_B))
    sign_B = np.where(target_B == 1, 1, -1)
    loss_B = np.where(target_B == NONE, 0, np.log1p(np.exp(-sign_B * logit_B)))
    np.testing.assert_allclose(predicted.loss_B, loss_B, rtol=1e-5, atol=1e-30)
    np.testing.assert_array_equal(predicted.right_B, [1, 0, 0, 0, 1])
    np.testing.assert_array_equal(predicted.count_B, [1, 1, 1, 0, 1])


def test_mean_over_places_does_not_depend_on_split() -> None:
    whole = prediction.classify(jnp.array(LOGIT_BMV), jnp.array(TARGET_BM))
    parts = [
        prediction.classify(jnp.array(LOGIT_BMV[cut]), jnp.array(TARGET_BM[cut]))
        for cut in (slice(0, 1), slice(1, 4))
    ]
    joined = prediction.Predicted(*(jnp.concatenate(x) for x in zip(*parts)))
    loss, logs = prediction.average(whole)
    again, _ = prediction.average(joined)
    np.testing.assert_allclose(loss, again, rtol=1e-6)
    np.testing.assert_allclose(loss, whole.loss_B.sum() / 6, rtol=1e-6)
    assert 0 <= logs['accuracy'] <= 1


def test_no_target_means_no_loss_and_no_gradient() -> None:
    def loss(logit_BMV: jax.Array) -> jax.Array:
        return prediction.average(prediction.classify(logit_BMV, jnp.full((4, 3), NONE)))[0]

    value, gradient = jax.value_and_grad(loss)(jnp.array(LOGIT_BMV))
    assert value == 0 and not gradient.any()
