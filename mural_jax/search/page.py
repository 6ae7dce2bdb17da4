"""A page to search an index, and the endpoint behind it: `/search`, `/healthz`, `/thumbnail/N`.

Starlette and uvicorn, without a framework above them: the page is one file, and a picture that is
sent is the whole body of a request, so that there are no forms, no names of files and no copies.
"""

import asyncio
import contextlib
import functools
import time
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any, NamedTuple, Protocol

import numpy as np
from PIL import Image
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mural_jax.inference.pictures import resized, upright
from mural_jax.search.batching import SIZES, Batcher, padded
from mural_jax.search.finder import Finder, Hit
from mural_jax.types import UserError

FEW_FOUND, MOST_FOUND = 32, 200  # of a search: what most ask for, and the most; ours
MOST_CHARACTERS = 1000  # of a query; ours
SECONDS = 30  # that a picture may take to arrive; ours
SAFE = {
    'Content-Security-Policy': "default-src 'self'; style-src 'unsafe-inline'; script-src "
    "'unsafe-inline'; img-src 'self' blob:; frame-ancestors 'none'; form-action 'self'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
}


class Encoder(Protocol):
    """What is asked of a model: unit vectors, float32 [N, D]."""

    def encode_text(self, texts: Sequence[str], space: str) -> np.ndarray: ...

    def encode_image(self, pictures: Sequence[np.ndarray], space: str) -> np.ndarray: ...


class Wanted(NamedTuple):
    """A request: words or a picture, and how many pictures are to be found."""

    given: Any
    most: int


class Limits(NamedTuple):
    """Of a picture that is sent."""

    upload: int  # bytes
    pixels: int


class Service:
    """Searches for many at a time; the work is done by one thread, decoding by others."""

    def __init__(self, model: Encoder, find: Finder, resize: int, limits: Limits):
        self.find, self.limits, self._model, self._resize = find, limits, model, resize
        self.space = find.gallery.about.space
        self._worker = ThreadPoolExecutor(1)
        self._decoders = ThreadPoolExecutor(2)
        self._texts = Batcher(self._by_texts, self._worker)
        self._images = Batcher(self._by_images, self._worker)

    def warm(self) -> None:
        """Compiles what requests will need, so that none of them waits for it."""
        black_SSC = np.zeros((self._resize, self._resize, 3), np.uint8)
        for size in SIZES:
            for count in (FEW_FOUND, MOST_FOUND):
                self._by_texts([Wanted('warm', count)] * size)
                self._by_images([Wanted(black_SSC, count)] * size)

    async def by_text(self, text: str, count: int) -> list[Hit]:
        """So many pictures, or fewer where fewer are, best first."""
        return await self._texts(Wanted(text, count))

    async def by_picture(self, content: bytes, count: int) -> list[Hit]:
        """The same by a picture. Raises UserError where it is none."""
        loop = asyncio.get_running_loop()
        square_SSC = await loop.run_in_executor(self._decoders, self._square, content)
        return await self._images(Wanted(square_SSC, count))

    async def by_row(self, number: int, count: int) -> list[Hit]:
        """The same by a picture of the index."""
        query_1D = self.find.gallery.image_ND[number : number + 1]
        loop = asyncio.get_running_loop()
        wanted = [Wanted(number, count)]
        return (await loop.run_in_executor(self._worker, self._found, query_1D, wanted))[0]

    def thumbnail(self, number: int) -> bytes:
        return self.find.gallery.thumbnail(number)

    def _square(self, content: bytes) -> np.ndarray:
        image: Image.Image = upright(content, self.limits.pixels)
        return resized(image, self._resize)

    def _by_texts(self, wanted: Sequence[Wanted]) -> list[list[Hit]]:
        texts = padded([one.given for one in wanted])
        return self._found(self._model.encode_text(texts, self.space), wanted)

    def _by_images(self, wanted: Sequence[Wanted]) -> list[list[Hit]]:
        squares = padded([one.given for one in wanted])
        return self._found(self._model.encode_image(squares, self.space), wanted)

    def _found(self, query_QD: np.ndarray, wanted: Sequence[Wanted]) -> list[list[Hit]]:
        # Programs for two counts alone; to find many takes several times as long as to find few.
        few = max(one.most for one in wanted) <= FEW_FOUND
        hits = self.find(query_QD, FEW_FOUND if few else MOST_FOUND)
        return [row[: one.most] for row, one in zip(hits, wanted)]


