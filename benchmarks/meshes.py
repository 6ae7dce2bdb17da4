"""Losses on every mesh over eight CPU devices, in 2 and 4 processes, against those of one process.

    python benchmarks/meshes.py [--steps=3]

Each mesh takes the devices process by process, and by turns, as meshes on TPU slices do. Prints a
line for each, and ends with exit code 1 if a loss differs by more than 1e-5 of it.
"""

import argparse
import itertools
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

DEVICES = 8
SIZES = (1, 2, 4, 8)
TOLERANCE = 1e-5
VOCABULARY_SIZE = 60


def list_meshes() -> list[dict[str, int]]:
    return [
        dict(data=data, fsdp=fsdp, tensor=tensor)
        for data, fsdp, tensor in itertools.product(SIZES, repeat=3)
        if data * fsdp * tensor == DEVICES
    ]


def draw_batches(run: Any, mesh: Any, steps: int) -> Iterator[dict[str, Any]]:
    """This process's rows of `steps` random batches of each stream."""
    from mural_jax.distributed.mesh import find_rows

    for step in range(steps):
        rng = np.random.default_rng(step)
        batches: dict[str, Any] = {}
        for name, fields in run.batch_shapes().items():
            whole = {
                field: rng.integers(1, VOCABULARY_SIZE, shape.shape).astype(shape.dtype)
                for field, shape in fields.items()
                if field != 'index'
            }
            rows = find_rows(mesh, len(whole['ids']))
            batches[name] = {field: value[rows] for field, value in whole.items()}
        yield batches


def train(steps: int, meshes: list[dict[str, int]]) -> None:
    """Trains on each mesh, in the process that the environment describes; prints the losses."""
    import jax

    from mural_jax.config.load import load_config
    from mural_jax.distributed import processes
    from mural_jax.runs.run import Run
    from mural_jax.types import UserError

    processes.join()
    plain = jax.make_mesh
    by_process = sorted(jax.devices(), key=lambda device: device.id)
    in_turns = [
        device
        for turn in zip(*np.split(np.array(by_process), jax.process_count()), strict=True)
        for device in turn
    ]
    for sizes in meshes:
        for order, devices in {'by process': by_process, 'in turns': in_turns}.items():
            jax.make_mesh = lambda *args, devices=devices, **more: plain(
                *args, **(more | {'devices': devices})
            )
            words = [f'--config.mesh.{axis}={size}' for axis, size in sizes.items()]
            run = Run.of(load_config('emoji:align,tiny', words))
            found: Any = []
            try:
                graphdef, params, statistics = run.build_model(VOCABULARY_SIZE)
                trainer = run.build_trainer(graphdef, params)
                state = trainer.initial_state(params, statistics)
                for batches in draw_batches(run, trainer.mesh, steps):
                    state, logs = trainer.step(state, batches)
                    found.append(float(logs['loss']))
            except UserError as error:
                found = str(error)
            processes.say(json.dumps({'mesh': sizes, 'order': order, 'losses': found}))
            jax.clear_caches()


def start(count: int, steps: int, meshes: list[dict[str, int]]) -> Iterator[dict[str, Any]]:
    """Yields what `train` says for each mesh, in `count` processes on this machine."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        address = f'localhost:{free.getsockname()[1]}'
    flags = f'--xla_force_host_platform_device_count={DEVICES // count}'
    flags += ' --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false'
    running = []
    for index in range(count):
        world = {
            'JAX_NUM_PROCESSES': str(count),
            'JAX_COORDINATOR_ADDRESS': address,
            'JAX_PROCESS_ID': str(index),
        }
        environment = os.environ | {'JAX_PLATFORMS': 'cpu', 'XLA_FLAGS': flags, 'NPROC': '32'}
        command = [sys.executable, __file__, f'--steps={steps}', f'--meshes={json.dumps(meshes)}']
        running.append(
            subprocess.Popen(
                command,
                env=environment | (world if count > 1 else {}),
                stdout=subprocess.PIPE if index == 0 else subprocess.DEVNULL,
                text=True,
            )
        )
    for line in running[0].stdout or ():
        if line.startswith('{'):
            yield json.loads(line)
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f'{count} processes ended with {codes}.')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--steps', type=int, default=3)
    parser.add_argument('--meshes', type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.meshes:
        train(arguments.steps, arguments.meshes)
        return
    one = list(start(1, arguments.steps, [dict(data=DEVICES, fsdp=1, tensor=1)]))[0]['losses']
    print(f'one process: {one}', flush=True)
    wrong = 0
    for count in (2, 4):
        for found in start(count, arguments.steps, list_meshes()):
            shape = ', '.join(f'{axis}={size}' for axis, size in found['mesh'].items())
            said = found['losses']
            if not isinstance(said, str):
                largest = float(np.max(np.abs(np.array(said) / one - 1)))
                wrong += largest > TOLERANCE
                said = f'differs by {largest:.1e}'
            print(f'{count} processes, {found["order"]}, {shape}: {said}', flush=True)
    raise SystemExit(1 if wrong else 0)


if __name__ == '__main__':
    main()
