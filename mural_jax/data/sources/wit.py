"""WIT: pictures of Wikipedia with what its pages say about them (Srinivasan et al. 2021).

arXiv:2103.01913. Tables: github.com/google-research-datasets/wit, DATA.md; pixels of the Wikipedia
image-caption competition: kaggle.com/c/wikipedia-image-caption.
"""

import base64
import binascii
import csv
import dataclasses
import hashlib
import itertools
import json
import re
import unicodedata
import zlib
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

from mural_jax.data.sources import archives, tables
from mural_jax.data.sources.reader import Example, JoinedReader, Text, merge_rows
from mural_jax.types import UserError

# Columns with texts, and the kind of each.
KINDS = {
    'caption_reference_description': 'reference',
    'caption_attribution_description': 'attribution',
    'caption_alt_text_description': 'alt_text',
    'page_title': 'page_title',
    'section_title': 'section_title',
    'context_page_description': 'page_description',
    'context_section_description': 'section_text',
}
COLUMNS = (
    'language',
    'page_url',
    'image_url',
    'page_title',
    'section_title',
    'hierarchical_section_title',
    'caption_reference_description',
    'caption_attribution_description',
    'caption_alt_text_description',
    'mime_type',
    'original_height',
    'original_width',
    'is_main_image',
    'attribution_passes_lang_id',
    'page_changed_recently',
    'context_page_description',
    'context_section_description',
)
HASHES = ('md5', 'sha1', 'sha256')
IMAGE_KEYS = ('basename', *HASHES, 'json')
SPLIT = re.compile(r'(?:^|[._-])(train|val|test)(?=[._-]|$)')
PIXELS = ('.csv', '.tsv')
PACKED = ('.tar', '.csv.gz')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wit(JoinedReader):
    """Pictures of Wikipedia with their texts in 108 languages (WIT, arXiv:2103.01913).

    Tables are wit_v1.{train,val,test}.all-*.tsv.gz with 17 named columns, quoted as in CSV; rows of
    one image_url become one example. Kinds of texts: reference (the caption under the picture,
    the text MURAL trains on: kinds=dict(reference=1.0)), attribution, alt_text, page_title,
    section_title, page_description, section_text.

    table: the table or a pattern of tables, e.g. 'wit/wit_v1.*.tsv.gz'.
    images: where the pictures are, paths or patterns of folders, of tar archives, or of the
        competition's image_pixels/*.csv.gz (image_url, base64, metadata_url, no header).
    images_key: what names a picture in a folder or archive: 'basename' (the end of its URL, percent
        codes decoded or not), 'md5', 'sha1' or 'sha256' (of the URL, before the file's suffix), or
        'json' (img2dataset: `url` in the .json beside it). Pixel files need none: they have URLs.
    split: the split of tables whose names say neither train, val nor test.
    all_attributions: keep attributions that are not in the language of their page, too.
    """

    table: str
    images: tuple[str, ...]
    images_key: str = 'basename'
    split: str = ''
    all_attributions: bool = False

    # MURAL's choice: the description beside the picture (arXiv:2109.05125).
    default_kinds: ClassVar[tuple[str, ...]] = ('reference',)

    def __post_init__(self) -> None:
        if self.images_key not in IMAGE_KEYS:
            raise UserError(
                f'--images_key {self.images_key} is unknown; known are {", ".join(IMAGE_KEYS)}.'
            )

    def splits(self) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for path in tables.find_files(self.table, 'WIT table'):
            found.setdefault(self._split_of(path), []).append(path)
        return found

    def _split_of(self, path: str) -> str:
        name = SPLIT.search(Path(path).name)
        if not name and not self.split:
            raise UserError(f'{path} says neither train, val nor test. Give --split.')
        return name[1] if name else self.split

    def vocabulary(self) -> tuple[list[str], list[str]]:
        return sorted(self.languages or self._languages()), sorted(KINDS.values())

    def _languages(self) -> set[str]:
        """The languages of all tables; nothing else of a row is looked at."""
        parts = itertools.chain(*self.splits().values())
        found = {
            row['language'] for part in parts for _, row in _read_rows(part) if 'language' in row
        }
        if not found - {''}:
            raise UserError(f'There is not one row in {self.table}. Are the files whole?')
        return found - {''}

    def read_rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        key = self._key_of_url()
        for number, row in _read_rows(part):
            where = f'{part}:{number}'
            bad = row.get('bad', '')
            if not bad and self.languages and row['language'] not in self.languages:
                continue
            if not bad and not row['image_url']:
                bad = 'no image_url'
            if bad:
                yield where, Example(where, [], where=where, bad=bad)
            else:
                yield (
                    key(row['image_url']),
                    Example(row['image_url'], self._texts(row), where=where),
                )

    def _texts(self, row: Mapping[str, str]) -> list[Text]:
        own = self.all_attributions or _is_true(row['attribution_passes_lang_id'])
        return [
            (row['language'], kind, row[column])
            for column, kind in KINDS.items()
            if row[column] and (own or kind != 'attribution')
        ]

    def merge(self, rows: Sequence[Example]) -> Example:
        """As of any reader; bad where files of the same name, of two wikis, cannot be told."""
        example = merge_rows(rows)
        if len({normalise_url(row.id) for row in rows}) > 1:
            return dataclasses.replace(example, bad='pictures of several URLs have one file name')
        return example

    def image_parts(self) -> Sequence[str]:
        parts = archives.find_parts(self.images)
        if not parts:
            raise UserError('WIT tables have no pictures in them. Give --images.')
        for part in parts:
            packed = _find_packed_file(part)
            if packed:
                raise UserError(
                    f'{part} holds files with pictures in them, such as {packed.name}. '
                    f'Give a pattern of these files: --images "{part}/*{packed.suffix}".'
                )
        return parts

    def _key_of_url(self) -> Callable[[str], str]:
        """What joins a row, by its URL, to a picture; one and the same for all parts."""
        if self.images_key == 'json' or all(map(_is_pixel_file, self.image_parts())):
            return normalise_url
        if self.images_key == 'basename':
            return _basename
        return self._hash

    def _hash(self, url: str) -> str:
        content = url.encode('utf-8', 'surrogateescape')
        return hashlib.new(self.images_key, content, usedforsecurity=False).hexdigest()

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        if _is_pixel_file(part):
            yield from _read_pixel_file(part, _WantedKeys(self._key_of_url(), wanted))
        elif self.images_key == 'json':
            keys = _WantedKeys(normalise_url, wanted)
            for url, picture in _pair_images_with_urls(archives.read_files(part, None)):
                if url in keys:
                    yield keys.of(url), picture
        else:
            keys = _WantedKeys(_basename if self.images_key == 'basename' else _stem, wanted)
            for name, picture in archives.read_files(part, keys):
                yield keys.of(name), picture


