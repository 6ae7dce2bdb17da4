"""Runs that are exported: one of each shape that other libraries know."""

from pathlib import Path

import pytest
from conftest import mural, once


def trained(config: str, data_dir: Path, factory: pytest.TempPathFactory) -> Path:
    """A run of a config, trained and evaluated once."""
    name = Path(config).stem.replace(':', '-')

    def make(folder: Path) -> None:
        run = f'--workdir={folder / "run"}'
        given = f'--config={config}'
        for verb in (['prepare', given], ['train', given, run], ['evaluate', run]):
            done = mural(*verb, f'--data_dir={data_dir}')
            assert done.returncode == 0, done.stderr

    return once(factory, f'exported-{name}', make) / 'run'


@pytest.fixture(scope='session')
def clip(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A class token, a causal transformer."""
    return trained('clip:tiny', data_dir, tmp_path_factory)


@pytest.fixture(scope='session')
def siglip(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pooling by a query, padding that is read, a bias."""
    return trained('siglip:tiny', data_dir, tmp_path_factory)


def assert_same(one: Path, other: Path) -> None:
    """Two folders hold the same files with the same bytes."""
    files = [sorted(path.relative_to(x) for path in x.rglob('*')) for x in (one, other)]
    assert files[0] == files[1]
    for name in files[0]:
        if (one / name).is_file():
            assert (one / name).read_bytes() == (other / name).read_bytes(), name


BERT = """
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
    path = tmp_path_factory.mktemp('config') / 'clip_bert.py'
    path.write_text(BERT)
    return str(path)


@pytest.fixture(scope='session')
def clip_bert(bert_config: str, data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CLIP's pictures and BERT's texts."""
    return trained(bert_config, data_dir, tmp_path_factory)
