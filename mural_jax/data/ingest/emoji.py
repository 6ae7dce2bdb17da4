"""Emoji images with their names and keywords in over a hundred languages, as a TFDS builder.

These are real images with real captions that every Debian system can install: the images are
drawn with Noto Color Emoji, names and keywords come from Unicode CLDR, groups from Unicode's list.

A stable hash assigns concepts to splits, so the gender and person variants of one emoji are in
the same split. About 15% of the concepts are in the test split and 3% in the validation split.
"""

import collections
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds

from mural_jax.data.sets import checks, schema
from mural_jax.data.sets.checks import RecordLimits
from mural_jax.data.sources import cldr
from mural_jax.data.sources.cldr import DEFAULT_SOURCES
from mural_jax.data.sources.painter import Painter
from mural_jax.data.sources.reader import Example, Text
from mural_jax.types import UserError

IMAGE_SIZE = 64  # Pixels.
TEST_SHARE, VALIDATION_SHARE = 0.15, 0.03
SPLITS = ('train', 'validation', 'test')


# Locale -> emoji without variation selectors -> (name, keywords).
Names = dict[str, dict[str, tuple[str, list[str]]]]


def assign_split(concept: str) -> str:
    """The split of a concept, the same on every machine."""
    digest = hashlib.sha256(concept.encode()).digest()
    # A uniform number in [0, 1).
    share = int.from_bytes(digest[:8], 'big') / 2**64
    if share < TEST_SHARE:
        return 'test'
    return 'validation' if share < TEST_SHARE + VALIDATION_SHARE else 'train'


class EmojiCldr(tfds.core.GeneratorBasedBuilder):
    """Builds `emoji_cldr/pictures`, images with texts, and `emoji_cldr/translations`, texts alone.

    A row of translations holds the name and the keywords of one emoji in every locale that has
    them, or the name of one territory, language or script. The name of a territory is in the same
    split as its flag, so that no test flag is named in training.
    """

    VERSION = tfds.core.Version('2.0.0')
    BUILDER_CONFIGS = [
        tfds.core.BuilderConfig(name='pictures', description='Images with names and keywords.'),
        tfds.core.BuilderConfig(name='translations', description='Rows of names, without images.'),
    ]

    def __init__(self, *, sources: dict[str, str] | None = None, **kwargs: Any):
        """Reads the default sources or other ones.

        Args:
          sources: Paths that replace those in DEFAULT_SOURCES, by name.
          **kwargs: Arguments of the TFDS builder.

        Raises:
          UserError: A name in `sources` is unknown.
        """
        unknown = set(sources or {}) - set(DEFAULT_SOURCES)
        if unknown:
            raise UserError(
                f'emoji_cldr has no source {sorted(unknown)}; it reads {sorted(DEFAULT_SOURCES)}.'
            )
        paths = DEFAULT_SOURCES | (sources or {})
        self._paths = {name: Path(path).expanduser() for name, path in paths.items()}
        super().__init__(file_format='array_record', **kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        has_image = self.builder_config.name == 'pictures'
        locales = cldr.list_locales(self._paths['cldr'])
        features = schema.make_features(locales, ['keyword', 'name'], has_image=has_image)
        features['concept'] = tfds.features.Text()
        if has_image:
            features |= {'group': tfds.features.Text(), 'subgroup': tfds.features.Text()}
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(features),
            homepage='https://cldr.unicode.org/',
            license='Images: OFL-1.1. Names, keywords, classes: Unicode-3.0.',
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager
        is_images = self.builder_config.name == 'pictures'
        rows = list(self._make_images() if is_images else self._make_translations())
        return {split: [(row['id'], row) for s, row in rows if s == split] for split in SPLITS}

    def _generate_examples(self, rows: list) -> Iterator:
        yield from rows

    def _read_sources(self) -> tuple[list[cldr.Emoji], Names]:
        table = cldr.read_emoji_table(self._paths['unicode'])
        names = {
            locale: cldr.read_annotations(self._paths['cldr'], locale)
            for locale in cldr.list_locales(self._paths['cldr'])
        }
        chars = {emoji.char.replace(cldr.VARIATION_SELECTOR, '') for emoji in table}
        empty = sorted(locale for locale, own in names.items() if not chars & set(own))
        if empty:
            print(f'emoji_cldr: {len(empty)} locales without emoji left out: {", ".join(empty)}')
        return table, {locale: own for locale, own in names.items() if locale not in empty}

    def _make_images(self) -> Iterator[tuple[str, dict[str, Any]]]:
        painter = Painter(self._paths['font'], IMAGE_SIZE)
        table, names = self._read_sources()
        skipped: collections.Counter[str] = collections.Counter()
        for emoji in table:
            # CLDR writes emoji without variation selectors.
            key = emoji.char.replace(cldr.VARIATION_SELECTOR, '')
            texts = _collect_texts(names, key)
            png = painter.draw_png(emoji.char)
            if not texts or png is None:
                skipped['without a name' if png else 'without a glyph in the font'] += 1
                continue
            row = _make_row(emoji.id, emoji.concept, texts, png)
            yield (
                assign_split(emoji.concept),
                row | {'group': emoji.group, 'subgroup': emoji.subgroup},
            )
        for reason, count in skipped.items():
            print(f'emoji_cldr: {count} of {len(table)} emoji {reason} left out')

    def _make_translations(self) -> Iterator[tuple[str, dict[str, Any]]]:
        table, names = self._read_sources()
        split_by_territory = {}
        for emoji in table:
            key = emoji.char.replace(cldr.VARIATION_SELECTOR, '')
            split = assign_split(emoji.concept)
            if emoji.group == 'Flags':
                split_by_territory[_flag_territory(emoji.char)] = split
            texts = _collect_texts(names, key)
            if len({language for language, _, _ in texts}) > 1:
                yield split, _make_row(emoji.id, emoji.concept, texts)
        rows: dict[tuple[str, str], list[Text]] = collections.defaultdict(list)
        for locale in names:
            for kind, code, name in cldr.read_display_names(self._paths['cldr'], locale):
                rows[kind, code].append((locale, 'name', name))
        # Languages and scripts have no image, so all of their rows may be in training.
        for (kind, code), texts in rows.items():
            split = split_by_territory.get(code, 'train') if kind == 'territory' else 'train'
            if len(texts) > 1:
                yield split, _make_row(f'{kind}-{code}', f'{kind}: {code}', texts)


def _make_row(row_id: str, concept: str, texts: list[Text], png: bytes = b'') -> dict[str, Any]:
    example = Example(id=row_id, texts=texts, image=png, where=row_id)
    return checks.make_record(example, RecordLimits(), has_image=bool(png)) | {'concept': concept}


def _collect_texts(names: Names, char: str) -> list[Text]:
    """The name and the keywords of an emoji in every locale that names it."""
    texts = []
    for locale, own in names.items():
        if char in own:
            name, keywords = own[char]
            texts.append((locale, 'name', name))
            texts += [(locale, 'keyword', word) for word in keywords]
    return texts


def _flag_territory(flag: str) -> str:
    """The two letters of a territory's flag, or '' for another flag."""
    # Such a flag is two regional indicators, one for each letter.
    letters = [chr(ord(c) - 0x1F1E6 + ord('A')) for c in flag if 0x1F1E6 <= ord(c) <= 0x1F1FF]
    return ''.join(letters)
