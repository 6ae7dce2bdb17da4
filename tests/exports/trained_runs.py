"""Runs to export, one of each architecture that other libraries know, and one exported folder."""

from pathlib import Path

import pytest
from conftest import mural, once


def train_and_evaluate(config: str, data_dir: Path, factory: pytest.TempPathFactory) -> Path:
    """Returns the workdir of a run of a config. Several processes of the tests share it."""
    name = Path(config).stem.replace(':', '-')

    def make(folder: Path) -> None:
        workdir_flag, config_flag = f'--workdir={folder / "run"}', f'--config={config}'
        for command in (
            ['prepare', config_flag],
            ['train', config_flag, workdir_flag],
            ['evaluate', workdir_flag],
        ):
            done = mural(*command, f'--data_dir={data_dir}')
            assert done.returncode == 0, done.stderr

    return once(factory, f'exported-{name}', make) / 'run'


@pytest.fixture(scope='session')
def clip(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT with a class token and a causal transformer."""
    return train_and_evaluate('clip:tiny', data_dir, tmp_path_factory)


@pytest.fixture(scope='session')
def siglip(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ViT with attention pooling, a transformer that attends to padding, and a bias."""
    return train_and_evaluate('siglip:tiny', data_dir, tmp_path_factory)


CLIP_BERT_CONFIG = """
from mural_jax.configs import clip

def get_config(arg=''):
    config = clip.get_config('tiny')
    config.model.towers.text = dict(
        kind='bert', max_length=12, pool='pooler',
        layers=dict(width=32, depth=2, num_heads=2, activation='gelu', norm_eps=1e-12),
    )
    return config
"""


@pytest.fixture(scope='session')
def bert_config(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a config with CLIP's ViT and a BERT."""
    path = tmp_path_factory.mktemp('config') / 'clip_bert.py'
    path.write_text(CLIP_BERT_CONFIG)
    return str(path)


@pytest.fixture(scope='session')
def clip_bert(bert_config: str, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's ViT and a BERT."""
    return train_and_evaluate(bert_config, data_dir, tmp_path_factory)


@pytest.fixture(scope='session')
def model_folder(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `emoji:tiny`, exported as safetensors; tests do not change it."""

    def make(folder: Path) -> None:
        out = folder / 'model'
        done = mural('export', f'--workdir={workdir}', '--format=safetensors', f'--out={out}')
        assert done.returncode == 0, done.stderr

    return once(tmp_path_factory, 'exported-safetensors', make) / 'model'


def assert_same_files(one: Path, other: Path) -> None:
    """Fails unless two folders hold the same files with the same bytes."""
    files = [sorted(path.relative_to(root) for path in root.rglob('*')) for root in (one, other)]
    assert files[0] == files[1]
    for name in files[0]:
        if (one / name).is_file():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name