def app(service: Service, hosts: Sequence[str]) -> Starlette:
    """The application; `hosts` are the names by which it may be called, '*' for any."""
    page = resources.files(__package__).joinpath('page.html').read_text(encoding='utf-8')

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        await asyncio.get_running_loop().run_in_executor(None, service.warm)
        yield

    async def show(_: Request) -> Response:
        return HTMLResponse(page)

    async def health(_: Request) -> Response:
        return JSONResponse({'status': 'ok', 'pictures': len(service.find.gallery.rows)})

    routes = [
        Route('/', show),
        Route('/healthz', health),
        Route('/favicon.ico', lambda _: Response(status_code=204)),  # Browsers ask for one.
        Route('/search', functools.partial(_search, service), methods=['GET', 'POST']),
        Route('/thumbnail/{number:int}', functools.partial(_thumbnail, service)),
    ]
    # A page of elsewhere that calls this one by another name is refused.
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts]), Middleware(_Safe)]
    return Starlette(
        routes=routes, middleware=middleware, lifespan=lifespan,
        exception_handlers={HTTPException: _told, UserError: _told},
    )  # fmt: skip


class _Safe:
    """Adds the headers of SAFE to all answers."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sent(message: Message) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] += [(k.lower().encode(), v.encode()) for k, v in SAFE.items()]
            await send(message)

        await self._app(scope, receive, sent)


async def _told(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({'error': error.detail}, error.status_code, error.headers)
    return JSONResponse({'error': f'The picture is refused: {error}'}, 400)


async def _search(service: Service, request: Request) -> Response:
    """GET /search?q=WORDS&k=N or ?like=NUMBER, or POST /search?k=N with the bytes of a picture."""
    began = time.perf_counter()
    count = _number(request.query_params.get('k', '24'), 1, MOST_FOUND, 'k')
    query = request.query_params.get('q')
    if request.method == 'POST':
        hits = await service.by_picture(await _body(request, service.limits.upload), count)
    elif like := request.query_params.get('like'):
        row = _number(like, 0, len(service.find.gallery.rows) - 1, 'like')
        hits = await service.by_row(row, count)
    else:
        hits = await service.by_text(_words(query), count)
    results = [_row(service, hit) for hit in hits]
    seconds = time.perf_counter() - began
    return JSONResponse({'query': query, 'seconds': round(seconds, 4), 'results': results})


def _words(query: str | None) -> str:
    words = (query or '').strip()
    if not words:
        raise HTTPException(400, 'The query is empty: /search?q=a+red+fruit')
    if len(words) > MOST_CHARACTERS:
        raise HTTPException(400, f'A query has at most {MOST_CHARACTERS} characters.')
    return words


def _number(word: str, least: int, most: int, name: str) -> int:
    # Digits alone, and few: int() takes signs, spaces and more digits than it can read in time.
    if not (word.isascii() and word.isdigit() and len(word) < 10) or not least <= int(word) <= most:
        raise HTTPException(400, f'{name} must be {least} to {most}.')
    return int(word)


def _row(service: Service, hit: Hit) -> dict[str, Any]:
    row = service.find.gallery.rows[hit.number]
    return {
        'id': row.id, 'number': hit.number, 'score': round(hit.score, 4),
        'width': row.width, 'height': row.height,
        'thumbnail': f'/thumbnail/{hit.number}' if service.find.gallery.about.thumbnail else None,
    }  # fmt: skip


async def _body(request: Request, most: int) -> bytes:
    """What was sent, as soon as it is known to be short enough."""
    too_long = HTTPException(
        413, f'A picture may have {most:,} bytes at most.', {'Connection': 'close'}
    )
    length = request.headers.get('content-length', '0')
    if not (length.isascii() and length.isdigit()) or int(length[:18]) > most:
        raise too_long
    content = bytearray()
    try:
        async with asyncio.timeout(SECONDS):
            async for part in request.stream():
                content += part
                if len(content) > most:
                    raise too_long
    except TimeoutError as error:
        raise HTTPException(408, f'The picture did not arrive in {SECONDS} seconds.') from error
    except ClientDisconnect as error:
        raise HTTPException(400, 'The picture did not arrive.') from error
    if not content:
        raise HTTPException(400, 'The body is empty: send the bytes of a picture.')
    return bytes(content)


def _thumbnail_bytes(service: Service, number: int) -> bytes:
    if not 0 <= number < len(service.find.gallery.rows) or not service.find.gallery.about.thumbnail:
        raise HTTPException(404, 'There is no such picture.')
    return service.thumbnail(number)


async def _thumbnail(service: Service, request: Request) -> Response:
    loop = asyncio.get_running_loop()
    content = await loop.run_in_executor(
        None, _thumbnail_bytes, service, request.path_params['number']
    )
    return Response(content, media_type='image/jpeg', headers={'Cache-Control': 'max-age=3600'})
