"""How a text is written: its direction, and the font of its script."""

import unicodedata
from collections import Counter

# The first word of a script's character names -> the Noto font with that script
# (fonts.google.com/noto).
FONTS = {
    'ADLAM': 'Noto Sans Adlam',
    'ARABIC': 'Noto Sans Arabic',
    'ARMENIAN': 'Noto Sans Armenian',
    'BENGALI': 'Noto Sans Bengali',
    'CANADIAN': 'Noto Sans Canadian Aboriginal',
    'CHEROKEE': 'Noto Sans Cherokee',
    'CJK': 'Noto Sans SC',
    'DEVANAGARI': 'Noto Sans Devanagari',
    'ETHIOPIC': 'Noto Sans Ethiopic',
    'GEORGIAN': 'Noto Sans Georgian',
    'GUJARATI': 'Noto Sans Gujarati',
    'GURMUKHI': 'Noto Sans Gurmukhi',
    'HANGUL': 'Noto Sans KR',
    'HEBREW': 'Noto Sans Hebrew',
    'HIRAGANA': 'Noto Sans JP',
    'KANNADA': 'Noto Sans Kannada',
    'KATAKANA': 'Noto Sans JP',
    'KHMER': 'Noto Sans Khmer',
    'LAO': 'Noto Sans Lao',
    'MALAYALAM': 'Noto Sans Malayalam',
    'MEETEI': 'Noto Sans Meetei Mayek',
    'MONGOLIAN': 'Noto Sans Mongolian',
    'MYANMAR': 'Noto Sans Myanmar',
    'NKO': 'Noto Sans NKo',
    'OL': 'Noto Sans Ol Chiki',
    'ORIYA': 'Noto Sans Oriya',
    'SINHALA': 'Noto Sans Sinhala',
    'SYRIAC': 'Noto Sans Syriac',
    'TAMIL': 'Noto Sans Tamil',
    'TELUGU': 'Noto Sans Telugu',
    'THAANA': 'Noto Sans Thaana',
    'THAI': 'Noto Sans Thai',
    'TIBETAN': 'Noto Serif Tibetan',
    'TIFINAGH': 'Noto Sans Tifinagh',
}
# Languages that write Chinese characters in their own way; others have the SC or the TC font.
HAN = {'ja': 'Noto Sans JP', 'ko': 'Noto Sans KR', 'yue': 'Noto Sans HK'}
FALLBACK = 'system-ui, "Noto Sans", sans-serif'


def text_direction(text: str) -> str:
    """Returns 'rtl' if most letters run from right to left, else 'ltr'."""
    kinds = Counter(unicodedata.bidirectional(letter) for letter in text)
    return 'rtl' if kinds['R'] + kinds['AL'] > kinds['L'] else 'ltr'


def font_list(text: str, language: str) -> str:
    """Returns a CSS list of fonts for the script of most letters: Noto's, then the system's."""
    scripts = Counter(
        unicodedata.name(letter, '').split(' ')[0].split('-')[0]
        for letter in text
        if letter.isalpha()
    )
    script = scripts.most_common(1)[0][0] if scripts else ''
    font = FONTS.get(script, 'Noto Sans')
    if script == 'CJK':
        # The same code points look different in Chinese, Japanese and Korean.
        is_traditional = 'hant' in language.lower() or language in ('zh_TW', 'zh_HK')
        font = HAN.get(language.split('_')[0], 'Noto Sans TC' if is_traditional else font)
    return f'"{font}", {FALLBACK}'


def language_tag(language: str) -> str:
    """Returns a language code in BCP 47, for the attribute `lang`: zh_Hant -> zh-Hant."""
    return language.replace('_', '-')
