"""What the verbs do that search pictures of one's own: index, search, serve."""

import hashlib
import socket
import sys
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mural_jax.inference import model as exported
from mural_jax.inference.model import Model
from mural_jax.inference.pictures import upright
from mural_jax.search import finder, store, update
from mural_jax.search.sheet import Hit, save_sheet
from mural_jax.search.store import Gallery
from mural_jax.types import UserError

LOOPBACK = ['127.0.0.1', 'localhost', '::1', '[::1]']
CLIENTS = 500  # at one time; ours
FINGERPRINTED = (exported.ABOUT, exported.WEIGHTS, exported.VOCABULARY)


class Opened(NamedTuple):
    """An index with its model."""

    model: Model
    find: finder.Finder

    @property
    def gallery(self) -> Gallery:
        return self.find.gallery

    @property
    def space(self) -> str:
        return self.gallery.about.space


def index(
    model: Path, images: Path, out: Path, columns: tuple[str, str], space: str | None,
    thumbnail: int, factory: str,
) -> None:  # fmt: skip
    """Embeds the pictures that an index lacks, drops those that are gone, and tells of both."""
    if factory:
        finder.needed()
    encoder = exported.load(model)
    about = _about(model, encoder, images, space, thumbnail, factory)
    sources, total = update.listed(images, *columns)
    if (out / store.ABOUT).exists():
        _check_same(store.About.read(out), about, out)
    elif out.exists() and any(out.iterdir()):
        raise UserError(f'{out} is there and is no index. Give another folder with --out.')
    bar = Progress(
        TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
    try:
        with bar:
            task = bar.add_task('pictures', total=total)
            done = update.update(
                out, about, sources, lambda squares: encoder.encode_image(squares, about.space),
                encoder.about.resize, lambda count: bar.update(task, completed=count),
            )  # fmt: skip
    except OSError as error:
        raise UserError(
            f'{out} cannot be written ({error}). Make room, and run the same command again: it '
            'goes on where it ended.'
        ) from error
    if factory:
        found = Gallery(out)
        finder.write_faiss(out, found.image_ND, factory)
    else:
        (out / store.FAISS).unlink(missing_ok=True)  # It knows other pictures.
    print(
        f'{out}: {done.added + done.kept:,} pictures, {done.added:,} new, {done.removed:,} removed'
    )
    if done.broken:
        print(f'{done.broken:,} could not be read: {out / store.BROKEN} says why')


def _about(
    model: Path, encoder: Model, images: Path, space: str | None, thumbnail: int, factory: str
) -> store.About:
    spaces = [name for name, one in encoder.about.spaces.items() if 'image' in one.towers]
    if not spaces or (space and space not in spaces):
        asked = f' in a space {space!r}' if space else ''
        raise UserError(
            f'{model} encodes no pictures{asked}; it does in {", ".join(spaces) or "none"}.'
        )
    chosen = space or spaces[0]
    return store.About(
        model=str(model.resolve()), hash=fingerprint(model), space=chosen,
        dim=encoder.encode_image([], chosen).shape[1], images=str(images.resolve()),
        thumbnail=thumbnail, faiss=factory,
    )  # fmt: skip


def _check_same(before: store.About, now: store.About, out: Path) -> None:
    differ = {
        'hash': 'another model', 'space': 'another space', 'images': 'other pictures',
        'thumbnail': 'another --thumbnail',
    }  # fmt: skip
    for name, what in differ.items():
        if getattr(before, name) != getattr(now, name):
            said = '' if name == 'hash' else f' ({getattr(before, name)})'
            raise UserError(
                f'{out} was made with {what}{said}. Give another folder with --out, or remove it.'
            )


def fingerprint(model: Path) -> str:
    """Tells models apart: a hash of the files of an export."""
    whole = hashlib.sha256()
    for name in FINGERPRINTED:
        with (model / name).open('rb') as file:
            whole.update(hashlib.file_digest(file, 'sha256').digest())
    return whole.hexdigest()


def opened(folder: Path, model: Path | None, how: str, rerank: int | None) -> Opened:
    """An index and its model, which has to be the one that it was made with."""
    found = Gallery(folder)
    where = model or Path(found.about.model)
    if not where.is_dir():
        raise UserError(
            f'{where}, the model of {folder}, is not there. Say where it is: --model=DIR.'
        )
    encoder = exported.load(where)
    if fingerprint(where) != found.about.hash:
        raise UserError(f'{where} is another model than the one that made {folder}.')
    return Opened(encoder, finder.Finder(found, how, rerank))


def serve(given: Opened, host: str, port: int, limits: tuple[int, int]) -> None:
    """Answers until it is interrupted."""
    try:
        import uvicorn

        from mural_jax.search import page
    except ImportError as error:
        raise UserError(
            f"`mural serve` needs the package {error.name}: pip install 'mural-jax[serve]'."
        ) from error
    towers = given.model.about.spaces[given.space].towers
    if missing := {'image', 'text'} - {*towers}:
        raise UserError(f'This model has no tower {sorted(missing)[0]!r}, which the page needs.')
    local = host in LOOPBACK
    if not local:
        print(
            f'mural: warning: {host} lets other machines in, without a password and without '
            'encryption. Put a proxy with both in front of it.', file=sys.stderr,
        )  # fmt: skip
    listener = _listening(host, port)
    service = page.Service(given.model, given.find, given.model.about.resize, page.Limits(*limits))
    application = page.app(service, LOOPBACK if local else ['*'])
    shown = f'[{host}]' if ':' in host else host
    print(f'{len(given.gallery.rows):,} pictures: http://{shown}:{listener.getsockname()[1]}/')
    sys.stdout.flush()
    config = uvicorn.Config(
        application, log_level='warning', limit_concurrency=CLIENTS, server_header=False,
        timeout_keep_alive=10,
    )  # fmt: skip
    uvicorn.Server(config).run(sockets=[listener])


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(
            f'Nothing can answer at {host}, port {port} ({error.strerror}). Give another --host or '
            '--port; --port=0 takes a free one.'
        ) from error


def search(given: Opened, query: str | Path, k: int, out: Path | None) -> None:
    """Prints the k pictures nearest to words or to a picture, and writes them as one picture."""
    if isinstance(query, Path):
        try:
            vector_1D = given.model.encode_image(upright(query), given.space)
        except UserError as error:
            raise UserError(f'{query}: {error}') from error
    else:
        vector_1D = given.model.encode_text(query, given.space)
    (found,) = given.find(vector_1D, k)
    rows = given.gallery.rows
    for place, hit in enumerate(found, 1):
        row = rows[hit.number]
        print(f'{place:3d}  {hit.score:6.3f}  {row.id}  ({row.width} x {row.height})')
    if not out:
        return
    if not given.gallery.about.thumbnail:
        raise UserError('This index keeps no thumbnails: --out has nothing to show.')
    hits = [
        Hit(hit.score, rows[hit.number].id, Path(rows[hit.number].id).name, '',
            given.gallery.thumbnail(hit.number), hit.number)
        for hit in found
    ]  # fmt: skip
    save_sheet(hits, out)
