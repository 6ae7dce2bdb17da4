"""A config with stages on the command line: checked, counted, planned and trained."""

from pathlib import Path

import jax
import pytest
from conftest import mural

from mural_jax.config.load import load_config
from mural_jax.planning.memory import AbstractRun
from mural_jax.workdir import metrics
from mural_jax.workdir.checkpoints import Checkpoints

CONFIG = """
from mural_jax.configs import emoji

def get_config(arg='tiny'):
    config = emoji.get_config(arg)
    config.schedule.num_steps = 4
    config.schedule.keep = 1
    config.evaluators['image_text_held_out']['every'] = 100
    config.stages = dict(
        images=dict(steps=2, tasks=('image_text',), at_end=('snapshot', 'evaluate')),
        both=dict(steps=2, after='images', optimizer=dict(learning_rate=1e-3)),
    )
    return config
"""
FEW = ("--config.languages.image_text=('en',)", "--config.languages.translation_only=('uz',)")


@pytest.fixture(scope='module')
def config_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp('config') / 'staged.py'
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope='module')
def trained(config_file: Path, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workdir of a run with two stages of two steps."""
    workdir = tmp_path_factory.mktemp('staged') / 'run'
    words = (f'--config={config_file}', f'--workdir={workdir}', f'--data_dir={data_dir}', *FEW)
    done = mural('train', *words)
    assert done.returncode == 0, done.stderr
    assert 'stage both begins' in done.stderr
    return workdir


def test_metrics_of_a_stage_are_those_of_its_tasks(trained: Path) -> None:
    lines = [line for line in metrics.read(trained) if 'loss' in line]
    assert [line['step'] for line in lines] == [2, 4]
    assert ['text_text/loss' in line for line in lines] == [False, True]


def test_stage_ends_with_scores_and_a_checkpoint_that_stays(trained: Path) -> None:
    scored = [line['step'] for line in metrics.read(trained) if any('eval/' in x for x in line)]
    assert scored == [2]
    checkpoints = Checkpoints(trained, keep=1, pinned=[2])
    assert checkpoints.steps == [2, 4]
    checkpoints.close()


def test_doctor_checks_a_config_with_stages(
    config_file: Path, data_dir: Path, tmp_path: Path
) -> None:
    words = (f'--config={config_file}', f'--workdir={tmp_path / "run"}', f'--data_dir={data_dir}')
    done = mural('doctor', *words)
    assert done.returncode == 0, done.stdout + done.stderr


def test_params_counts_a_config_with_stages(config_file: Path) -> None:
    done = mural('params', f'--config={config_file}')
    assert done.returncode == 0, done.stderr


def test_plan_takes_the_stage_that_draws_most(config_file: Path) -> None:
    abstract = AbstractRun(load_config(str(config_file), []), jax.devices())
    assert set(abstract.batches) == abstract.trainer.streams == {'captions', 'translations'}
