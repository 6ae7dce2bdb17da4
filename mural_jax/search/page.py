"""A web page that searches an index, and its endpoints: `/search`, `/healthz`, `/thumbnail/N`.

It runs on Starlette and uvicorn alone. The page is one file, and an uploaded image is the whole
body of a request, so there are no forms to parse, no file names and no copies on disk.
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
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mural_jax.inference.images import load_upright, resize_square
from mural_jax.search.batching import PASS_SIZES, Batcher, pad_requests
from mural_jax.search.finder import Finder, Hit
from mural_jax.types import UserError

# Results of one search: as many as most requests want, and the most a request may want (ours).
FEW_RESULTS, MAX_RESULTS = 32, 200
DEFAULT_RESULTS = 24  # If a request does not say how many (ours).
MAX_QUERY_LENGTH = 1000  # Characters (ours).
UPLOAD_SECONDS = 30  # An image that takes longer to arrive is refused (ours).
# page.html has its style and script inline, and shows an upload as a blob before it is sent.
SECURITY_HEADERS = {
    'Content-Security-Policy': "default-src 'self'; style-src 'unsafe-inline'; script-src "
    "'unsafe-inline'; img-src 'self' blob:; frame-ancestors 'none'; form-action 'self'",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
}


class QueryEncoder(Protocol):
    """A model that embeds queries as unit vectors, float32 [N, D]."""

    def encode_text(self, texts: Sequence[str], space: str) -> np.ndarray: ...

    def encode_image(self, images: Sequence[np.ndarray], space: str) -> np.ndarray: ...


class SearchRequest(NamedTuple):
    """The query, a text or an image uint8 [S, S, 3], and the number of images to find, k."""

    query: Any
    k: int


class UploadLimits(NamedTuple):
    """The largest image that a client may send: bytes of its file, and its pixels."""

    file_bytes: int
    pixels: int


class SearchService:
    """Answers many searches at a time: one thread runs the model, others decode images."""

    def __init__(self, model: QueryEncoder, finder: Finder, resize: int, limits: UploadLimits):
        """resize: images are resized to squares of this many pixels before the model gets them."""
        self.index, self.limits = finder.index, limits
        self._model, self._finder, self._resize = model, finder, resize
        # One thread: passes share the device, so two at once would only slow each other down.
        self._worker = ThreadPoolExecutor(1)
        # Decoding an image can take longer than a pass, so it must not hold up the worker.
        self._decoders = ThreadPoolExecutor(2)
        self._texts = Batcher(self._search_texts, self._worker)
        self._images = Batcher(self._search_images, self._worker)

    def warm_up(self) -> None:
        """Compiles every program that a request can need, so that no request waits for it."""
        black_SSC = np.zeros((self._resize, self._resize, 3), np.uint8)
        for size in PASS_SIZES:
            for k in (FEW_RESULTS, MAX_RESULTS):
                self._search_texts([SearchRequest('warm', k)] * size)
                self._search_images([SearchRequest(black_SSC, k)] * size)

    async def find_by_text(self, text: str, k: int) -> list[Hit]:
        """The k images nearest to a text, best first; fewer if the index has fewer."""
        return await self._texts(SearchRequest(text, k))

    async def find_by_image(self, content: bytes, k: int) -> list[Hit]:
        """The k images nearest to an encoded image, best first.

        Raises UserError if the bytes are not an image, or one of too many pixels.
        """
        loop = asyncio.get_running_loop()
        image_SSC = await loop.run_in_executor(self._decoders, self._decode, content)
        return await self._images(SearchRequest(image_SSC, k))

    async def find_by_row(self, number: int, k: int) -> list[Hit]:
        """The k images nearest to an image of the index, best first."""
        query_1D = self.index.image_ND[number : number + 1]
        loop = asyncio.get_running_loop()
        requests = [SearchRequest(number, k)]
        return (await loop.run_in_executor(self._worker, self._find, query_1D, requests))[0]

    def _decode(self, content: bytes) -> np.ndarray:
        return resize_square(load_upright(content, self.limits.pixels), self._resize)

    def _search_texts(self, requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        texts = pad_requests([one.query for one in requests])
        return self._find(self._model.encode_text(texts, self.index.space), requests)

    def _search_images(self, requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        images = pad_requests([one.query for one in requests])
        return self._find(self._model.encode_image(images, self.index.space), requests)

    def _find(self, query_QD: np.ndarray, requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        # Two values of k are compiled, as finding many takes several times as long.
        few = max(one.k for one in requests) <= FEW_RESULTS
        hits = self._finder(query_QD, FEW_RESULTS if few else MAX_RESULTS)
        # The queries may be padded, so there can be more rows of hits than requests.
        return [row[: one.k] for row, one in zip(hits, requests)]


def build_app(service: SearchService, hosts: Sequence[str]) -> Starlette:
    """The web application. It answers to the host names `hosts` alone, '*' for any."""
    page = resources.files(__package__).joinpath('page.html').read_text(encoding='utf-8')

    @contextlib.asynccontextmanager
    async def warm_up_first(_: Starlette) -> AsyncIterator[None]:
        await asyncio.get_running_loop().run_in_executor(None, service.warm_up)
        yield

    async def show_page(_: Request) -> Response:
        return HTMLResponse(page)

    async def show_health(_: Request) -> Response:
        return JSONResponse({'status': 'ok', 'images': len(service.index.rows)})

    routes = [
        Route('/', show_page),
        Route('/healthz', show_health),
        Route('/favicon.ico', lambda _: Response(status_code=204)),  # Browsers ask for one.
        Route('/search', functools.partial(_answer_search, service), methods=['GET', 'POST']),
        Route('/thumbnail/{number:int}', functools.partial(_answer_thumbnail, service)),
    ]
    # Against DNS rebinding: a foreign page could reach this server by a name of its own.
    host_check = Middleware(TrustedHostMiddleware, allowed_hosts=[*hosts])
    return Starlette(
        routes=routes,
        middleware=[host_check, Middleware(_SecurityHeaders)],
        lifespan=warm_up_first,
        exception_handlers={HTTPException: _answer_error, UserError: _answer_error},
    )


class _SecurityHeaders:
    """Middleware that adds SECURITY_HEADERS to all answers."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        added = [
            (name.lower().encode(), value.encode()) for name, value in SECURITY_HEADERS.items()
        ]

        async def send_with_headers(message: Message) -> None:
            if message['type'] == 'http.response.start':
                message['headers'] += added
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _answer_error(_: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({'error': error.detail}, error.status_code, error.headers)
    return JSONResponse({'error': f'The image is refused: {error}'}, 400)


async def _answer_search(service: SearchService, request: Request) -> Response:
    """GET /search?q=WORDS&k=N or ?like=NUMBER, or POST /search?k=N with the bytes of an image."""
    began = time.perf_counter()
    k = _parse_number(request.query_params.get('k', str(DEFAULT_RESULTS)), 1, MAX_RESULTS, 'k')
    query = request.query_params.get('q')
    if request.method == 'POST':
        content = await _read_body(request, service.limits.file_bytes)
        hits = await service.find_by_image(content, k)
    elif like := request.query_params.get('like'):
        row = _parse_number(like, 0, len(service.index.rows) - 1, 'like')
        hits = await service.find_by_row(row, k)
    else:
        hits = await service.find_by_text(_parse_query(query), k)
    results = [_describe_hit(service, hit) for hit in hits]
    seconds = time.perf_counter() - began
    return JSONResponse({'query': query, 'seconds': round(seconds, 4), 'results': results})


def _parse_query(query: str | None) -> str:
    words = (query or '').strip()
    if not words:
        raise HTTPException(400, 'The query is empty: /search?q=a+red+fruit')
    if len(words) > MAX_QUERY_LENGTH:
        raise HTTPException(400, f'A query has at most {MAX_QUERY_LENGTH} characters.')
    return words


def _parse_number(word: str, least: int, most: int, name: str) -> int:
    # int() also takes signs, spaces, and so many digits that converting them takes seconds.
    digits = word.isascii() and word.isdigit() and len(word) < 10
    if not digits or not least <= int(word) <= most:
        raise HTTPException(400, f'{name} must be {least} to {most}.')
    return int(word)


def _describe_hit(service: SearchService, hit: Hit) -> dict[str, Any]:
    row = service.index.rows[hit.number]
    return {
        'id': row.id,
        'number': hit.number,
        'score': round(hit.score, 4),
        'width': row.width,
        'height': row.height,
        'thumbnail': f'/thumbnail/{hit.number}' if service.index.description.has_images else None,
    }


async def _read_body(request: Request, max_bytes: int) -> bytes:
    """The body of a request. Refuses a longer one before all of it has arrived."""
    too_long = HTTPException(
        413, f'An image may have {max_bytes:,} bytes at most.', {'Connection': 'close'}
    )
    length = request.headers.get('content-length', '0')
    if not (length.isascii() and length.isdigit()) or int(length[:18]) > max_bytes:
        raise too_long
    content = bytearray()
    try:
        async with asyncio.timeout(UPLOAD_SECONDS):
            # A chunked body has no length beforehand, so it is counted as it arrives.
            async for chunk in request.stream():
                content += chunk
                if len(content) > max_bytes:
                    raise too_long
    except TimeoutError as error:
        raise HTTPException(
            408, f'The image did not arrive in {UPLOAD_SECONDS} seconds.'
        ) from error
    except ClientDisconnect as error:
        raise HTTPException(400, 'The image did not arrive.') from error
    if not content:
        raise HTTPException(400, 'The body is empty: send the bytes of an image.')
    return bytes(content)


def _read_thumbnail(service: SearchService, number: int) -> bytes:
    if not 0 <= number < len(service.index.rows) or not service.index.description.has_images:
        raise HTTPException(404, 'There is no such image.')
    return service.index.read_image(number)


async def _answer_thumbnail(service: SearchService, request: Request) -> Response:
    loop = asyncio.get_running_loop()
    content = await loop.run_in_executor(
        None, _read_thumbnail, service, request.path_params['number']
    )
    return Response(content, media_type='image/jpeg', headers={'Cache-Control': 'max-age=3600'})
