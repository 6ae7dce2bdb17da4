"""Reads Unicode's own files: emoji, their names in every locale, and display names.

The layouts are those of UTS #51 (`emoji-test.txt`) and UTS #35 (CLDR's XML), as Debian's
packages `unicode-data` and `unicode-cldr-core` install them.
"""

import dataclasses
import functools
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

from mural_jax.types import UserError

# CLDR writes this where a locale has no text of its own (UTS #35, part 1).
INHERITED = '↑↑↑'
VARIATION_SELECTOR = '\ufe0f'
SKIN_TONES = frozenset(map(chr, range(0x1F3FB, 0x1F400)))
KINDS = ('territory', 'language', 'script')

# Words in which the gender and person variants of one concept differ.
_PERSON = re.compile(r'\b(man|woman|men|women|person|people|and)\b')
_SAME_CONCEPT = {
    'boy': 'child',
    'girl': 'child',
    'prince': 'royal',
    'princess': 'royal',
    'with crown': 'royal',
    'santa claus': 'claus',
    'mrs. claus': 'claus',
    'mx claus': 'claus',
    'older': 'old',
    'breast-feeding': 'feeding baby',
    'mermaid': 'merperson',
    'merman': 'merperson',
    'in tuxedo': 'wedding',
    'with veil': 'wedding',
}


@dataclasses.dataclass(frozen=True)
class Emoji:
    """One fully qualified emoji; its gender and person variants have the same `concept`."""

    char: str
    name: str
    group: str
    subgroup: str

    @property
    def id(self) -> str:
        """The code points in hexadecimal, joined by '-', without variation selectors."""
        return '-'.join(f'{ord(c):x}' for c in self.char if c != VARIATION_SELECTOR)

    @property
    def concept(self) -> str:
        """The name without what tells gender, person and hair variants apart."""
        name = self.name.lower()
        if self.group == 'People & Body':
            name = ' '.join(_PERSON.sub('', name.split(':')[0]).split()) or 'person'
        return _SAME_CONCEPT.get(name, name)


def read_emoji_table(unicode_dir: Path) -> list[Emoji]:
    """The base emoji (fully qualified, without skin tone) in CLDR order.

    Raises:
      UserError: `emoji/emoji-test.txt` is missing below `unicode_dir`, or lists no emoji.
    """
    path = unicode_dir / 'emoji' / 'emoji-test.txt'
    group = subgroup = ''
    table = []
    for line in _read_lines(path, package='unicode-data'):
        if line.startswith('# group: '):
            group = line.removeprefix('# group: ')
        elif line.startswith('# subgroup: '):
            subgroup = line.removeprefix('# subgroup: ')
        elif '; fully-qualified' in line:
            points, comment = line.split(';')[0], line.split('#', 1)[1]
            char = ''.join(chr(int(point, 16)) for point in points.split())
            if not SKIN_TONES.intersection(char):
                name = comment.split(maxsplit=2)[2]
                table.append(Emoji(char, name, group, subgroup))
    if not table:
        raise UserError(
            f'{path} lists no emoji. Give another copy of it with --source unicode=DIR.'
        )
    return table


def list_locales(cldr_dir: Path) -> list[str]:
    """The locales that annotate emoji, without regional ones (`pt`, `sr_Latn`, not `pt_PT`).

    Raises:
      UserError: There is no folder of annotations.
    """
    folder = cldr_dir / 'common' / 'annotations'
    if not folder.is_dir():
        raise UserError(
            f'There are no CLDR annotations in {folder}, which name the emoji. Install the '
            'Debian package unicode-cldr-core, or give its folder with --source cldr=DIR.'
        )
    # Regional locales hold only what differs from their language.
    names = sorted(path.stem for path in folder.glob('*.xml'))
    return [name for name in names if re.fullmatch(r'[a-z]{2,3}(_[A-Z][a-z]{3})?', name)]


@functools.cache
def read_annotations(cldr_dir: Path, locale: str) -> dict[str, tuple[str, list[str]]]:
    """Emoji -> (name, keywords) in a locale, without the emoji that it does not name itself."""
    names: dict[str, str] = {}
    keywords: dict[str, list[str]] = {}
    # Derived annotations name sequences, such as flags and families.
    for folder in ('annotations', 'annotationsDerived'):
        path = cldr_dir / 'common' / folder / f'{locale}.xml'
        if not path.exists():
            continue
        for node in _parse_xml(path).iter('annotation'):
            text = (node.text or '').strip()
            if not text or text == INHERITED:
                continue
            char = node.attrib['cp'].replace(VARIATION_SELECTOR, '')
            # 'tts' is the name to speak; other annotations list keywords between bars.
            if node.get('type') == 'tts':
                names[char] = text
            else:
                keywords[char] = [word.strip() for word in text.split('|') if word.strip()]
    return {
        char: (name, [word for word in keywords.get(char, []) if word != name])
        for char, name in names.items()
    }


def read_display_names(cldr_dir: Path, locale: str) -> Iterator[tuple[str, str, str]]:
    """Yields (kind, code, name) of the territories, languages and scripts that a locale names."""
    path = cldr_dir / 'common' / 'main' / f'{locale}.xml'
    if not path.exists():
        return
    root = _parse_xml(path)
    for kind in KINDS:
        for node in root.iterfind(f'.//localeDisplayNames//{kind}[@type]'):
            text = (node.text or '').strip()
            code = node.attrib['type']
            # A name that is only the code, or an alternative such as a short form, is no name.
            if text and text not in (INHERITED, code) and node.get('alt') is None:
                yield kind, code, text


def _read_lines(path: Path, package: str) -> list[str]:
    try:
        return path.read_text(encoding='utf-8').splitlines()
    except OSError as error:
        raise UserError(
            f'Cannot read {path} ({error.strerror}), which lists the emoji and their classes. '
            f'Install the Debian package {package}, or give its folder with --source unicode=DIR.'
        ) from error


def _parse_xml(path: Path) -> ElementTree.Element:
    try:
        return ElementTree.parse(path).getroot()
    except ElementTree.ParseError as error:
        raise UserError(
            f'{path} is not readable XML ({error}). Install unicode-cldr-core again, '
            'or give another copy with --source cldr=DIR.'
        ) from error


DEFAULT_SOURCES = {
    'font': '/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf',
    'cldr': '/usr/share/unicode/cldr',
    'unicode': '/usr/share/unicode',
}
