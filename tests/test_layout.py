"""Layout and style of the package: import rule, sizes, names, comments."""

import ast
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import mural_jax

PACKAGE = Path(mural_jax.__file__).parent
REPOSITORY = PACKAGE.parent
CONTRIBUTING = REPOSITORY / 'CONTRIBUTING.md'
# A folder may import the folders to the right of the next arrow, but not its neighbours.
RULE = """
__main__ > cli > planning exports > runs > evaluation > training search > tasks inference
> models objectives > data pretrained similarity > config distributed workdir > types
"""
LEVELS = {folder: level for level, row in enumerate(RULE.split('>')) for folder in row.split()}
# The folders and files that may import a heavy library.
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
TREES = {name: ast.parse(path.read_text(encoding='utf-8')) for name, path in FILES.items()}
MODULES = {
    '.'.join(('mural_jax', *Path(name).with_suffix('').parts)).removesuffix('.__init__'): name
    for name in FILES
}


def read(name: str) -> str:
    return FILES[name].read_text(encoding='utf-8')


def imported_modules(name: str) -> Iterator[str]:
    """Yields all modules that a file imports, also in functions and under TYPE_CHECKING."""
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                module = f'{node.module}.{alias.name}'
                yield module if module in MODULES else node.module


def imported_files(name: str) -> set[str]:
    """The files of the package that a file imports."""
    modules = imported_modules(name)
    return {MODULES[module] for module in modules if module in MODULES}


def find_circle(imports: dict[str, set[str]]) -> list[str]:
    """A path that ends where it began; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> list[str]:
        if name in path:
            return [*path[path.index(name) :], name]
        if name in done:
            return []
        for other in sorted(imports.get(name, ())):
            if circle := visit(other, [*path, name]):
                return circle
        done.add(name)
        return []

    return next((circle for name in sorted(imports) if (circle := visit(name, []))), [])


def variable_names(tree: ast.AST) -> set[str]:
    """Names of variables, arguments and attributes."""
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    return names | {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}


def folder_of(name: str) -> str:
    return Path(name).with_suffix('').parts[0]


@pytest.mark.parametrize('name', [name for name in FILES if folder_of(name) != '__init__'])
def test_file_follows_the_import_rule(name: str) -> None:
    folder = folder_of(name)
    for module in imported_modules(name):
        library = module.split('.')[0]
        if module.startswith('mural_jax.'):
            other = module.split('.')[1]
            assert other == folder or LEVELS[other] > LEVELS[folder], f'{name} imports {module}'
        elif library in HOMES:
            assert HOMES[library] & {folder, name}, f'{name} imports {module}'


def test_top_of_package_has_three_modules() -> None:
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


def test_no_function_is_longer_than_60_lines() -> None:
    long = {
        f'{name}:{node.name}': node.end_lineno - node.lineno + 1
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.end_lineno - node.lineno >= 60
    }
    assert long == {}


def test_no_class_name_stands_twice() -> None:
    places = defaultdict(list)
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(name)
    assert {name: files for name, files in places.items() if len(files) > 1} == {}


def test_files_import_each_other_without_circles() -> None:
    imports = {name: imported_files(name) - {name} for name in FILES}
    assert find_circle(imports) == []


def test_folders_import_each_other_without_circles() -> None:
    """Folders inside folders too. A file beside folders (`data/tokenizer.py`) stands for itself."""
    parents = {str(Path(name).parent.parent) for name in FILES}

    def node(name: str) -> str:
        folder = str(Path(name).parent)
        return name if folder in parents else folder

    imports = defaultdict(set)
    for name in FILES:
        imports[node(name)] |= {node(other) for other in imported_files(name)} - {node(name)}
    assert find_circle(imports) == []


def test_formatter_skips_are_rare() -> None:
    roots = [PACKAGE, REPOSITORY / 'configs', REPOSITORY / 'tests', REPOSITORY / 'benchmarks']
    files = {path.resolve() for root in roots for path in root.rglob('*.py')}
    mark = '# fmt: ' + 'skip'
    assert sum(path.read_text(encoding='utf-8').count(mark) for path in files) <= 20


def test_one_line_of_code_in_twenty_has_a_comment() -> None:
    """Comments on lines of their own, over lines of code without docstrings and blank lines."""
    comments = code = 0
    for name, tree in TREES.items():
        lines = read(name).splitlines()
        docstrings = {
            number
            for node in ast.walk(tree)
            if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            for number in range(node.lineno, node.end_lineno + 1)
        }
        for number, line in enumerate(lines, start=1):
            is_comment = line.lstrip().startswith('#')
            comments += is_comment
            code += bool(line.strip()) and not is_comment and number not in docstrings
    assert comments / code >= 0.05


def test_letters_of_shape_suffixes_are_in_the_legend() -> None:
    """A suffix is letters of the legend and digits after an underscore: `image_BHWC`, `box_BR4`."""
    legend = set(
        re.findall(r'(?<![A-Za-z])[A-Z](?![A-Za-z])', ast.get_docstring(TREES['types.py']))
    )
    unknown = defaultdict(set)
    for name, tree in TREES.items():
        for word in variable_names(tree):
            suffix = re.fullmatch(r'[a-z0-9_]*[a-z0-9]_([A-Z][A-Z0-9]*)', word)
            if suffix and (letters := set(re.sub('[0-9]', '', suffix[1])) - legend):
                unknown[name] |= {f'{word}: {letter}' for letter in letters}
    assert unknown == {}


@pytest.mark.parametrize(
    'pattern',
    [
        r'isinstance\([^()]*, \(?(Contrast|Captions|Softmax|Prediction|Translations)\b',
        r'\bin repr\(',
        r"startswith\('(region|word)",
    ],
)
def test_no_file_asks_for_a_kind(pattern: str) -> None:
    """A kind answers for itself: other files ask it, and not for its class or its name."""
    kinds = ('tasks/', 'data/streams/', 'objectives/')
    found = [
        name for name in FILES if not name.startswith(kinds) and re.search(pattern, read(name))
    ]
    assert found == []
