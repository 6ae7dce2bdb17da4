"""The page in a browser, and the endpoints behind it, with honest and hostile clients."""

import json
import struct
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
from search.model_of_colours import (
    COLOURS,
    NAMES,
    SIDE,
    ColourModel,
    encode_png,
    paint_images,
    update_index,
)

from mural_jax.search.finder import Finder
from mural_jax.search.store import ImageIndex

uvicorn = pytest.importorskip('uvicorn', reason='uvicorn is not installed: the extra serve has it')
CHROMIUM = Path('/usr/bin/chromium')
MAX_UPLOAD, MAX_PIXELS = 100_000, 1_000_000


class Server(NamedTuple):
    """Where the page is, and the model behind it."""

    url: str
    model: ColourModel


@pytest.fixture(scope='module')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from mural_jax.search import page

    folder = tmp_path_factory.mktemp('page')
    paint_images(folder / 'images', 3)
    # A file name that runs a script if the page does not escape it.
    (folder / 'images' / '<img src=x onerror=alert(1)>.png').write_bytes(
        encode_png((128, 128, 128))
    )
    update_index(folder / 'index', folder / 'images')
    model = ColourModel()
    service = page.SearchService(
        model, Finder(ImageIndex(folder / 'index')), SIDE, page.UploadLimits(MAX_UPLOAD, MAX_PIXELS)
    )
    app = page.build_app(service, ['127.0.0.1'])
    config = uvicorn.Config(app, port=0, log_level='error')
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run)
    thread.start()
    deadline = time.monotonic() + 60
    while not running.started:
        assert time.monotonic() < deadline and thread.is_alive()
        time.sleep(0.02)
    port = running.servers[0].sockets[0].getsockname()[1]
    yield Server(f'http://127.0.0.1:{port}', model)
    running.should_exit = True
    thread.join(30)


