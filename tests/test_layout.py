"""The house: arrows only go down, files stay small, heavy libraries live in one place each."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mural_jax

PACKAGE = Path(mural_jax.__file__).parent
CONTRIBUTING = PACKAGE.parent / 'CONTRIBUTING.md'
# Rooms between two arrows do not import each other; a room may import those after an arrow.
RULE = """
__main__ > cli > planning exports > runs > evaluation > training search > tasks inference
> models objectives > data pretrained similarity > config distributed workdir > types
"""
ROOMS = [row.split() for row in RULE.split('>')]
LEVELS = {room: level for level, row in enumerate(ROOMS) for room in row}
# Where a heavy library may be imported: rooms, or files.
HOMES = {
    'flax': {'models'},
    'tensorflow': {'data', 'evaluation/split_data.py', 'exports/savedmodel.py'},
    'tensorflow_datasets': {'data'},
    'optax': {'training'},
    'orbax': {'workdir'},
    'ml_collections': {'config'},
    'safetensors': {'pretrained', 'exports'},
    'starlette': {'search'},
    'uvicorn': {'cli'},
    'faiss': {'search'},
}
FILES = {
    path.relative_to(PACKAGE).as_posix(): path
    for path in sorted(PACKAGE.rglob('*.py'))
    if 'configs' not in path.relative_to(PACKAGE).parts
}
MODULES = {
    '.'.join(('mural_jax', *Path(name).with_suffix('').parts)).removesuffix('.__init__'): name
    for name in FILES
}


def imported_modules(path: Path) -> Iterator[str]:
    """All modules that a file imports, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f'{node.module}.{alias.name}'
                yield name if name in MODULES else node.module


def room_of(name: str) -> str:
    return Path(name).with_suffix('').parts[0]


@pytest.mark.parametrize('name', [name for name in FILES if room_of(name) != '__init__'])
def test_arrows_only_go_down(name: str) -> None:
    room = room_of(name)
    for module in imported_modules(FILES[name]):
        library = module.split('.')[0]
        if module.startswith('mural_jax.'):
            other = module.split('.')[1]
            assert other == room or LEVELS[other] > LEVELS[room], f'{name} imports {module}'
        elif library in HOMES:
            assert HOMES[library] & {room, name}, f'{name} imports {module}'


def test_only_three_modules_lie_at_the_top() -> None:
    loose = {path.name for path in PACKAGE.glob('*.py')}
    assert loose == {'__init__.py', '__main__.py', 'types.py'}


def test_contributing_quotes_the_import_rule() -> None:
    assert ' '.join(RULE.split()) in ' '.join(CONTRIBUTING.read_text(encoding='utf-8').split())


@pytest.mark.parametrize(
    ('code', 'absent'),
    [
        ('import mural_jax.__main__', ['jax', 'tensorflow', 'numpy', 'rich', 'PIL']),
        ('import mural_jax.runs.start', ['tensorflow', 'tensorflow_datasets']),
        ('import mural_jax.search.searcher', ['tensorflow', 'orbax', 'starlette', 'faiss']),
        ('import mural_jax.objectives.softmax', ['flax', 'optax', 'tensorflow']),
        ('import mural_jax.training.loop', ['tensorflow']),
    ],
)
def test_unneeded_libraries_are_not_loaded(code: str, absent: list[str]) -> None:
    check = f'{code}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])'
    done = subprocess.run([sys.executable, '-c', check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == '[]'


def test_no_file_is_longer_than_400_lines() -> None:
    sizes = {
        name: len(path.read_text(encoding='utf-8').splitlines()) for name, path in FILES.items()
    }
    assert {name: size for name, size in sizes.items() if size > 400} == {}
