"""Small files in WIT's published format, and images in each layout in which they come."""

import base64
import csv
import gzip
import hashlib
import io
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from data.sources import image_files

from mural_jax.data.sources.wit import COLUMNS

COMMONS = 'https://upload.wikimedia.org/wikipedia/commons'
URLS = (f'{COMMONS}/1/1a/S%C3%A3o_Paulo.jpg', f'{COMMONS}/2/2b/Dog_(100%25).png')
IMAGES = dict(zip(URLS, (b'image of a town', b'image of a dog')))


def make_row(url: str, language: str, **columns: str) -> dict[str, str]:
    """A row of a published table, which has empty texts instead of nulls."""
    return dict.fromkeys(COLUMNS, '') | {
        'language': language,
        'page_url': f'https://{language}.wikipedia.org/wiki/X',
        'image_url': url,
        'mime_type': 'image/jpeg',
        'original_height': '3',
        'original_width': '4',
        'is_main_image': 'true',
        'attribution_passes_lang_id': 'false',
        'page_changed_recently': 'true',
        **columns,
    }


ROWS = (
    make_row(
        URLS[0], 'pt', caption_reference_description='A "cidade"\nvista\tde longe', page_title='S'
    ),
    make_row(
        URLS[1], 'en', caption_alt_text_description='a dog', context_page_description='Dogs bark'
    ),
    make_row(
        URLS[0],
        'de',
        caption_attribution_description='Deutsch: Die Stadt',
        attribution_passes_lang_id='true',
        section_title='Lage',
        context_section_description='Am',
    ),
    make_row(
        URLS[0], 'en', caption_attribution_description='Deutsch: Die Stadt', page_title='Town'
    ),
)


def encode_tsv(rows: Iterable[dict[str, str]], columns: Iterable[str] = COLUMNS) -> bytes:
    file = io.StringIO(newline='')
    writer = csv.DictWriter(
        file, list(columns), delimiter='\t', lineterminator='\n', extrasaction='ignore'
    )
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def write_table(folder: Path, content: bytes, split: str = 'train') -> str:
    path = folder / f'wit_v1.{split}.all-00000-of-00001.tsv.gz'
    path.write_bytes(gzip.compress(content, 1))
    return str(folder / 'wit_v1.*')


def write_folder(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        path = folder / 'images' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder / 'images')


def write_tar(folder: Path, files: dict[str, bytes]) -> str:
    image_files.write_tar(folder / '00000.tar', files.items())
    return str(folder / '*.tar')


def write_pixels(folder: Path, images: dict[str, bytes]) -> str:
    lines = (f'{u}\t{base64.b64encode(p).decode()}\t{u}\n' for u, p in images.items())
    path = folder / 'image_pixels' / 'train_image_pixels_part-00000.csv.gz'
    path.parent.mkdir()
    path.write_bytes(gzip.compress(''.join(lines).encode(), 1))
    return str(path.parent / '*.csv.gz')


def make_img2dataset_files(images: dict[str, bytes]) -> dict[str, bytes]:
    """The files of one shard of img2dataset, with one image that could not be downloaded."""
    files: dict[str, bytes] = {}
    for number, (url, image) in enumerate(images.items()):
        files[f'{number:09}.jpg'] = image
        files[f'{number:09}.json'] = json.dumps({'url': url, 'key': f'{number:09}'}).encode()
        files[f'{number:09}.txt'] = b'a text'
    return files | {'999999999.json': b'{"url": null}'}


def end_of_url(url: str) -> str:
    return url.rsplit('/', 1)[-1]


def make_hash_naming(name: str) -> Callable[[str], str]:
    return lambda url: hashlib.new(name, url.encode()).hexdigest() + '.jpg'


NAMINGS: dict[str, tuple[str, Callable[[str], str]]] = {
    'encoded': ('basename', end_of_url),
    'decoded': ('basename', lambda url: unquote(end_of_url(url))),
    'below': ('basename', lambda url: 'a/b/' + end_of_url(url)),
    'md5': ('md5', make_hash_naming('md5')),
    'sha1': ('sha1', make_hash_naming('sha1')),
    'sha256': ('sha256', make_hash_naming('sha256')),
}


def write_images(folder: Path, way: str, naming: str, images: dict[str, bytes]) -> dict[str, Any]:
    """Writes images in a layout and returns the flags `images` and `images_key`.

    Args:
      folder: Where to write.
      way: 'folder', 'tar' or 'pixels'.
      naming: A key of NAMINGS, or 'json' for img2dataset.
      images: Content by URL.
    """
    write = write_tar if way == 'tar' else write_folder
    if way == 'pixels':
        return {'images': (write_pixels(folder, images),)}
    if naming == 'json':
        return {'images': (write(folder, make_img2dataset_files(images)),), 'images_key': 'json'}
    key, name_of = NAMINGS[naming]
    files = {name_of(url): image for url, image in images.items()}
    return {'images': (write(folder, files),), 'images_key': key}


LAYOUTS = [(way, name) for way in ('folder', 'tar') for name in (*NAMINGS, 'json')] + [
    ('pixels', 'url')
]
