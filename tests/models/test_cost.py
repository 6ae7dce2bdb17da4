"""Operations counted from shapes."""

import jax
import jax.numpy as jnp

from mural_jax.models import cost


def test_products_inside_a_loop_count_once_per_turn() -> None:
    x, w = jnp.ones((8, 16)), jnp.ones((12, 16, 16))

    def multiply(x: jax.Array, w: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda x, w: (x @ w, None), x, w)[0]

    assert sum(cost.count_flops(multiply, x, w).values()) == 12 * 2 * 8 * 16 * 16


def test_grouped_convolution_counts_the_channels_of_its_group() -> None:
    image, kernel = jnp.ones((1, 6, 6, 4)), jnp.ones((3, 3, 1, 4))

    def convolve(image: jax.Array, kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            image,
            kernel,
            (1, 1),
            'SAME',
            feature_group_count=4,
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        )

    assert sum(cost.count_flops(convolve, image, kernel).values()) == 2 * 6 * 6 * 4 * 9
