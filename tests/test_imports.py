"""The import rule: arrows only go down, heavy libraries live in one place each."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mural_jax

PACKAGE = Path(mural_jax.__file__).parent
# Rooms on one line do not import each other; a line may import those below it.
LINES = [
    ['__main__'],
    ['model_verbs'],
    [
        'commands',
        'data_commands',
        'scale_commands',
        'evaluation_commands',
        'export_commands',
        'search_commands',
    ],
    ['other_commands'],
    ['planning', 'restored', 'exports'],
    ['run', 'preflight', 'exported'],
    ['assembly'],
    ['config', 'flags'],
    ['training', 'evaluation', 'serving', 'pretrained', 'inspection'],
    ['pair_tasks'],
    ['tasks', 'checkpoints'],
    ['models', 'objectives', 'data'],
    ['sharding', 'metrics', 'seals', 'hosts', 'neighbours'],
    ['meeting'],
    ['types'],
]
HOMES = {
    'flax': {'models', 'assembly'},
    'tensorflow': {'data', 'evaluation', 'exports'},
    'tensorflow_datasets': {'data'},
    'optax': {'training'},
    'orbax': {'checkpoints'},
    'ml_collections': {'config'},
    'safetensors': {'pretrained', 'exports'},
    'starlette': {'serving'},
    'uvicorn': {'search_commands'},
    'faiss': {'serving'},
}


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f'{node.module}.{alias.name}' for alias in node.names)


def modules() -> list[tuple[str, Path]]:
    files = [path for path in sorted(PACKAGE.rglob('*.py')) if path.parent.name != 'configs']
    rooms = [path.relative_to(PACKAGE).with_suffix('').parts[0] for path in files]
    return [(room, path) for room, path in zip(rooms, files) if room != '__init__']


@pytest.mark.parametrize(('room', 'path'), modules(), ids=lambda x: getattr(x, 'stem', x))
def test_arrows_only_go_down(room: str, path: Path) -> None:
    level = next(i for i, line in enumerate(LINES) if room in line)
    below = {name for line in LINES[level + 1 :] for name in line} | {room, '__version__'}
    for name in imports(path):
        if name.startswith('mural_jax.'):
            other = name.split('.')[1]
            assert other in below, f'{path.name} imports {name}'
        elif name.split('.')[0] in HOMES:
            assert room in HOMES[name.split('.')[0]], f'{path.name} imports {name}'


@pytest.mark.parametrize(
    ('code', 'absent'),
    [
        ('import mural_jax.__main__', ['jax', 'tensorflow', 'numpy']),
        ('import mural_jax.commands', ['tensorflow', 'tensorflow_datasets']),
        (
            'import mural_jax.search_commands',
            ['tensorflow', 'orbax', 'starlette', 'faiss'],
        ),
        ('import mural_jax.objectives.contrastive', ['flax', 'optax', 'tensorflow']),
        ('import mural_jax.training.loop', ['tensorflow']),
    ],
)
def test_what_is_not_needed_is_not_loaded(code: str, absent: list[str]) -> None:
    check = f'{code}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])'
    done = subprocess.run([sys.executable, '-c', check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def test_no_file_is_too_long() -> None:
    for _, path in modules():
        assert len(path.read_text(encoding='utf-8').splitlines()) <= 400, path
