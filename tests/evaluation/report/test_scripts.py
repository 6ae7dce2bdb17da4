"""Direction and font of texts."""

import pytest

from mural_jax.evaluation.report.scripts import font_list, text_direction


@pytest.mark.parametrize(
    ('text', 'language', 'direction', 'font'),
    [
        ('cat', 'en', 'ltr', 'Noto Sans'),
        ('قطة WiFi سوداء', 'ar', 'rtl', 'Noto Sans Arabic'),
        ('חתול', 'heb_Hebr', 'rtl', 'Noto Sans Hebrew'),
        ('बिल्ली', 'hi', 'ltr', 'Noto Sans Devanagari'),
        ('猫', 'ja', 'ltr', 'Noto Sans JP'),
        ('猫', 'zh_Hant', 'ltr', 'Noto Sans TC'),
        ('猫', 'zh', 'ltr', 'Noto Sans SC'),
        ('ネコ', 'ja', 'ltr', 'Noto Sans JP'),
        ('42 !', 'en', 'ltr', 'Noto Sans'),
    ],
)
def test_direction_and_font_follow_script(
    text: str, language: str, direction: str, font: str
) -> None:
    assert text_direction(text) == direction
    assert font_list(text, language).startswith(f'"{font}", ')
