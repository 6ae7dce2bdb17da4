"""Memory that a contrastive loss and its gradients take on a TPU, measured without a TPU.

python benchmarks/loss_memory.py [--topology=v5e:4x4] [--batches=4096,16384,65536]
                                 [--width=640] [--tile=128]

Compiles the loss alone, with its gradients for both embeddings and for its scalars, for a topology
of chips that need not be present. Prints the memory that the compiler allocates on each chip.
Embeddings are not donated, since a training step needs them until the end of the backward pass.

Compiles each loss twice: as in training, where the compiler keeps what it can in the memory inside
the chip (128 MB on v5e) and the rest in HBM; and with everything in HBM, which shows the total.
"""

import argparse
import importlib.metadata as metadata
import os
import time

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['TPU_SKIP_MDS_QUERY'] = '1'

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mural_jax.distributed.mesh import MeshShape, batch_sharding
from mural_jax.objectives.pairwise import WAYS, PairObjective
from mural_jax.objectives.sigmoid import Sigmoid
from mural_jax.objectives.softmax import Softmax
from mural_jax.similarity.measures import COSINE

MB = 2**20
REFUSED = 'RESOURCE_EXHAUSTED'
ALL_IN_HBM: dict[str, bool | str] = {'xla_msa_enable': False}  # no memory space assignment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--topology', default='v5e:4x4')
    parser.add_argument('--batches', default='4096,16384,65536')
    parser.add_argument('--width', type=int, default=640, help="Default: MURAL's, 640.")
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
                cells += measure(objective, size, arguments.width, mesh)
                print(f'| {" | ".join(cells)} |', flush=True)


def measure(objective: PairObjective, size: int, width: int, mesh: Mesh) -> list[str]:
    """MB of arguments, results, temporaries in HBM and all temporaries; seconds of compilation."""

    def loss(query_BD, result_BD, scalars, ids_BN):
        return objective(COSINE, query_BD, result_BD, ids_BN, scalars)

    split, whole = batch_sharding(mesh), NamedSharding(mesh, PartitionSpec())
    vector_BD = jax.ShapeDtypeStruct((size, width), jnp.float32, sharding=split)
    ids_BN = jax.ShapeDtypeStruct((size, 2), jnp.int32, sharding=split)
    scalar = jax.ShapeDtypeStruct((), jnp.float32, sharding=whole)
    scalars = dict.fromkeys(objective.scalars, scalar)
    step = jax.jit(
        jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True),
        out_shardings=(whole, (split, split, whole)),
    )
    with jax.set_mesh(mesh):
        lowered = step.lower(vector_BD, vector_BD, scalars, ids_BN)
    started = time.perf_counter()
    in_training = compile_and_measure(lowered, {})
    seconds = f'{time.perf_counter() - started:.1f}'
    in_hbm = compile_and_measure(lowered, ALL_IN_HBM)
    return [*(in_training or ['', '', REFUSED]), in_hbm[2] if in_hbm else REFUSED, seconds]


def compile_and_measure(
    lowered: jax.stages.Lowered, options: dict[str, bool | str]
) -> list[str] | None:
    """MB of arguments, results and temporaries per chip; None for a program that does not fit."""
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
