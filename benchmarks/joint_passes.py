"""Joint passes against separate passes at the papers' size, with random weights and pairs.

    python benchmarks/joint_passes.py [--config=vldeformer:base,plain] [--batch=512]
        [--coco 5000 25000] [--attention=xla]

Measures passes per second of one model: compiled before, each call waited for, the median of RUNS.
From them follow the seconds of a retrieval of COCO's size: one joint pass per pair, or each side
alone, all products of embeddings, and the ten best of every row and column. Needs no TensorFlow and
no data.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mural_jax.config.load import load_config
from mural_jax.models.functional import merge
from mural_jax.runs.run import Run

RUNS = 9


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--config', default='vldeformer:base,plain')
    parser.add_argument('--batch', type=int, default=512)
    parser.add_argument('--coco', type=int, nargs=2, default=[5000, 25000])
    parser.add_argument('--attention', default='xla')
    arguments = parser.parse_args()
    run = Run.of(load_config(arguments.config, [f'--config.model.attention={arguments.attention}']))
    graphdef, params, statistics = run.build_model(run.tokenizer.vocab_size)
    shapes = run.batch_shapes()['pairs']
    text_BL, region_BRF = make_pairs(arguments.batch, shapes)

    @functools.partial(jax.jit, static_argnums=0)
    def run_pass(encoder: str, *inputs: jax.Array) -> jax.Array:
        model = merge(graphdef, params, statistics)
        if encoder == 'joint':
            return model.matches(model.encode(encoder, inputs))
        return model.represent('image_text', encoder, model.encode(encoder, inputs[0]))

    rates = {
        encoder: arguments.batch / median_seconds(functools.partial(run_pass, encoder, *inputs))
        for encoder, inputs in (
            ('joint', (text_BL, region_BRF)),
            ('image', (region_BRF,)),
            ('text', (text_BL,)),
        )
    }
    device = jax.devices()[0]
    print(
        f'{arguments.config} on {device.device_kind}, {text_BL.shape[1]} tokens, '
        f'{region_BRF.shape[1]} regions, jax {jax.__version__}'
    )
    for encoder, rate in rates.items():
        print(f'{encoder}: {rate:,.0f} passes per second')
    images, captions = arguments.coco
    joint = images * captions / rates['joint']
    encode = images / rates['image'] + captions / rates['text']
    score = time_scoring(images, captions, run.spaces['image_text'].embedding)
    print(
        f'{images:,} x {captions:,}: {joint:,.0f} s jointly (extrapolated), {encode:.2f} s to '
        f'encode alone and {score:.3f} s to score: {joint / (encode + score):,.0f} times faster'
    )


def make_pairs(batch: int, shapes: dict) -> tuple[jax.Array, jax.Array]:
    """Texts and images without padding: (int32 [B, L], float32 [B, R, F])."""
    text_BL = jnp.full((batch, *shapes['text'].shape[1:]), 5, jnp.int32)
    region_BRF = jax.random.normal(jax.random.key(0), (batch, *shapes['regions'].shape[1:]))
    geometry = jnp.array([0.1, 0.1, 0.4, 0.4, 0.09])
    return text_BL, region_BRF.at[..., -5:].set(geometry[None, None])


def time_scoring(images: int, captions: int, width: int) -> float:
    """Seconds to compute all products and the ten best of every row and column."""
    image_ND, text_MD = (
        jax.random.normal(jax.random.key(n), (n, width)) for n in (images, captions)
    )

    @jax.jit
    def find_best(image_ND: jax.Array, text_MD: jax.Array) -> tuple:
        score_NM = image_ND @ text_MD.T
        return jax.lax.top_k(score_NM, 10), jax.lax.top_k(score_NM.T, 10)

    return median_seconds(functools.partial(find_best, image_ND, text_MD))


def median_seconds(call: Callable) -> float:
    times = []
    for _ in range(RUNS + 1):  # The first call compiles.
        started = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - started)
    return statistics.median(times[1:])


if __name__ == '__main__':
    main()