def ask(url: str, content: bytes | None = None, **headers: str) -> tuple[int, dict]:
    """The status and the JSON of an answer."""
    request = urllib.request.Request(url, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def search_url(server: Server, query: str, k: int = 3) -> str:
    return f'{server.url}/search?q={urllib.parse.quote(query)}&k={k}'


@pytest.mark.parametrize('name', NAMES)
def test_text_in_any_script_finds_its_colour(server: Server, name: str) -> None:
    status, found = ask(search_url(server, name))
    assert status == 200 and len(found['results']) == 3
    assert all(row['id'].startswith(NAMES[name]) for row in found['results'])
    assert found['query'] == name


def test_uploaded_image_finds_its_colour(server: Server) -> None:
    _, found = ask(f'{server.url}/search?k=1', encode_png(COLOURS['blue'], kind='JPEG'))
    assert found['results'][0]['id'].startswith('blue')


@pytest.mark.parametrize('number', [0, 7])
def test_image_of_the_index_is_most_like_itself(server: Server, number: int) -> None:
    _, found = ask(f'{server.url}/search?like={number}&k=1')
    assert found['results'][0]['number'] == number
    assert found['results'][0]['score'] == pytest.approx(1, abs=1e-4)


def test_thumbnail_of_a_hit_is_a_jpeg(server: Server) -> None:
    _, found = ask(search_url(server, 'red', 1))
    with urllib.request.urlopen(server.url + found['results'][0]['thumbnail']) as answer:
        assert answer.headers['content-type'] == 'image/jpeg'
        assert answer.read().startswith(b'\xff\xd8')


def test_health_tells_number_of_images(server: Server) -> None:
    assert ask(f'{server.url}/healthz') == (200, {'status': 'ok', 'images': 16})


def make_bomb(side: int = 12_000) -> bytes:
    """A PNG of few bytes whose header claims 144 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', check)

    head = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', head)
        + chunk(b'IDAT', zlib.compress(bytes(1000)))
        + chunk(b'IEND', b'')
    )


@pytest.mark.parametrize(
    ('content', 'status', 'message'),
    [
        (make_bomb(), 400, '144,000,000 pixels, more than 1,000,000'),
        (b'<svg onload="alert(1)"/>', 400, 'no image in a known format'),
        (b'MZ\x90\x00' + bytes(500), 400, 'no image in a known format'),
        (encode_png((1, 2, 3))[:60], 400, 'The image is refused'),
        (bytes(MAX_UPLOAD + 1), 413, '100,000 bytes at most'),
        (b'', 400, 'The body is empty'),
    ],
    ids=['bomb', 'svg', 'program', 'cut', 'large', 'empty'],
)
def test_hostile_image_is_refused_and_server_goes_on(
    server: Server, content: bytes, status: int, message: str
) -> None:
    code, answer = ask(f'{server.url}/search', content)
    assert code == status and message in answer['error']
    assert ask(f'{server.url}/healthz')[0] == 200


def test_endless_upload_is_cut_off(server: Server) -> None:
    """A gigabyte without a length is refused before all of it has arrived."""
    import http.client

    place = urllib.parse.urlsplit(server.url)
    connection = http.client.HTTPConnection(place.hostname, place.port, timeout=30)
    connection.putrequest('POST', '/search')
    connection.putheader('Transfer-Encoding', 'chunked')
    connection.endheaders()
    sent = 0
    with pytest.raises(OSError):
        while sent < 1 << 30:
            connection.send(b'10000\r\n' + bytes(1 << 16) + b'\r\n')
            sent += 1 << 16
    assert sent < 1 << 28
    connection.close()
    assert ask(f'{server.url}/healthz')[0] == 200


@pytest.mark.parametrize(
    ('path', 'status'),
    [
        ('/search', 400),
        ('/search?q=%20', 400),
        ('/search?q=' + 'a' * 1001, 400),
        ('/search?q=a&k=0', 400),
        ('/search?q=a&k=201', 400),
        ('/search?q=a&k=-1', 400),
        ('/search?q=a&k=' + '9' * 5000, 400),
        ('/search?like=16', 400),
        ('/search?like=x', 400),
    ],
)
def test_wrong_parameters_are_refused(server: Server, path: str, status: int) -> None:
    code, answer = ask(server.url + path)
    assert code == status and answer['error']


def test_files_of_the_machine_are_not_served(server: Server) -> None:
    for path in (
        '/thumbnail/16',
        '/thumbnail/99999999999999999999',
        '/thumbnail/..%2fa',
        '/../etc',
    ):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(server.url + path, timeout=30)
        assert error.value.code == 404
        error.value.close()


def test_foreign_host_name_is_refused(server: Server) -> None:
    request = urllib.request.Request(f'{server.url}/healthz', headers={'Host': 'evil.example'})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=30)
    assert error.value.code == 400
    error.value.close()


def test_fifty_clients_at_once_all_get_answers_and_share_passes(server: Server) -> None:
    del server.model.passes[:]

    def client(number: int) -> bool:
        good = True
        for turn in range(20):
            name = [*NAMES][(number + turn) % len(NAMES)]
            status, found = ask(search_url(server, name, 1))
            good &= status == 200 and found['results'][0]['id'].startswith(NAMES[name])
        return good

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(client, range(50)))
    assert len(server.model.passes) < 1000


@pytest.fixture(scope='module')
def browser() -> Iterator:
    sync_api = pytest.importorskip('playwright.sync_api', reason='playwright is not installed')
    if not CHROMIUM.exists():
        pytest.skip('chromium is missing; Debian has it')
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        yield found
        found.close()


@pytest.fixture
def open_page(browser, server: Server) -> Iterator:
    """The page; errors of its scripts fail the test."""
    page, errors = browser.new_page(), []
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.on('dialog', lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.goto(server.url)
    yield page
    page.close()
    assert not errors


FIRST = '#found li:first-child .name'


@pytest.mark.parametrize('name', NAMES)
def test_typed_text_finds_its_colour(open_page, name: str) -> None:
    open_page.fill('#query', name)
    open_page.keyboard.press('Enter')
    open_page.wait_for_selector('#found li')
    assert open_page.text_content(FIRST).startswith(NAMES[name])
    assert '16 images' in open_page.text_content('#status')
    direction = open_page.eval_on_selector('#query', 'node => getComputedStyle(node).direction')
    assert direction == ('rtl' if name == 'أزرق' else 'ltr')


def test_uploaded_image_finds_its_colour_and_broken_one_is_refused(open_page) -> None:
    content = encode_png(COLOURS['purple'])
    name = '../../etc/<b>passwd</b>.png'
    open_page.set_input_files('#file', {'name': name, 'mimeType': 'image/png', 'buffer': content})
    open_page.wait_for_selector('#found li')
    assert open_page.text_content(FIRST).startswith('purple')
    open_page.set_input_files(
        '#file', {'name': 'a.png', 'mimeType': 'image/png', 'buffer': b'none'}
    )
    open_page.wait_for_selector('#status.bad')
    assert 'The image is refused' in open_page.text_content('#status')


def test_page_works_by_keyboard_and_names_run_no_scripts(open_page) -> None:
    open_page.keyboard.type('<script>alert(2)</script>')
    open_page.keyboard.press('Enter')
    open_page.wait_for_selector('#found li')
    assert '<img src=x onerror=alert(1)>.png' in open_page.text_content('#found')
    open_page.focus('#found button')
    open_page.keyboard.press('ArrowRight')
    second = open_page.text_content('#found li:nth-child(2) .name')
    assert open_page.evaluate('document.activeElement.querySelector(".name").textContent') == second
    open_page.keyboard.press('Enter')
    open_page.wait_for_selector('dialog[open]')
    assert open_page.text_content('#title') == second
    open_page.click('#like')
    # A selector, not a function: the page's policy refuses code in strings.
    open_page.wait_for_selector(f'{FIRST}:text-is("{second}")')
    open_page.keyboard.press('/')
    assert open_page.evaluate('document.activeElement.id') == 'query'


def test_linked_search_fits_a_phone(open_page, server: Server) -> None:
    open_page.set_viewport_size({'width': 360, 'height': 700})
    open_page.goto(f'{server.url}/?q={urllib.parse.quote("黄色")}')
    open_page.wait_for_selector('#found li')
    assert open_page.text_content(FIRST).startswith('yellow')
    assert open_page.evaluate('document.documentElement.scrollWidth') <= 360
