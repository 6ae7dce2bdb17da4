"""index, search and serve from the command line, on an exported model."""

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from conftest import mural
from search.model_of_colours import COLOURS, paint, png

from mural_jax.__main__ import main


@pytest.fixture(scope='module')
def made(workdir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, pictures, and an index of them."""
    folder = tmp_path_factory.mktemp('search')
    words = ['--format=safetensors', f'--out={folder / "model"}']
    done = mural('export', f'--workdir={workdir}', *words)
    assert done.returncode == 0, done.stderr
    paint(folder / 'images')
    (folder / 'images' / 'broken.png').write_bytes(b'nothing')
    done = mural('index', *index_of(folder, folder / 'index'))
    assert done.returncode == 0, done.stderr
    assert '5 pictures, 5 new, 0 removed' in done.stdout
    assert '1 could not be read' in done.stdout
    return folder


def index_of(folder: Path, out: Path, *more: str) -> list[str]:
    return [f'--model={folder / "model"}', f'--images={folder / "images"}', f'--out={out}', *more]


def test_words_and_pictures_find(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    where = ['search', f'--index={made / "index"}']
    assert main([*where, '--query=paka', '--k=9', f'--out={tmp_path / "found.png"}']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and (tmp_path / 'found.png').stat().st_size > 100
    for how in ('exact', 'binary'):
        image = made / 'images' / 'blue.png'
        assert main([*where, f'--image={image}', '--k=1', f'--how={how}']) == 0
        assert re.search(r'1\.000  blue\.png  \(40 x 40\)', capsys.readouterr().out)


def test_the_model_may_move(made: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (made / 'model').rename(tmp_path / 'moved')
    try:
        where = ['search', f'--index={made / "index"}', '--query=paka']
        assert main(where) == 2
        assert 'Say where it is: --model=DIR' in capsys.readouterr().err
        assert main([*where, f'--model={tmp_path / "moved"}']) == 0
    finally:
        (tmp_path / 'moved').rename(made / 'model')


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['search', '--index=INDEX', '--query= '], 'The query is empty'),
        (['search', '--index=INDEX', '--query=a', '--k=0'], 'at least 1'),
        (['search', '--index=INDEX', '--query=a', '--step=3'], '--step needs --workdir'),
        (['search', '--index=INDEX', '--image=NOTHING'], 'nothing.png: it cannot be read'),
        (['search', '--index=IMAGES', '--query=a'], 'is no index'),
        (['search', '--index=INDEX', '--query=a', '--rerank=0'], '--rerank 0 must be'),
        (['search', '--index=INDEX', '--query=a', '--out=/dev/null/x.png'], 'Cannot write'),
        (['search', '--workdir=INDEX', '--image=NOTHING'], 'need --index'),
        (['index', '--model=IMAGES', '--images=IMAGES', '--out=OUT'], 'no exported model'),
        (['index', '--model=MODEL', '--images=NOTHING', '--out=OUT'], 'There is no'),
        (['index', '--model=MODEL', '--images=IMAGES', '--out=IMAGES'], 'is no index'),
        (['index', '--model=MODEL', '--images=IMAGES', '--out=OUT', '--space=x'], "space 'x'"),
        (['index', '--model=MODEL', '--images=IMAGES', '--out=OUT', '--thumbnail=-1'], 'or more'),
        (['index', '--model=MODEL', '--images=IMAGES', '--out=INDEX', '--thumbnail=9'], 'another'),
        (['serve', '--index=INDEX', '--port=99999'], '--port 99999'),
        (['serve', '--index=INDEX', '--max_upload=0'], '--max_upload 0'),
        (['serve', '--index=INDEX', '--host=no.such.host.example'], 'Nothing can answer'),
    ],
)
def test_wrong_words_are_told(
    words: list[str], said: str, made: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    places = {
        'INDEX': made / 'index', 'IMAGES': made / 'images', 'MODEL': made / 'model',
        'NOTHING': made / 'nothing.png', 'OUT': tmp_path / 'out',
    }  # fmt: skip
    pattern = '|'.join(places)
    filled = [re.sub(f'(?<==)({pattern})$', lambda m: str(places[m[1]]), word) for word in words]
    assert main(filled) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / 'out').exists()


def test_it_serves(made: Path) -> None:
    pytest.importorskip('uvicorn', reason='uvicorn is not installed: the extra serve has it')
    command = [sys.executable, '-m', 'mural_jax', 'serve', f'--index={made / "index"}', '--port=0']
    served = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {'PYTHONWARNINGS': 'ignore'},
    )  # fmt: skip
    try:
        assert served.stdout
        line = served.stdout.readline()
        assert line.startswith('5 pictures: http://127.0.0.1:')
        url = line.split()[-1]
        request = urllib.request.Request(f'{url}search?k=1', png(COLOURS['green']))
        with urllib.request.urlopen(request, timeout=120) as answer:
            (found,) = json.loads(answer.read())['results']
        assert found['id'] == 'green.png' and found['score'] > 0.999
        with urllib.request.urlopen(f'{url}search?q=paka', timeout=120) as answer:
            assert len(json.loads(answer.read())['results']) == 5
    finally:
        served.send_signal(signal.SIGINT)
        _, errors = served.communicate(timeout=60)
    assert 'Traceback' not in errors
