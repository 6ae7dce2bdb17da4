"""The pairwise sigmoid against a double loop in float64."""

import jax
import jax.numpy as jnp
import numpy as np
from objectives import oracles
from objectives.oracles import make_example

from mural_jax.objectives.sigmoid import Sigmoid
from mural_jax.objectives.softmax import Softmax
from mural_jax.similarity.measures import COSINE


def test_loss_equals_double_loop() -> None:
    x, y, ids = make_example()
    scalars = {'temperature': jnp.float32(0.1), 'bias': jnp.float32(-3.0)}
    loss, _ = Sigmoid()(COSINE, x, y, ids, scalars)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, oracles.sigmoid(x, y, ids, 0.1, -3.0), rtol=2e-6)


def test_accuracy_is_that_of_softmax() -> None:
    x, y, ids = make_example()
    scalars = {'temperature': jnp.float32(0.1), 'bias': jnp.float32(-3.0)}
    _, logs = Sigmoid()(COSINE, x, y, ids, scalars)
    _, of_softmax = Softmax()(COSINE, x, y, ids, scalars)
    np.testing.assert_allclose(logs['accuracy'], of_softmax['accuracy'])


def test_bias_of_zero_falls_and_gradients_stay_finite() -> None:
    """Most pairs are negatives, so a bias of zero is too high; the temperature is tiny."""
    x, y, ids = make_example()

    def loss(bias: jax.Array, temperature: jax.Array) -> jax.Array:
        return Sigmoid()(COSINE, x, y, ids, {'temperature': temperature, 'bias': bias})[0]

    slopes = jax.grad(loss, argnums=(0, 1))(jnp.float32(0.0), jnp.float32(1e-3))
    assert slopes[0] > 0
    assert np.isfinite(slopes).all()
