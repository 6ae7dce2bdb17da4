"""WIT: images of Wikipedia with the texts of its pages about them (Srinivasan et al. 2021).

arXiv:2103.01913. Tables: github.com/google-research-datasets/wit, DATA.md; pixel files of the
Wikipedia image-caption competition: kaggle.com/c/wikipedia-image-caption.
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
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote

from mural_jax.data.sources import archives, tables
from mural_jax.data.sources.reader import Example, JoinedReader, Text, merge_rows
from mural_jax.types import UserError

# Columns with texts, and the kind of their texts.
KINDS = {
    'caption_reference_description': 'reference',
    'caption_attribution_description': 'attribution',
    'caption_alt_text_description': 'alt_text',
    'page_title': 'page_title',
    'section_title': 'section_title',
    'context_page_description': 'page_description',
    'context_section_description': 'section_text',
}
# All 17 columns of a table, in their published order.
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
# The split in the name of a table.
SPLIT = re.compile(r'(?:^|[._-])(train|val|test)(?=[._-]|$)')
PIXELS = ('.csv', '.tsv')
# Suffixes of archives in a folder, which should have been given instead of the folder.
PACKED = ('.tar', '.csv.gz')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wit(JoinedReader):
    """Images of Wikipedia with their texts in 108 languages (WIT, arXiv:2103.01913).

    Tables are wit_v1.{train,val,test}.all-*.tsv.gz with 17 named columns, quoted as in CSV; rows
    with the same image_url become one example. Kinds of texts: reference (the caption under the
    image, the text MURAL trains on: kinds=dict(reference=1.0)), attribution, alt_text, page_title,
    section_title, page_description, section_text.

    table: The table or a pattern of tables, such as 'wit/wit_v1.*.tsv.gz'.
    images: Folders, tar archives or the competition's image_pixels/*.csv.gz with the images, or
        patterns of them. The columns of image_pixels are image_url, base64 and metadata_url.
    images_key: Name of an image in a folder or archive: 'basename' (the end of its URL, with
        percent codes decoded or not), 'md5', 'sha1' or 'sha256' (of the URL, before the suffix),
        or 'json' (img2dataset: `url` in the .json beside the image). It has no effect if all images
        are in pixel files, which hold the URLs.
    split: Split of tables whose names say neither train, val nor test.
    all_attributions: Also keep attributions that are not in the language of their page.
    """

    table: str
    images: tuple[str, ...]
    images_key: str = 'basename'
    split: str = ''
    all_attributions: bool = False

    # MURAL's choice: the description beside the image (arXiv:2109.05125).
    default_kinds: ClassVar[tuple[str, ...]] = ('reference',)

    def __post_init__(self) -> None:
        if self.images_key not in IMAGE_KEYS:
            raise UserError(
                f'--images_key {self.images_key} is unknown; known are {", ".join(IMAGE_KEYS)}.'
            )

    def splits(self) -> Mapping[str, Sequence[str]]:
        tables_by_split: dict[str, list[str]] = {}
        for path in tables.find_files(self.table, 'WIT table'):
            tables_by_split.setdefault(self._split_of(path), []).append(path)
        return tables_by_split

    def _split_of(self, path: str) -> str:
        name = SPLIT.search(Path(path).name)
        if not name and not self.split:
            raise UserError(f'The name of {path} says neither train, val nor test. Give --split.')
        return name[1] if name else self.split

    def vocabulary(self) -> tuple[list[str], list[str]]:
        return sorted(self.languages or self._find_languages()), sorted(KINDS.values())

    def _find_languages(self) -> set[str]:
        """The languages of all tables."""
        parts = itertools.chain(*self.splits().values())
        languages = {
            row['language'] for part in parts for _, row in _read_rows(part) if 'language' in row
        }
        if not languages - {''}:
            raise UserError(f'{self.table} has no rows. Are the files complete?')
        return languages - {''}

    def read_rows(self, split: str, part: str) -> Iterator[tuple[str, Example]]:
        make_key = self._make_key_function()
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
                    make_key(row['image_url']),
                    Example(row['image_url'], self._texts_of(row), where=where),
                )

    def _texts_of(self, row: Mapping[str, str]) -> list[Text]:
        has_attribution = self.all_attributions or _is_true(row['attribution_passes_lang_id'])
        return [
            (row['language'], kind, row[column])
            for column, kind in KINDS.items()
            if row[column] and (has_attribution or kind != 'attribution')
        ]

    def merge(self, rows: Sequence[Example]) -> Example:
        """As in JoinedReader; bad if rows of several URLs have one key: a name in two wikis."""
        example = merge_rows(rows)
        if len({normalise_url(row.id) for row in rows}) > 1:
            return dataclasses.replace(
                example, bad='images of several URLs have the same file name'
            )
        return example

    def image_parts(self) -> Sequence[str]:
        parts = archives.find_parts(self.images)
        if not parts:
            raise UserError('WIT tables hold no images. Give --images.')
        for part in parts:
            packed = _find_packed_file(part)
            if packed:
                raise UserError(
                    f'{part} holds archives of images, such as {packed.name}. '
                    f'Give a pattern of these archives: --images "{part}/*{packed.suffix}".'
                )
        return parts

    def _make_key_function(self) -> Callable[[str], str]:
        """The function from the URL of a row to the key of its image, the same for all parts."""
        # Rows are read without knowing the part of their image, so all parts must share one kind of
        # key. Pixel files alone can be joined by the whole URL, which is exact.
        if self.images_key == 'json' or all(map(_is_pixel_file, self.image_parts())):
            return normalise_url
        if self.images_key == 'basename':
            return _make_basename
        return self._hash_url

    def _hash_url(self, url: str) -> str:
        content = url.encode('utf-8', 'surrogateescape')
        return hashlib.new(self.images_key, content, usedforsecurity=False).hexdigest()

    def read_images(self, part: str, wanted: Container[str] | None) -> Iterator[tuple[str, bytes]]:
        if _is_pixel_file(part):
            yield from _read_pixel_file(part, _WantedKeys(self._make_key_function(), wanted))
        elif self.images_key == 'json':
            keys = _WantedKeys(normalise_url, wanted)
            for url, image in _pair_images_with_urls(archives.read_files(part, None)):
                if url in keys:
                    yield keys.make_key(url), image
        else:
            keys = _WantedKeys(
                _make_basename if self.images_key == 'basename' else _make_stem, wanted
            )
            for name, image in archives.read_files(part, keys):
                yield keys.make_key(name), image


@dataclasses.dataclass(frozen=True)
class _WantedKeys(Container[str]):
    """The names, or URLs, whose key is wanted.

    make_key: From a name to its key.
    wanted: The wanted keys, or None for all of them.
    """

    make_key: Callable[[str], str]
    wanted: Container[str] | None

    def __contains__(self, name: object) -> bool:
        return self.wanted is None or self.make_key(str(name)) in self.wanted


def normalise_url(url: str) -> str:
    """A URL in the form in which URLs are compared: no scheme, no percent codes, Unicode NFC."""
    rest = url.strip().split('://', 1)[-1]
    # Decoding once is not enough: a file name may be the encoded or the decoded end of a URL.
    while (decoded := unquote(rest, errors='surrogateescape')) != rest:
        rest = decoded
    return unicodedata.normalize('NFC', rest)


def _make_basename(url: str) -> str:
    return normalise_url(url.rsplit('/', 1)[-1])


def _make_stem(name: str) -> str:
    return name.rsplit('/', 1)[-1].split('.', 1)[0].lower()


def _find_packed_file(part: str) -> Path | None:
    """The first archive in a folder of images, if any.

    Only 100 names are read, because a folder may hold millions.
    """
    names = itertools.islice(Path(part).iterdir() if Path(part).is_dir() else [], 100)
    return next((name for name in names if name.name.endswith(PACKED)), None)


def _is_pixel_file(part: str) -> bool:
    return tables.suffix(part) in PIXELS and not Path(part).is_dir()


def _is_true(word: str) -> bool:
    return word.strip().lower() in ('true', '1')


def _read_rows(path: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields (number, row by column); a broken row has only 'bad', the reason."""
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
    """Yields the fields of each record, first the names; [] for a record that cannot be parsed.

    Fields are quoted as in CSV and may hold line breaks (google-research-datasets/wit, issue 3).
    """
    csv.field_size_limit(tables.MAX_FIELD)
    with tables.explain_read_errors(path), tables.open_text(path, newline='') as file:
        reader = csv.reader(tables.read_lines(file, path), delimiter='\t')
        while True:
            try:
                yield next(reader)
            except StopIteration:
                return
            except csv.Error:  # The reader continues with the next line.
                yield []


