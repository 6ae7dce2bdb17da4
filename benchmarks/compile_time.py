"""How long a training step takes to trace, lower and compile, without arrays: any config.

python benchmarks/compile_time.py mural:base [--batch_size=64] [--config.field=value ...]
"""

import argparse
import time

import jax
import numpy as np

from mural_jax import config
from mural_jax.run import Run
from mural_jax.training import step as training_step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('config')
    parser.add_argument('--batch_size', type=int, default=64)
    arguments, overrides = parser.parse_known_args()
    run = Run.of(config.load(arguments.config, overrides))
    started = time.perf_counter()
    graphdef, params, statistics = run.build_model(run.tokenizer.vocab_size, abstract=True)
    fixed = run.build_trainer(graphdef, params).fixed
    state = jax.eval_shape(
        lambda: training_step.init(_zeros(params), _zeros(statistics), fixed.optimizer)
    )
    size = arguments.batch_size
    text = jax.ShapeDtypeStruct((size, run.text_length), np.int32)
    ids = jax.ShapeDtypeStruct((size, 2), np.int32)
    image = jax.ShapeDtypeStruct((size, run.image_size, run.image_size, 3), np.uint8)
    batches = {
        name: {'ids': ids, **({'image': image, 'text': text} if node['kind'] == 'captions'
                              else {'source': text, 'target': text})}
        for name, node in run.streams.items()
    }  # fmt: skip
    marks = [('build the model', time.perf_counter() - started)]
    stages = training_step.train_step
    value = stages
    for name, call in (
        ('trace', lambda step: step.trace(fixed, np.uint32(0), state, batches)),
        ('lower', lambda traced: traced.lower()),
        ('compile', lambda lowered: lowered.compile()),
    ):
        started = time.perf_counter()
        value = call(value)
        marks.append((name, time.perf_counter() - started))
    print(f'{arguments.config}, batch {size}, {jax.default_backend()}, jax {jax.__version__}')
    for name, seconds in marks:
        print(f'{name:16} {seconds:7.1f} s')


def _zeros(tree: dict) -> dict:
    return jax.tree.map(lambda x: jax.numpy.zeros(x.shape, x.dtype), tree)


if __name__ == '__main__':
    main()
