"""Which rows of a batch each process holds: on slices of TPUs and on processes of this machine."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from commands import find_worlds, start_script
from conftest import UNOPTIMISED, once
from training_processes import TrainingProcesses

from mural_jax.distributed.mesh import MeshShape, find_rows
from mural_jax.planning.chips import find_devices
from mural_jax.workdir import metrics

SIZE = 1024
SLICES = ['v4:2x2x4', 'v5e:4x4', 'v5e:16x16', 'v5p:2x4x4', 'v6e:8x8']


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='libtpu is not installed')
@pytest.mark.parametrize('fsdp', [1, 2])
@pytest.mark.parametrize('tensor', [1, 2, 4, 8])
@pytest.mark.parametrize('name', SLICES)
def test_each_row_is_read_by_the_processes_that_hold_it(name: str, tensor: int, fsdp: int) -> None:
    """The holders of a row follow here from the place of each device in the mesh."""
    mesh = MeshShape(fsdp=fsdp, tensor=tensor).build(find_devices(name))
    holders: list[set[int]] = [set() for _ in range(SIZE)]
    parts = mesh.devices.reshape(-1, tensor)
    for row, holder in enumerate(holders):
        holder |= {device.process_index for device in parts[row * len(parts) // SIZE]}
    for process in {device.process_index for device in mesh.devices.flat}:
        expected = [row for row, holder in enumerate(holders) if process in holder]
        assert find_rows(mesh, SIZE, process).tolist() == expected


EVALUATOR = 'image_text_seen'
WORDS = (
    '--config=emoji:align,tiny',
    '--config.schedule.num_steps=3',
    '--config.schedule.log_every=1',
    f'--config.evaluators.{EVALUATOR}.every=3',
    "--config.languages.image_text=('en',)",
    "--config.languages.translation_only=('uz',)",
)
# By number of processes, with two devices each, which take turns in the mesh.
MESHES = [(2, {'data': 4}), (2, {'tensor': 4}), (4, {'data': 2, 'fsdp': 2, 'tensor': 2})]
TURNS = {1: (), 2: (0, 2, 1, 3), 4: (0, 2, 4, 6, 1, 3, 5, 7)}


def train(folder: Path, data_dir: Path, count: int, *words: str) -> Path:
    """Trains in `count` processes with two devices each, which take turns in the mesh."""
    started = TrainingProcesses(
        count, folder, data_dir, *WORDS, *words, devices=2, order=TURNS[count]
    )
    assert started.wait() == [0] * count, started.read_log(0)
    return folder


@pytest.fixture(scope='session')
def alone(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run in one process."""
    return (
        once(tmp_path_factory, 'alone', lambda folder: train(folder / 'run', data_dir, 1) and None)
        / 'run'
    )


@pytest.mark.parametrize(('count', 'mesh'), MESHES)
def test_processes_whose_devices_take_turns_train_as_one(
    alone: Path, data_dir: Path, tmp_path: Path, count: int, mesh: dict[str, int]
) -> None:
    """The same losses and counts, and, scored while training, the same recalls."""
    shape = {'data': 1, 'fsdp': 1, 'tensor': 1} | mesh
    words = [f'--config.mesh.{axis}={size}' for axis, size in shape.items()]
    folder = train(tmp_path / 'run', data_dir, count, *words)
    steps, expected_steps = (
        [line for line in metrics.read(path) if 'loss' in line] for path in (folder, alone)
    )
    for ours, theirs in zip(steps, expected_steps, strict=True):
        losses = [name for name in theirs if name.endswith('loss')]
        counts = [name for name in theirs if name.startswith(('examples/', 'bad/'))]
        assert losses and counts
        assert {name: ours[name] for name in counts} == {name: theirs[name] for name in counts}
        found, expected = ([line[name] for name in losses] for line in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    found, expected = (
        json.loads((path / 'eval' / '3.json').read_text())['results'][EVALUATOR]
        for path in (folder, alone)
    )
    for language in ('en', 'uz'):
        for metric, value in expected[language].items():
            np.testing.assert_allclose(found[language][metric], value, rtol=0.02, atol=0.5)


# Each process embeds all images, pairs the first ten with the others, and writes what it has.
EMBED = """
import numpy as np
from mural_jax.config.load import load_config
from mural_jax.distributed import processes
from mural_jax.evaluation.embed import ModelEmbedder
from mural_jax.evaluation.metrics.margin import mine_pairs
from mural_jax.runs.run import Run

def embed():
    run = Run.of(load_config('emoji:align,tiny', {words}))
    graphdef, params, statistics = run.build_model(60)
    trainer = run.build_trainer(graphdef, params)
    state = trainer.initial_state(params, statistics)
    embedder = ModelEmbedder(
        graphdef, state.params, state.statistics, list, batch_size=8, mesh=trainer.mesh
    )
    images = np.random.default_rng(0).integers(0, 255, (21, 64, 64, 3)).astype(np.uint8)
    vector_ND = embedder.embed_decoded('image_text', images)
    pairs = mine_pairs(vector_ND[:10], vector_ND[10:], 4, 'ratio', 'max')
    np.savez(f'{folder}/{{processes.index()}}.npz', vector_ND=vector_ND, **pairs._asdict())

processes.join()
processes.end_together(embed)
"""


@pytest.mark.parametrize(('count', 'mesh'), MESHES)
def test_processes_whose_devices_take_turns_embed_as_one(
    tmp_path: Path, count: int, mesh: dict[str, int]
) -> None:
    """Every process has all vectors, in the order of the images, and mines the same pairs."""
    one, many = (embed(tmp_path, number, shape) for number, shape in ((1, {}), (count, mesh)))
    assert len(many) == count
    for found in many:
        np.testing.assert_allclose(found['vector_ND'], one[0]['vector_ND'], atol=1e-5)
        for side in ('left_P', 'right_P'):
            np.testing.assert_array_equal(found[side], one[0][side])


def embed(folder: Path, count: int, mesh: dict[str, int]) -> list[dict[str, np.ndarray]]:
    """What each of `count` processes with two devices finds by EMBED."""
    folder = folder / str(count)
    folder.mkdir()
    shape = {'data': 1, 'fsdp': 1, 'tensor': 1} | mesh if mesh else {}
    words = [f'--config.mesh.{axis}={size}' for axis, size in shape.items()]
    running = []
    lines = EMBED.format(words=words, folder=folder)
    flags = {'XLA_FLAGS': f'--xla_force_host_platform_device_count=2 {UNOPTIMISED}'}
    for index, world in enumerate(find_worlds(count)):
        running.append(start_script(lines, flags | world, folder / f'{index}.txt', TURNS[count]))
    for process in running:
        process.join(300)
        process.kill()
    said = [path.read_text()[-1000:] for path in sorted(folder.glob('*.txt'))]
    assert [process.exitcode for process in running] == [0] * count, said
    return [dict(np.load(path)) for path in sorted(folder.glob('*.npz'))]