def _read_pixel_file(path: str, keys: _WantedKeys) -> Iterator[tuple[str, bytes]]:
    """Yields (key, image) of a file of the competition: image_url, base64, metadata_url."""
    with tables.explain_read_errors(path), tables.open_text(path, newline='\n') as file:
        for line in tables.read_lines(file, path):
            url, _, rest = line.partition('\t')
            if url and rest and url in keys:
                yield keys.make_key(url), _decode_base64(rest.partition('\t')[0].strip())


def _decode_base64(text: str) -> bytes:
    content = text.encode('utf-8', 'surrogateescape')
    try:
        return base64.b64decode(content, validate=True)
    except binascii.Error:
        # The bytes are no image, and become a bad record with that reason when they are decoded.
        return content


def _pair_images_with_urls(files: Iterable[tuple[str, bytes]]) -> Iterator[tuple[str, bytes]]:
    """Yields (url, image) from img2dataset's files, where those of one image are neighbours."""
    for _, group in itertools.groupby(files, lambda file: file[0].rpartition('.')[0]):
        url, image = '', b''
        for name, content in group:
            if name.endswith('.json'):
                url = _parse_url(content)
            elif name.lower().endswith(archives.IMAGE_SUFFIXES):
                image = content
        if url and image:
            yield url, image


def _parse_url(content: bytes) -> str:
    try:
        fields = json.loads(content)
    except (ValueError, RecursionError):
        return ''
    url = fields.get('url') if isinstance(fields, dict) else None
    return url if isinstance(url, str) else ''
