"""Files of WIT as published, and pictures in each of the layouts they come in, made small."""

import base64
import csv
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from mural_jax.data.sources.wit import COLUMNS

COMMONS = 'https://upload.wikimedia.org/wikipedia/commons'
URLS = (f'{COMMONS}/1/1a/S%C3%A3o_Paulo.jpg', f'{COMMONS}/2/2b/Dog_(100%25).png')
PICTURES = dict(zip(URLS, (b'picture of a town', b'picture of a dog')))


def row(url: str, language: str, **columns: str) -> dict[str, str]:
    """A row of a table as published: nothing is null in it but a text is empty."""
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
    row(URLS[0], 'pt', caption_reference_description='A "cidade"\nvista\tde longe', page_title='S'),
    row(URLS[1], 'en', caption_alt_text_description='a dog', context_page_description='Dogs bark'),
    row(
        URLS[0],
        'de',
        caption_attribution_description='Deutsch: Die Stadt',
        attribution_passes_lang_id='true',
        section_title='Lage',
        context_section_description='Am',
    ),
    row(URLS[0], 'en', caption_attribution_description='Deutsch: Die Stadt', page_title='Town'),
)


def tsv(rows: Iterable[dict[str, str]], columns: Iterable[str] = COLUMNS) -> bytes:
    file = io.StringIO(newline='')
    writer = csv.DictWriter(
        file, list(columns), delimiter='\t', lineterminator='\n', extrasaction='ignore'
    )
    writer.writeheader()
    writer.writerows(rows)
    return file.getvalue().encode()


def table(folder: Path, content: bytes, split: str = 'train') -> str:
    path = folder / f'wit_v1.{split}.all-00000-of-00001.tsv.gz'
    path.write_bytes(gzip.compress(content, 1))
    return str(folder / 'wit_v1.*')


def write_folder(folder: Path, files: dict[str, bytes]) -> str:
    for name, content in files.items():
        path = folder / 'pictures' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return str(folder / 'pictures')


def write_tar(folder: Path, files: dict[str, bytes]) -> str:
    with tarfile.open(folder / '00000.tar', 'w') as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return str(folder / '*.tar')


def write_pixels(folder: Path, pictures: dict[str, bytes]) -> str:
    lines = (f'{u}\t{base64.b64encode(p).decode()}\t{u}\n' for u, p in pictures.items())
    path = folder / 'image_pixels' / 'train_image_pixels_part-00000.csv.gz'
    path.parent.mkdir()
    path.write_bytes(gzip.compress(''.join(lines).encode(), 1))
    return str(path.parent / '*.csv.gz')


def img2dataset(pictures: dict[str, bytes]) -> dict[str, bytes]:
    """The files of one shard of img2dataset; a third of its pictures could not be had."""
    files: dict[str, bytes] = {}
    for number, (url, picture) in enumerate(pictures.items()):
        files[f'{number:09}.jpg'] = picture
        files[f'{number:09}.json'] = json.dumps({'url': url, 'key': f'{number:09}'}).encode()
        files[f'{number:09}.txt'] = b'a text'
    return files | {'999999999.json': b'{"url": null}'}


def base(url: str) -> str:
    return url.rsplit('/', 1)[-1]


def hashed(name: str) -> Callable[[str], str]:
    return lambda url: hashlib.new(name, url.encode()).hexdigest() + '.jpg'


NAMES: dict[str, tuple[str, Callable[[str], str]]] = {
    'encoded': ('basename', base),
    'decoded': ('basename', lambda url: unquote(base(url))),
    'below': ('basename', lambda url: 'a/b/' + base(url)),
    'md5': ('md5', hashed('md5')),
    'sha1': ('sha1', hashed('sha1')),
    'sha256': ('sha256', hashed('sha256')),
}


def layout(folder: Path, way: str, name: str, pictures: dict[str, bytes]) -> dict[str, Any]:
    """`images` and `images_key` of pictures written in one of the ways they come."""
    write = write_tar if way == 'tar' else write_folder
    if way == 'pixels':
        return {'images': (write_pixels(folder, pictures),)}
    if name == 'json':
        return {'images': (write(folder, img2dataset(pictures)),), 'images_key': 'json'}
    key, name_of = NAMES[name]
    files = {name_of(url): picture for url, picture in pictures.items()}
    return {'images': (write(folder, files),), 'images_key': key}


WAYS = [(way, name) for way in ('folder', 'tar') for name in (*NAMES, 'json')] + [('pixels', 'url')]
