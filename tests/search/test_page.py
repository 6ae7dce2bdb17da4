"""The page in a browser, and the endpoint behind it, with clients of every kind."""

import asyncio
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
from search.model_of_colours import COLOURS, NAMES, SIDE, Colours, paint, png, update

from mural_jax.search.batching import SIZES, Batcher
from mural_jax.search.finder import Finder
from mural_jax.search.store import Gallery

uvicorn = pytest.importorskip('uvicorn', reason='uvicorn is not installed: the extra serve has it')
CHROMIUM = Path('/usr/bin/chromium')
LIMIT = 100_000


class Server(NamedTuple):
    url: str
    model: Colours


@pytest.fixture(scope='module')
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    from mural_jax.search import page

    folder = tmp_path_factory.mktemp('page')
    paint(folder / 'images', 3)
    # A name that would be a script, where it is taken for one.
    (folder / 'images' / '<img src=x onerror=alert(1)>.png').write_bytes(png((128, 128, 128)))
    update(folder / 'index', folder / 'images')
    model = Colours()
    service = page.Service(
        model, Finder(Gallery(folder / 'index')), SIDE, page.Limits(LIMIT, 1_000_000)
    )
    config = uvicorn.Config(page.app(service, ['127.0.0.1']), port=0, log_level='error')
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
    request = urllib.request.Request(url, content, headers)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.loads(error.read())


def words(server: Server, query: str, k: int = 3) -> str:
    return f'{server.url}/search?q={urllib.parse.quote(query)}&k={k}'


@pytest.mark.parametrize('name', NAMES)
def test_words_of_five_scripts(server: Server, name: str) -> None:
    status, found = ask(words(server, name))
    assert status == 200 and len(found['results']) == 3
    assert all(row['id'].startswith(NAMES[name]) for row in found['results'])
    assert found['query'] == name


def test_a_picture_and_its_like(server: Server) -> None:
    _, found = ask(f'{server.url}/search?k=1', png(COLOURS['blue'], kind='JPEG'))
    assert found['results'][0]['id'].startswith('blue')
    number = found['results'][0]['number']
    _, found = ask(f'{server.url}/search?like={number}&k=1')
    assert found['results'][0]['number'] == number
    assert found['results'][0]['score'] == pytest.approx(1, abs=1e-4)
    with urllib.request.urlopen(server.url + found['results'][0]['thumbnail']) as answer:
        assert answer.headers['content-type'] == 'image/jpeg'
        assert answer.read().startswith(b'\xff\xd8')


def test_it_says_that_it_is_there(server: Server) -> None:
    assert ask(f'{server.url}/healthz') == (200, {'status': 'ok', 'pictures': 16})


