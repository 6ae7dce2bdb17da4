"""The verbs of a trained model: export, index, search, serve."""

import argparse
from pathlib import Path
from typing import Any

from mural_jax.cli import flags
from mural_jax.types import UserError

FORMATS = ('safetensors', 'stablehlo', 'onnx', 'savedmodel', 'transformers', 'open_clip')
DTYPES = ('float32', 'bfloat16', 'float16', 'int8')
HOW = ('exact', 'binary', 'faiss')
LOOPBACK = '127.0.0.1'


def add(verbs: argparse._SubParsersAction) -> None:
    """Adds them to the command line."""
    export = flags.verb(verbs, 'export', _export, 'give a trained model to the tools of others')
    flags.common(export, workdir=True, step=True)
    export.add_argument('--format', required=True, choices=FORMATS, help='docs/export.md')
    export.add_argument('--out', type=Path, required=True, help='a folder that is not there yet')
    export.add_argument(
        '--dtype', default='float32', choices=DTYPES,
        help='how the weights are stored (default: float32)',
    )  # fmt: skip
    export.add_argument(
        '--tower', choices=['image', 'text'], help='this one alone (default: all of them)'
    )
    _add_index(flags.verb(verbs, 'index', _index, 'embed pictures to be searched'))
    _add_search(flags.verb(verbs, 'search', _search, 'find pictures by words, or by a picture'))
    _add_serve(flags.verb(verbs, 'serve', _serve, 'a page and an endpoint to search an index'))


def _add_index(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--model', type=Path, required=True, help='a folder of `mural export --format=safetensors`'
    )
    parser.add_argument(
        '--images', type=Path, required=True,
        help='a folder of pictures, or a table (.parquet, .tsv, .csv, .jsonl) of them',
    )  # fmt: skip
    parser.add_argument(
        '--out', type=Path, required=True,
        help='the folder of the index; one that is there takes what is new',
    )  # fmt: skip
    parser.add_argument(
        '--image_column', default='image',
        help='of a table: the files of pictures, or their bytes (default: image)',
    )  # fmt: skip
    parser.add_argument(
        '--id_column', default='', help='of a table: what pictures are called (default: the file, '
        'or the number of the row)',
    )  # fmt: skip
    parser.add_argument(
        '--space', help='the task in whose space is compared (default: the first of the model)'
    )
    parser.add_argument(
        '--thumbnail', type=int, default=256,
        help='pixels of the longer side of what the page shows, 0 for none (default: 256)',
    )  # fmt: skip
    parser.add_argument(
        '--faiss', default='', metavar='FACTORY',
        help='an index of faiss too, by its factory: HNSW32, IVF1024,PQ32',
    )  # fmt: skip


def _add_search(parser: argparse.ArgumentParser) -> None:
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument('--index', type=Path, help='a folder of `mural index`')
    where.add_argument('--workdir', type=Path, help='a run, whose evaluated pictures are searched')
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--query', help='what to look for, in any language')
    what.add_argument('--image', type=Path, help='a picture: its like are looked for in an index')
    flags.common(parser, step=True)
    _add_how(parser)
    parser.add_argument('--k', type=int, default=5, help='how many pictures (default: 5)')
    parser.add_argument(
        '--out', type=Path,
        help='the picture of what was found (default: search.png in WORKDIR; of an index none)',
    )  # fmt: skip


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--index', type=Path, required=True, help='a folder of `mural index`')
    _add_how(parser)
    parser.add_argument(
        '--host', default=LOOPBACK,
        help=f'the interface that answers; another than {LOOPBACK} lets others in '
        f'(default: {LOOPBACK})',
    )  # fmt: skip
    parser.add_argument('--port', type=int, default=8000, help='0 takes a free one (default: 8000)')
    parser.add_argument(
        '--max_upload', type=int, default=10_000_000,
        help='bytes of a picture that is sent, at most (default: 10000000)',
    )  # fmt: skip
    parser.add_argument(
        '--max_pixels', type=int, default=40_000_000,
        help='of a picture that is sent, at most; more is not decoded (default: 40000000)',
    )  # fmt: skip


def _add_how(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        '--model', type=Path, help='where the model of the index is now (default: where it was)'
    )
    parser.add_argument(
        '--how', default='exact', choices=HOW,
        help='compare all, or candidates by their signs or by faiss (default: exact)',
    )  # fmt: skip
    parser.add_argument(
        '--rerank', type=int,
        help='candidates that are compared exactly (default: 5000 by signs, 200 of faiss)',
    )  # fmt: skip


def _export(arguments: argparse.Namespace) -> int:
    from mural_jax.cli import export as export_commands

    return export_commands.export(
        arguments.workdir.expanduser(), arguments.step, arguments.format,
        arguments.out.expanduser(), arguments.dtype, arguments.tower,
    )  # fmt: skip


def _index(arguments: argparse.Namespace) -> None:
    if arguments.thumbnail < 0:
        raise UserError(f'--thumbnail {arguments.thumbnail} must be 0 or more.')
    from mural_jax.cli import index

    index.index(
        arguments.model.expanduser(), arguments.images.expanduser(), arguments.out.expanduser(),
        (arguments.image_column, arguments.id_column), arguments.space, arguments.thumbnail,
        arguments.faiss,
    )  # fmt: skip


def _search(arguments: argparse.Namespace) -> None:
    if arguments.query is not None and not arguments.query.strip():
        raise UserError('The query is empty. Say what to look for: --query "a red fruit".')
    if arguments.k < 1:
        raise UserError(f'--k {arguments.k} finds nothing; give at least 1.')
    if arguments.index:
        _search_index(arguments)
        return
    if arguments.image or arguments.model or arguments.how != 'exact':
        raise UserError('--image, --model and --how need --index: see `mural index --help`.')
    from mural_jax.cli import evaluate

    workdir = arguments.workdir.expanduser()
    out = (arguments.out or workdir / 'search.png').expanduser()
    evaluate.search(workdir, arguments.query, arguments.k, arguments.step, out)


def _search_index(arguments: argparse.Namespace) -> None:
    if arguments.step is not None:
        raise UserError('--step needs --workdir: an index has the pictures of one model.')
    from mural_jax.cli import index

    out = arguments.out and arguments.out.expanduser()
    query = arguments.query if arguments.image is None else arguments.image.expanduser()
    index.search(_opened(arguments), query, arguments.k, out)


def _serve(arguments: argparse.Namespace) -> None:
    for name in ('max_upload', 'max_pixels'):
        if getattr(arguments, name) < 1:
            raise UserError(f'--{name} {getattr(arguments, name)} must be at least 1.')
    if not 0 <= arguments.port < 65536:
        raise UserError(f'--port {arguments.port} must be 0 to 65535.')
    from mural_jax.cli import index

    limits = (arguments.max_upload, arguments.max_pixels)
    index.serve(_opened(arguments), arguments.host, arguments.port, limits)


def _opened(arguments: argparse.Namespace) -> Any:
    if arguments.rerank is not None and arguments.rerank < 1:
        raise UserError(f'--rerank {arguments.rerank} must be at least 1.')
    from mural_jax.cli import index

    model = arguments.model and arguments.model.expanduser()
    return index.opened(arguments.index.expanduser(), model, arguments.how, arguments.rerank)
