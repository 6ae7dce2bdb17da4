"""The verbs index, search and serve on an exported model."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import mural
from search.model_of_colours import COLOURS, encode_png, paint_images

from mural_jax.cli.parser import main


class Folders(NamedTuple):
    """An exported model, images, and the index of them; what `mural index` printed."""

    model: Path
    images: Path
    index: Path
    printed: str


@pytest.fixture(scope='module')
def folders(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Folders:
    folder = tmp_path_factory.mktemp('search')
    model, images, index = (folder / name for name in ('model', 'images', 'index'))
    done = mural('export', f'--workdir={workdir}', '--format=safetensors', f'--out={model}')
    assert done.returncode == 0, done.stderr
    paint_images(images)
    (images / 'broken.png').write_bytes(b'nothing')
    done = mural('index', f'--model={model}', f'--images={images}', f'--out={index}')
    assert done.returncode == 0, done.stderr
    return Folders(model, images, index, done.stdout)


def test_index_tells_what_it_did(folders: Folders) -> None:
    assert '5 images, 5 new, 0 removed' in folders.printed
    assert '1 images could not be read' in folders.printed


def test_text_finds_images(folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    sheet = tmp_path / 'found.png'
    words = [f'--index={folders.index}', '--query=paka', '--k=9', f'--out={sheet}']
    assert main(['search', *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6  # Five images, and the path of the contact sheet.
    assert sheet.stat().st_size > 100


@pytest.mark.parametrize('how', ['exact', 'binary'])
def test_image_finds_itself(folders: Folders, how: str, capsys: pytest.CaptureFixture) -> None:
    image = folders.images / 'blue.png'
    words = [f'--index={folders.index}', f'--image={image}', '--k=1', f'--how={how}']
    assert main(['search', *words]) == 0
    assert re.search(r'1\.000  blue\.png  \(40 x 40\)', capsys.readouterr().out)


@pytest.fixture
def moved_model(folders: Folders, tmp_path: Path) -> Iterator[Path]:
    folders.model.rename(tmp_path / 'moved')
    yield tmp_path / 'moved'
    (tmp_path / 'moved').rename(folders.model)


def test_moved_model_is_asked_for(
    folders: Folders, moved_model: Path, capsys: pytest.CaptureFixture
) -> None:
    assert main(['search', f'--index={folders.index}', '--query=paka']) == 2
    assert 'Say where it is: --model=DIR' in capsys.readouterr().err


def test_moved_model_is_found_by_flag(folders: Folders, moved_model: Path) -> None:
    words = [f'--index={folders.index}', '--query=paka', f'--model={moved_model}']
    assert main(['search', *words]) == 0


@pytest.fixture
def other_model(folders: Folders, tmp_path: Path) -> Path:
    """A model that differs from the exported one in its description alone."""
    copy = shutil.copytree(folders.model, tmp_path / 'other')
    description = json.loads((copy / 'mural.json').read_text())
    (copy / 'mural.json').write_text(json.dumps(description))
    return copy


def test_search_by_other_model_is_refused(
    folders: Folders, other_model: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [f'--index={folders.index}', '--query=paka', f'--model={other_model}']
    assert main(['search', *words]) == 2
    assert 'embedded by another model' in capsys.readouterr().err


def test_update_by_other_model_is_refused(
    folders: Folders, other_model: Path, capsys: pytest.CaptureFixture
) -> None:
    words = [f'--model={other_model}', f'--images={folders.images}', f'--out={folders.index}']
    assert main(['index', *words]) == 2
    assert 'embedded by another model' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ('search --index=INDEX --query=', 'The query is empty'),
        ('search --index=INDEX --query=a --k=0', 'at least 1'),
        ('search --index=INDEX --query=a --step=3', '--step needs --workdir'),
        ('search --index=INDEX --image=NOTHING', 'nothing.png: it cannot be read'),
        ('search --index=IMAGES --query=a', 'is not an index'),
        ('search --index=INDEX --query=a --rerank=0', '--rerank 0 must be'),
        ('search --index=INDEX --query=a --out=/dev/null/x.png', 'Cannot write'),
        ('search --workdir=INDEX --image=NOTHING', 'need --index'),
        ('index --model=IMAGES --images=IMAGES --out=OUT', 'no exported model'),
        ('index --model=MODEL --images=NOTHING --out=OUT', 'There is no'),
        ('index --model=MODEL --images=IMAGES --out=IMAGES', 'is not an index'),
        ('index --model=MODEL --images=IMAGES --out=OUT --space=x', "space 'x'"),
        ('index --model=MODEL --images=IMAGES --out=OUT --thumbnail=-1', 'or more'),
        ('index --model=MODEL --images=IMAGES --out=INDEX --thumbnail=9', 'another'),
        ('serve --index=INDEX --port=99999', '--port 99999'),
        ('serve --index=INDEX --max_upload=0', '--max_upload 0'),
        ('serve --index=INDEX --host=no.such.host.example', 'Cannot listen'),
    ],
)
def test_wrong_arguments_are_named_in_error(
    words: str, message: str, folders: Folders, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    places = {
        'INDEX': folders.index,
        'IMAGES': folders.images,
        'MODEL': folders.model,
        'NOTHING': folders.images / 'nothing.png',
        'OUT': tmp_path / 'out',
    }
    pattern = f'(?<==)({"|".join(places)})$'
    filled = [re.sub(pattern, lambda m: str(places[m[1]]), word) for word in words.split()]
    assert main(filled) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


class RunningServer(NamedTuple):
    """What `mural serve` printed first, and where it listens."""

    line: str
    url: str


@pytest.fixture(scope='module')
def server(folders: Folders) -> Iterator[RunningServer]:
    """`mural serve`, interrupted in the end as by Ctrl-C."""
    pytest.importorskip('uvicorn', reason='uvicorn is not installed: the extra serve has it')
    command = [sys.executable, '-m', 'mural_jax', 'serve', f'--index={folders.index}', '--port=0']
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {'PYTHONWARNINGS': 'ignore'},
    )
    assert process.stdout
    line = process.stdout.readline()
    yield RunningServer(line, line.split()[-1] if line else '')
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert 'Traceback' not in errors


def test_server_prints_its_address(server: RunningServer) -> None:
    assert server.line.startswith('5 images: http://127.0.0.1:')


def test_server_finds_uploaded_image(server: RunningServer) -> None:
    request = urllib.request.Request(f'{server.url}search?k=1', encode_png(COLOURS['green']))
    with urllib.request.urlopen(request, timeout=120) as answer:
        (hit,) = json.loads(answer.read())['results']
    assert hit['id'] == 'green.png' and hit['score'] > 0.999


def test_server_finds_by_text(server: RunningServer) -> None:
    with urllib.request.urlopen(f'{server.url}search?q=paka', timeout=120) as answer:
        assert len(json.loads(answer.read())['results']) == 5
