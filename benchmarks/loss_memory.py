"""What a contrastive loss and its gradients take of a TPU's memory, without a TPU.

python benchmarks/loss_memory.py [--topology=v5e:4x4] [--batches=4096,16384,65536]
                                 [--width=640] [--tile=128]

Compiles the loss alone, with its gradients for both embeddings and its scalars, for a pod that
nobody holds, and prints what the compiler sets aside on each chip. Embeddings are not donated: in
a step they are needed until the backward pass has ended.

Twice: as in use, where the compiler keeps what it can in the memory inside the chip (128 MB on
v5e) and the rest in HBM, and with all of it in HBM, which shows how much there is.
"""

import argparse
import importlib.metadata as metadata
import os
import time
from collections.abc import Callable

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['TPU_SKIP_MDS_QUERY'] = '1'

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mural_jax.distributed.mesh import MeshShape, batch_sharding
from mural_jax.objectives.pairwise import WAYS
from mural_jax.objectives.sigmoid import Sigmoid
from mural_jax.objectives.softmax import Softmax

MB = 2**20
REFUSED = 'RESOURCE_EXHAUSTED'
ALL_IN_HBM: dict[str, bool | str] = {'xla_msa_enable': False}  # Without memory space assignment.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--topology', default='v5e:4x4')
    parser.add_argument('--batches', default='4096,16384,65536')
    parser.add_argument('--width', type=int, default=640, help="MURAL's embedding (default: 640)")
    parser.add_argument('--tile', type=int, default=128)
    arguments = parser.parse_args()
    topology = topologies.get_topology_desc(arguments.topology, platform='tpu')
    mesh = MeshShape().build(topology.devices)
    print(f'{arguments.topology}, width {arguments.width}, tile {arguments.tile}')
    print(f'jax {jax.__version__}, libtpu {metadata.version("libtpu")}\n')
    print('| loss | by | global batch | arguments, MB | results, MB ', end='')
    print('| temporaries in HBM, MB | temporaries, all in HBM, MB | compile, s |')
    print('| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |')
    for kind in (Softmax, Sigmoid):
        for by in WAYS:
            for size in map(int, arguments.batches.split(',')):
                objective = kind(by=by, tile=arguments.tile)
                cells = [f'{kind.__name__.lower()}', by, f'{size:,}']
                cells += measured(objective, size, arguments.width, mesh)
                print(f'| {" | ".join(cells)} |', flush=True)


def measured(objective: Callable, size: int, width: int, mesh: Mesh) -> list[str]:
    """Arguments, results, temporaries as in use and all in HBM, and the seconds of compilation."""
    scalars = ('temperature', 'bias') if isinstance(objective, Sigmoid) else ('temperature',)

    def loss(query_BD, result_BD, scalars, ids_BN):
        return objective(query_BD, result_BD, ids_BN, **scalars)

    split, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    vector_BD = jax.ShapeDtypeStruct((size, width), jnp.float32, sharding=split)
    ids_BN = jax.ShapeDtypeStruct((size, 2), jnp.int32, sharding=split)
    each = {name: jax.ShapeDtypeStruct((), jnp.float32, sharding=whole) for name in scalars}
    step = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True),
        out_shardings=(whole, (split, split, whole)),
    )
    with jax.set_mesh(mesh):
        lowered = step.lower(vector_BD, vector_BD, each, ids_BN)
    started = time.perf_counter()
    in_use = stats(lowered, {})
    seconds = f'{time.perf_counter() - started:.1f}'
    in_hbm = stats(lowered, ALL_IN_HBM)
    return [*(in_use or ['', '', REFUSED]), in_hbm[2] if in_hbm else REFUSED, seconds]


def stats(lowered: jax.stages.Lowered, options: dict[str, bool | str]) -> list[str] | None:
    """Arguments, results and temporaries of a chip in MB; None for a program that does not fit."""
    try:
        memory = lowered.compile(options).memory_analysis()
    except jax.errors.JaxRuntimeError as error:
        if REFUSED not in str(error):
            raise
        return None
    kinds = ('argument', 'output', 'temp')
    return [f'{getattr(memory, f"{kind}_size_in_bytes") / MB:,.2f}' for kind in kinds]


if __name__ == '__main__':
    main()
