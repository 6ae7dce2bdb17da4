"""How a text is written: its direction, and the font of its script."""

import unicodedata
from collections import Counter

# Script as the names of its characters begin -> the Noto font that has it (fonts.google.com/noto).
FONTS = {
    'ARABIC': 'Noto Sans Arabic', 'HEBREW': 'Noto Sans Hebrew', 'SYRIAC': 'Noto Sans Syriac',
    'THAANA': 'Noto Sans Thaana', 'NKO': 'Noto Sans NKo', 'ADLAM': 'Noto Sans Adlam',
    'DEVANAGARI': 'Noto Sans Devanagari', 'BENGALI': 'Noto Sans Bengali',
    'GURMUKHI': 'Noto Sans Gurmukhi', 'GUJARATI': 'Noto Sans Gujarati',
    'ORIYA': 'Noto Sans Oriya', 'TAMIL': 'Noto Sans Tamil', 'TELUGU': 'Noto Sans Telugu',
    'KANNADA': 'Noto Sans Kannada', 'MALAYALAM': 'Noto Sans Malayalam',
    'SINHALA': 'Noto Sans Sinhala', 'THAI': 'Noto Sans Thai', 'LAO': 'Noto Sans Lao',
    'KHMER': 'Noto Sans Khmer', 'MYANMAR': 'Noto Sans Myanmar', 'TIBETAN': 'Noto Serif Tibetan',
    'GEORGIAN': 'Noto Sans Georgian', 'ARMENIAN': 'Noto Sans Armenian',
    'ETHIOPIC': 'Noto Sans Ethiopic', 'CHEROKEE': 'Noto Sans Cherokee',
    'TIFINAGH': 'Noto Sans Tifinagh', 'OL': 'Noto Sans Ol Chiki',
    'MEETEI': 'Noto Sans Meetei Mayek', 'MONGOLIAN': 'Noto Sans Mongolian',
    'CANADIAN': 'Noto Sans Canadian Aboriginal', 'HANGUL': 'Noto Sans KR',
    'HIRAGANA': 'Noto Sans JP', 'KATAKANA': 'Noto Sans JP', 'CJK': 'Noto Sans SC',
}  # fmt: skip
HAN = {'ja': 'Noto Sans JP', 'ko': 'Noto Sans KR', 'yue': 'Noto Sans HK'}  # others: SC or TC
REST = 'system-ui, "Noto Sans", sans-serif'


def direction(text: str) -> str:
    """'rtl' where most letters run to the left, else 'ltr'."""
    kinds = Counter(unicodedata.bidirectional(letter) for letter in text)
    return 'rtl' if kinds['R'] + kinds['AL'] > kinds['L'] else 'ltr'


def fonts(text: str, language: str) -> str:
    """A CSS list of fonts for the script of most letters: Noto's first, then the system's."""
    scripts = Counter(
        unicodedata.name(letter, '').split(' ')[0].split('-')[0]
        for letter in text if letter.isalpha()
    )  # fmt: skip
    script = scripts.most_common(1)[0][0] if scripts else ''
    font = FONTS.get(script, 'Noto Sans')
    if script == 'CJK':
        traditional = 'hant' in language.lower() or language in ('zh_TW', 'zh_HK')
        font = HAN.get(language.split('_')[0], 'Noto Sans TC' if traditional else font)
    return f'"{font}", {REST}'


def tag(language: str) -> str:
    """A language code as BCP 47 writes it, for the attribute `lang`: zh_Hant -> zh-Hant."""
    return language.replace('_', '-')