@dataclasses.dataclass(frozen=True)
class _WantedKeys(Container[str]):
    """The names, or URLs, whose key is wanted; all of them for None."""

    of: Callable[[str], str]
    wanted: Container[str] | None

    def __contains__(self, name: object) -> bool:
        return self.wanted is None or self.of(str(name)) in self.wanted


def normalise_url(url: str) -> str:
    """A URL as it is compared: no scheme, no percent codes, letters composed."""
    rest = url.strip().split('://', 1)[-1]
    # Once is not enough: a file name may be the encoded or the decoded end of a URL.
    while (decoded := unquote(rest, errors='surrogateescape')) != rest:
        rest = decoded
    return unicodedata.normalize('NFC', rest)


def _basename(url: str) -> str:
    return normalise_url(url.rsplit('/', 1)[-1])


def _stem(name: str) -> str:
    return name.rsplit('/', 1)[-1].split('.', 1)[0].lower()


def _find_packed_file(part: str) -> Path | None:
    """An archive in a folder of pictures, by the first names: a folder may hold millions."""
    names = itertools.islice(Path(part).iterdir() if Path(part).is_dir() else [], 100)
    return next((name for name in names if name.name.endswith(PACKED)), None)


def _is_pixel_file(part: str) -> bool:
    return tables.suffix(part) in PIXELS and not Path(part).is_dir()


def _is_true(word: str) -> bool:
    return word.strip().lower() in ('true', '1')


def _read_rows(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """(number, columns) of the rows of a table; only 'bad', the reason, of a broken one."""
    records = _read_records(path)
    names = next(records, [])
    missing = [name for name in COLUMNS if name not in names]
    if missing:
        raise UserError(f'{path} has no column {missing}; WIT has 17 columns: {list(COLUMNS)}.')
    for number, values in enumerate(records, 1):
        if len(values) == len(names):
            yield number, dict(zip(names, values))
        else:
            yield number, {'bad': f'row with {len(values)} fields'}


def _read_records(path: str) -> Iterator[list[str]]:
    """The fields of each record, the names first; none for a record that cannot be parsed.

    Fields are quoted as in CSV and may hold line breaks (google-research-datasets/wit, issue 3).
    """
    csv.field_size_limit(tables.MAX_FIELD)
    with tables.open_text(path, newline='') as file:
        reader = csv.reader(tables.read_lines(file, path), delimiter='\t')
        while True:
            try:
                yield next(reader)
            except StopIteration:
                return
            except csv.Error:  # It goes on with the next line.
                yield []
            except (OSError, EOFError, zlib.error) as error:
                raise UserError(f'Cannot read {path} ({error}). Is the file whole?') from error


def _read_pixel_file(path: str, keys: _WantedKeys) -> Iterator[tuple[str, bytes]]:
    """(key, picture) of a file of the competition: image_url, base64, metadata_url.

    What is no base64 is given as it is: it is found to be no picture later.
    """
    with tables.open_text(path, newline='\n') as file:
        try:
            for line in tables.read_lines(file, path):
                url, _, rest = line.partition('\t')
                if url and rest and url in keys:
                    yield keys.of(url), _decode_base64(rest.partition('\t')[0].strip())
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f'Cannot read {path} ({error}). Is the file whole?') from error


def _decode_base64(text: str) -> bytes:
    content = text.encode('utf-8', 'surrogateescape')
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        return content


def _pair_images_with_urls(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """(url, picture) of the files of img2dataset; those of one picture stand side by side."""
    for _, group in itertools.groupby(files, lambda file: file[0].rpartition('.')[0]):
        url, picture = '', b''
        for name, content in group:
            if name.endswith('.json'):
                url = _parse_url(content)
            elif name.lower().endswith(archives.IMAGE_SUFFIXES):
                picture = content
        if url and picture:
            yield url, picture


def _parse_url(content: bytes) -> str:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return ''
    url = found.get('url') if isinstance(found, dict) else None
    return url if isinstance(url, str) else ''
