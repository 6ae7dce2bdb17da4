"""mural serve: answers searches of an index with a page and an endpoint."""

import argparse
import sys
from typing import TYPE_CHECKING

from mural_jax.cli import flags
from mural_jax.types import UserError

if TYPE_CHECKING:
    import socket

    from mural_jax.search.searcher import Searcher

LOOPBACK_HOSTS = ('127.0.0.1', 'localhost', '::1', '[::1]')
MAX_CLIENTS = 500  # Connections at the same time (ours).


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    text = 'Serve a page and an endpoint that search an index.'
    parser = flags.add_verb(verbs, 'serve', run, text)
    parser.add_argument(
        '--index', type=flags.user_path, required=True, help='Folder made by `mural index`.'
    )
    flags.add_searcher(parser)
    local = LOOPBACK_HOSTS[0]
    parser.add_argument(
        '--host',
        default=local,
        help=f'Address to listen at. Any other than {local} lets other machines in '
        f'(default: {local}).',
    )
    parser.add_argument(
        '--port', type=int, default=8000, help='Port; 0 takes a free one (default: 8000).'
    )
    parser.add_argument(
        '--max_upload',
        type=int,
        default=10_000_000,
        help='Largest size of an image that a client sends, in bytes (default: 10000000).',
    )
    parser.add_argument(
        '--max_pixels',
        type=int,
        default=40_000_000,
        help='Largest number of pixels of an image that a client sends. Larger images are not '
        'decoded (default: 40000000).',
    )


def run(arguments: argparse.Namespace) -> None:
    """Answers requests until it is interrupted."""
    for name in ('max_upload', 'max_pixels'):
        if getattr(arguments, name) < 1:
            raise UserError(f'--{name} {getattr(arguments, name)} must be at least 1.')
    if not 0 <= arguments.port < 65536:
        raise UserError(f'--port {arguments.port} must be 0 to 65535.')
    searcher = flags.open_searcher(arguments)
    try:
        import uvicorn

        from mural_jax.search import page
    except ImportError as error:
        raise UserError(
            f"`mural serve` needs the package {error.name}: pip install 'mural-jax[serve]'."
        ) from error
    _require_towers(searcher)
    host = arguments.host
    is_local = host in LOOPBACK_HOSTS
    if not is_local:
        print(
            f'mural: warning: {host} lets other machines in, without a password and without '
            'encryption. Put a proxy with both in front of it.',
            file=sys.stderr,
        )
    # Listen before the model compiles: a wrong address should fail at once.
    listener = _open_listener(host, arguments.port)
    limits = page.UploadLimits(arguments.max_upload, arguments.max_pixels)
    service = page.SearchService(
        searcher.model, searcher.finder, searcher.model.description.resize, limits
    )
    # Other names than these would let pages of other sites call a server on this machine.
    application = page.build_app(service, LOOPBACK_HOSTS if is_local else ['*'])
    shown = f'[{host}]' if ':' in host else host
    port = listener.getsockname()[1]
    # Flushed, so that a program which started this one can read the address.
    print(f'{len(searcher.index.rows):,} images: http://{shown}:{port}/', flush=True)
    config = uvicorn.Config(
        application,
        log_level='warning',
        limit_concurrency=MAX_CLIENTS,
        server_header=False,
        timeout_keep_alive=10,
    )
    uvicorn.Server(config).run(sockets=[listener])


def _require_towers(searcher: 'Searcher') -> None:
    """Raises UserError if the model lacks a tower that the page needs."""
    towers = searcher.model.description.spaces[searcher.space].sides
    if missing := {'image', 'text'} - {*towers}:
        raise UserError(f'This model has no tower {sorted(missing)[0]!r}, which the page needs.')


def _open_listener(host: str, port: int) -> 'socket.socket':
    """A socket that listens at the address. Raises UserError if it cannot."""
    import socket

    try:
        # The host may be a name, or an address of IPv6.
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f'Cannot listen at {host}, port {port} ({error.strerror}). Give another --host or '
            '--port; --port=0 takes a free one.'
        ) from error
