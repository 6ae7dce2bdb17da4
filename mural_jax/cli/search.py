"""mural search: finds images by words or by an image."""

import argparse

from mural_jax.cli import flags
from mural_jax.types import UserError


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    parser = flags.add_verb(verbs, 'search', run, 'Find images by words, or by an image.')
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument('--index', type=flags.user_path, help='Folder made by `mural index`.')
    where.add_argument(
        '--workdir', type=flags.user_path, help='Folder of a run, whose evaluated images to search.'
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument('--query', help='Words to look for, in any language.')
    what.add_argument(
        '--image', type=flags.user_path, help='Image to find similar ones of; needs --index.'
    )
    flags.add_step(parser)
    flags.add_searcher(parser)
    parser.add_argument('--k', type=int, default=5, help='Number of images to find (default: 5).')
    parser.add_argument(
        '--out',
        type=flags.user_path,
        help='File that takes the found images side by side (default: WORKDIR/search.png for a '
        'run, none for an index).',
    )


def run(arguments: argparse.Namespace) -> None:
    """Prints the k nearest images, and writes them side by side as one image."""
    if arguments.query is not None and not arguments.query.strip():
        raise UserError('The query is empty. Say what to look for: --query "a red fruit".')
    if arguments.k < 1:
        raise UserError(f'--k {arguments.k} finds nothing; give at least 1.')
    if arguments.index:
        _search_index(arguments)
    else:
        _search_run(arguments)


def _search_index(arguments: argparse.Namespace) -> None:
    """Searches an index of the user's images."""
    if arguments.step is not None:
        raise UserError('--step needs --workdir: the images of an index come from one model.')
    searcher = flags.open_searcher(arguments)
    if arguments.image:
        hits = searcher.find_by_image(arguments.image, arguments.k)
    else:
        hits = searcher.find_by_text(arguments.query, arguments.k)
    for rank, hit in enumerate(hits, 1):
        row = searcher.index.rows[hit.number]
        print(f'{rank:3d}  {hit.score:6.3f}  {row.id}  ({row.width} x {row.height})')
    if arguments.out:
        from mural_jax.search.sheet import save_contact_sheet

        save_contact_sheet(searcher.index, hits, arguments.out)


def _search_run(arguments: argparse.Namespace) -> None:
    """Searches the images that `mural evaluate` embedded."""
    # The embedder of a run decodes images with TensorFlow, which searches should not wait for.
    if arguments.image or arguments.model or arguments.how != 'exact':
        raise UserError('--image, --model and --how need --index: see `mural index --help`.')
    from mural_jax.runs.image_index import load_run_index
    from mural_jax.runs.restore import restore
    from mural_jax.search.finder import Finder
    from mural_jax.search.sheet import name_image, save_contact_sheet

    # The model of a run comes from its checkpoint, not from an export as that of an index.
    restored = restore(arguments.workdir, arguments.step)
    index = load_run_index(arguments.workdir, restored)
    query_1D = restored.embedder.embed_texts(index.space, [arguments.query])
    (hits,) = Finder(index)(query_1D, arguments.k)
    for rank, hit in enumerate(hits, 1):
        row = index.rows[hit.number]
        print(f'{rank:3d}  {hit.score:6.3f}  {name_image(row)}  ({row.id}, {row.split})')
    save_contact_sheet(index, hits, arguments.out or arguments.workdir / 'search.png')