def bomb(side: int = 12_000) -> bytes:
    """A PNG of few bytes that says it has 144 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', check)

    head = struct.pack('>IIBBBBB', side, side, 8, 2, 0, 0, 0)
    return (
        b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head)
        + chunk(b'IDAT', zlib.compress(bytes(1000))) + chunk(b'IEND', b'')
    )  # fmt: skip


@pytest.mark.parametrize(
    ('content', 'status', 'said'),
    [
        (bomb(), 400, '144,000,000 pixels, more than 1,000,000'),
        (b'<svg onload="alert(1)"/>', 400, 'no picture of a kind'),
        (b'MZ\x90\x00' + bytes(500), 400, 'no picture of a kind'),
        (png((1, 2, 3))[:60], 400, 'The picture is refused'),
        (bytes(LIMIT + 1), 413, '100,000 bytes at most'),
        (b'', 400, 'The body is empty'),
    ],
    ids=['bomb', 'svg', 'program', 'cut', 'large', 'empty'],
)
def test_hostile_pictures_are_refused(
    server: Server, content: bytes, status: int, said: str
) -> None:
    code, answer = ask(f'{server.url}/search', content)
    assert code == status and said in answer['error']
    assert ask(f'{server.url}/healthz')[0] == 200


def test_a_picture_without_end_is_cut_off(server: Server) -> None:
    """A gigabyte that does not say how long it is: refused before it has arrived."""
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
        ('/search', 400), ('/search?q=%20', 400), ('/search?q=' + 'a' * 1001, 400),
        ('/search?q=a&k=0', 400), ('/search?q=a&k=201', 400), ('/search?q=a&k=-1', 400),
        ('/search?q=a&k=' + '9' * 5000, 400), ('/search?like=16', 400), ('/search?like=x', 400),
    ],
)  # fmt: skip
def test_wrong_questions_are_told(server: Server, path: str, status: int) -> None:
    code, answer = ask(server.url + path)
    assert code == status and answer['error']


def test_no_file_of_the_machine_is_given_away(server: Server) -> None:
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


def test_another_name_for_this_machine_is_refused(server: Server) -> None:
    request = urllib.request.Request(f'{server.url}/healthz', headers={'Host': 'evil.example'})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request, timeout=30)
    assert error.value.code == 400
    error.value.close()


def test_fifty_clients_at_once_lose_nothing(server: Server) -> None:
    """And they share passes."""
    del server.model.passes[:]

    def client(number: int) -> bool:
        good = True
        for turn in range(20):
            name = [*NAMES][(number + turn) % len(NAMES)]
            status, found = ask(words(server, name, 1))
            good &= status == 200 and found['results'][0]['id'].startswith(NAMES[name])
        return good

    with ThreadPoolExecutor(50) as pool:
        assert all(pool.map(client, range(50)))
    assert len(server.model.passes) < 1000


def test_a_pass_that_fails_is_an_answer_not_the_end() -> None:
    def work(given: list) -> list:
        if 'bad' in given:
            raise ValueError('bad')
        return [len(given)] * len(given)

    async def main() -> list:
        with ThreadPoolExecutor(1) as pool:
            batcher = Batcher(work, pool)
            first = await asyncio.gather(
                *(batcher(x) for x in ('a', 'bad')), return_exceptions=True
            )
            return [*first, *await asyncio.gather(*(batcher('x') for _ in range(SIZES[-1] + 1)))]

    found = asyncio.run(main())
    assert isinstance(found[0], ValueError) and isinstance(found[1], ValueError)
    assert max(found[2:]) == SIZES[-1]


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
def shown(browser, server: Server) -> Iterator:
    """The page; what it says of errors fails the test."""
    page, errors = browser.new_page(), []
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.on('dialog', lambda dialog: (errors.append(dialog.message), dialog.dismiss()))
    page.goto(server.url)
    yield page
    page.close()
    assert not errors


FIRST = '#found li:first-child .name'


@pytest.mark.parametrize('name', NAMES)
def test_it_is_typed_and_found(shown, name: str) -> None:
    shown.fill('#query', name)
    shown.keyboard.press('Enter')
    shown.wait_for_selector('#found li')
    assert shown.text_content(FIRST).startswith(NAMES[name])
    assert '16 pictures' in shown.text_content('#status')
    direction = shown.eval_on_selector('#query', 'node => getComputedStyle(node).direction')
    assert direction == ('rtl' if name == 'أزرق' else 'ltr')


def test_a_picture_is_sent_and_found(shown) -> None:
    content = png(COLOURS['purple'])
    name = '../../etc/<b>passwd</b>.png'
    shown.set_input_files('#file', {'name': name, 'mimeType': 'image/png', 'buffer': content})
    shown.wait_for_selector('#found li')
    assert shown.text_content(FIRST).startswith('purple')
    shown.set_input_files('#file', {'name': 'a.png', 'mimeType': 'image/png', 'buffer': b'none'})
    shown.wait_for_selector('#status.bad')
    assert 'The picture is refused' in shown.text_content('#status')


def test_it_works_by_keyboard_and_names_are_no_scripts(shown) -> None:
    shown.keyboard.type('<script>alert(2)</script>')
    shown.keyboard.press('Enter')
    shown.wait_for_selector('#found li')
    assert '<img src=x onerror=alert(1)>.png' in shown.text_content('#found')
    shown.focus('#found button')
    shown.keyboard.press('ArrowRight')
    second = shown.text_content('#found li:nth-child(2) .name')
    assert shown.evaluate('document.activeElement.querySelector(".name").textContent') == second
    shown.keyboard.press('Enter')
    shown.wait_for_selector('dialog[open]')
    assert shown.text_content('#title') == second
    shown.click('#like')
    # Not by a function: the page lets none be made of strings.
    shown.wait_for_selector(f'{FIRST}:text-is("{second}")')
    shown.keyboard.press('/')
    assert shown.evaluate('document.activeElement.id') == 'query'


def test_it_fits_a_phone_and_a_search_can_be_linked(shown, server: Server) -> None:
    shown.set_viewport_size({'width': 360, 'height': 700})
    shown.goto(f'{server.url}/?q={urllib.parse.quote("黄色")}')
    shown.wait_for_selector('#found li')
    assert shown.text_content(FIRST).startswith('yellow')
    assert shown.evaluate('document.documentElement.scrollWidth') <= 360
