"""Images with captions from tar shards of whole samples (WebDataset)."""

import dataclasses
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mural_jax.data.sources import archives, columns, tables
from mural_jax.data.sources.columns import TextColumn
from mural_jax.data.sources.reader import Example, Reader
from mural_jax.data.sources.tables import Row
from mural_jax.types import UserError

File = tuple[str, bytes]  # (ending, content)
IMAGE_ENDINGS = tuple(suffix[1:] for suffix in archives.IMAGE_SUFFIXES)
# (stem, ending) of a member's name: the file's name is divided at its first dot.
STEM = re.compile(r'((?:.*/)?[^./]+)\.([^/]+)', re.DOTALL)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WebDataset(Reader):
    """Samples of tar shards: consecutive files with a common stem, as img2dataset writes them.

    The stem is the path up to the first dot of the file's name. The rest tells what the file is:
    .jpg, .jpeg, .png, .webp, .gif or .bmp the image, .txt a caption, .json an object with more
    fields (github.com/webdataset/webdataset; github.com/rom1504/img2dataset, whose objects have
    caption, url, key, status and others).

    shards: Tar files, or patterns of them.
    language: Language of the texts.
    language_key: Key of the .json that holds the language, instead of --language.
    text_keys: KEY[:KIND[:LANGUAGE]] for each key of the .json with texts. Without the flag the
        .txt is the text, of kind "caption".
    split: Split of all samples.
    id_key: Key of the .json that holds the id; without the flag shard and stem are the id.
    """

    shards: tuple[str, ...]
    language: str = ''
    language_key: str = ''
    text_keys: tuple[str, ...] = ()
    split: str = 'train'
    id_key: str = ''

    def splits(self) -> Mapping[str, Sequence[str]]:
        parts = [file for shard in self.shards for file in tables.find_files(shard, 'tar shard')]
        if not parts:
            raise UserError('Give --shards, the tar files or a pattern of them.')
        return {self.split: parts}

    def read_examples(self, split: str, part: str) -> Iterator[Example]:
        texts = self._text_columns()
        shard = Path(part).name
        for stem, files in _read_samples(part):
            yield self._make_example(f'{shard}/{stem}', files, texts)

    def _text_columns(self) -> list[TextColumn]:
        words = self.text_keys or ('txt',)
        language = f'@{self.language_key}' if self.language_key else self.language
        return columns.parse_text_columns(words, [], 'caption', language)

    def _make_example(self, name: str, files: list[File], texts: Sequence[TextColumn]) -> Example:
        content = dict(files)
        image = next((content[ending] for ending in content if ending in IMAGE_ENDINGS), b'')
        fields, bad = _parse_object(content.get('json', b'{}'))
        if not self.text_keys:
            # The .txt is read like a field of the .json.
            fields['txt'] = (
                content['txt'].decode(errors='surrogateescape') if 'txt' in content else None
            )
        bad = bad or ('' if image else 'no image in the sample')
        # Of two files of one kind the dict kept only the last.
        bad = bad or ('' if len(content) == len(files) else 'two files of one kind in the sample')
        given_id = fields.get(self.id_key) if self.id_key else None
        return Example(
            id=name if given_id is None else str(given_id),
            texts=[] if bad else [text for column in texts for text in column.read_texts(fields)],
            image=image,
            where=name,
            bad=bad,
        )


def _read_samples(shard: str) -> Iterator[tuple[str, list[File]]]:
    """Yields (stem, files) of the samples of a shard, without files that have no ending."""
    matches = ((STEM.fullmatch(name), content) for name, content in archives.read_members(shard))
    files = ((match[1], (match[2].lower(), content)) for match, content in matches if match)
    # Only neighbours are grouped: WebDataset requires the files of a sample to follow each other.
    for stem, group in itertools.groupby(files, lambda file: file[0]):
        yield stem, [file for _, file in group]


def _parse_object(content: bytes) -> tuple[Row, str]:
    """(object, what is wrong with it) of a JSON file; one of the two is empty."""
    try:
        value = json.loads(content.decode(errors='surrogateescape'))
    except (ValueError, RecursionError):
        return {}, 'its .json is broken'
    return (value, '') if isinstance(value, dict) else ({}, 'its .json is not an object')
