"""mural index: embeds the user's images, so that they can be searched."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mural_jax.cli import flags
from mural_jax.types import UserError

if TYPE_CHECKING:
    from mural_jax.inference.model import Model
    from mural_jax.search.store import IndexDescription


def add_parser(verbs: flags.Verbs) -> None:
    """Adds the verb and its flags."""
    parser = flags.add_verb(verbs, 'index', run, 'Embed images, so that they can be searched.')
    parser.add_argument(
        '--model',
        type=flags.user_path,
        required=True,
        help='Folder of the model, made by `mural export --format=safetensors`.',
    )
    parser.add_argument(
        '--images',
        type=flags.user_path,
        required=True,
        help='Folder of images, or table of images (.parquet, .tsv, .csv, .jsonl).',
    )
    parser.add_argument(
        '--out',
        type=flags.user_path,
        required=True,
        help='Folder of the index. An index that is already there is updated.',
    )
    parser.add_argument(
        '--image_column',
        default='image',
        help='Column of the table with the files of the images, or their bytes (default: image).',
    )
    parser.add_argument(
        '--id_column',
        default='',
        help='Column of the table with the ids of the images (default: the file of the image, or '
        'the number of the row).',
    )
    parser.add_argument(
        '--space',
        help='Space in which images and queries are compared (default: the first of the model).',
    )
    parser.add_argument(
        '--thumbnail',
        type=int,
        default=256,
        help='Longer side of the stored thumbnails in pixels; 0 stores none (default: 256).',
    )
    parser.add_argument(
        '--faiss',
        default='',
        metavar='FACTORY',
        help='Factory string of an additional faiss index, such as HNSW32 or IVF1024,PQ32.',
    )


def run(arguments: argparse.Namespace) -> None:
    """Embeds the images that the index lacks, drops those that are gone, and prints the counts."""
    if arguments.thumbnail < 0:
        raise UserError(f'--thumbnail {arguments.thumbnail} must be 0 or more.')
    from mural_jax.inference.model import load
    from mural_jax.search import finder, store, update
    from mural_jax.search.fingerprints import fingerprint_export

    if arguments.faiss:
        # Find out now that faiss is missing, not after hours of embedding.
        finder.import_faiss()
    out = arguments.out
    model = load(arguments.model)
    description = _describe_index(arguments, model)
    fingerprint = fingerprint_export(arguments.model)
    files, total = update.list_images(arguments.images, arguments.image_column, arguments.id_column)
    if (out / store.DESCRIPTION).exists():
        update.require_same_index(out, description, fingerprint, str(arguments.model))
    # The files of an index should not mix with those of something else.
    elif out.exists() and any(out.iterdir()):
        raise UserError(f'{out} exists and is not an index. Give another folder with --out.')
    encoder = update.ImageEncoder(
        lambda images: model.encode_image(images, description.space),
        model.description.resize,
        fingerprint,
    )
    try:
        with _progress_bar(total) as report_progress:
            counts = update.update(out, description, encoder, files, report_progress)
    except OSError as error:
        raise UserError(
            f'{out} cannot be written ({error}). Make room, and run the same command again: it '
            'continues where it stopped.'
        ) from error
    if arguments.faiss:
        finder.write_faiss(out, store.ImageIndex(out).image_ND, arguments.faiss)
    else:
        # An older faiss index would find other images.
        (out / store.FAISS).unlink(missing_ok=True)
    print(
        f'{out}: {counts.added + counts.kept:,} images, {counts.added:,} new, '
        f'{counts.removed:,} removed'
    )
    if counts.broken:
        print(f'{counts.broken:,} images could not be read: {out / store.BROKEN} says why')


def _describe_index(arguments: argparse.Namespace, model: 'Model') -> 'IndexDescription':
    """The description of the index. Raises UserError if the model embeds no images in --space."""
    from mural_jax.search.store import IndexDescription

    spaces = [name for name, space in model.description.spaces.items() if 'image' in space.sides]
    if not spaces or (arguments.space and arguments.space not in spaces):
        where = f' in a space {arguments.space!r}' if arguments.space else ''
        raise UserError(
            f'{arguments.model} does not embed images{where}. Spaces in which it does: '
            f'{", ".join(spaces) or "none"}.'
        )
    space = arguments.space or spaces[0]
    return IndexDescription(
        space=space,
        # Encoding nothing tells the dimension of the space.
        dim=model.encode_image([], space).shape[1],
        # Absolute, because searches may start in another folder.
        model=str(arguments.model.resolve()),
        images=str(arguments.images.resolve()),
        thumbnail=arguments.thumbnail,
        faiss=arguments.faiss,
    )


@contextmanager
def _progress_bar(total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows a bar; yields a function that takes the number of images done so far."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    bar = Progress(
        TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    )
    with bar:
        task = bar.add_task('images', total=total)
        yield lambda count: bar.update(task, completed=count)
