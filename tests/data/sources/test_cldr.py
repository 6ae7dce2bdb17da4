"""Reading of Unicode's files, from small ones in the same format."""

from pathlib import Path

import pytest

from mural_jax.data.ingest.emoji import assign_split
from mural_jax.data.sources import cldr
from mural_jax.types import UserError

EMOJI_TEST = """# group: People & Body
# subgroup: person
1F468                                      ; fully-qualified     # x E0.6 man
1F469                                      ; fully-qualified     # x E0.6 woman
1F468 1F3FB                                ; fully-qualified     # x E1.0 man: light skin tone
1F468 200D 1F692                           ; fully-qualified     # x E4.0 man firefighter
1F9D1 200D 1F692                           ; fully-qualified     # x E12.1 firefighter
# group: Objects
# subgroup: other
260E FE0F                                  ; fully-qualified     # x E0.6 telephone
260E                                       ; unqualified         # x E0.6 telephone
"""
ANNOTATIONS = """<ldml><annotations>
<annotation cp="☎">phone | telephone | ringer</annotation>
<annotation cp="☎" type="tts">telephone</annotation>
<annotation cp="👨">↑↑↑</annotation><annotation cp="👨" type="tts">↑↑↑</annotation>
</annotations></ldml>"""


@pytest.fixture
def unicode_dir(tmp_path: Path) -> Path:
    (tmp_path / 'emoji').mkdir()
    (tmp_path / 'emoji' / 'emoji-test.txt').write_text(EMOJI_TEST, encoding='utf-8')
    folder = tmp_path / 'common' / 'annotations'
    folder.mkdir(parents=True)
    (folder / 'xx.xml').write_text(ANNOTATIONS, encoding='utf-8')
    (folder / 'xx_YY.xml').write_text(ANNOTATIONS, encoding='utf-8')
    return tmp_path


def test_table_has_base_emoji_only(unicode_dir: Path) -> None:
    table = cldr.read_emoji_table(unicode_dir)
    assert [emoji.id for emoji in table] == [
        '1f468',
        '1f469',
        '1f468-200d-1f692',
        '1f9d1-200d-1f692',
        '260e',
    ]
    assert table[-1].group == 'Objects'


def test_person_variants_share_a_concept(unicode_dir: Path) -> None:
    concepts = {emoji.name: emoji.concept for emoji in cldr.read_emoji_table(unicode_dir)}
    assert concepts['man'] == concepts['woman']
    assert concepts['man firefighter'] == concepts['firefighter']
    assert concepts['man'] != concepts['firefighter']


def test_inherited_texts_are_left_out(unicode_dir: Path) -> None:
    assert cldr.read_annotations(unicode_dir, 'xx') == {'☎': ('telephone', ['phone', 'ringer'])}


def test_regional_locales_are_left_out(unicode_dir: Path) -> None:
    assert cldr.list_locales(unicode_dir) == ['xx']


def test_error_names_package_of_missing_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match='unicode-data'):
        cldr.read_emoji_table(tmp_path / 'nowhere')
    with pytest.raises(UserError, match='unicode-cldr-core'):
        cldr.list_locales(tmp_path / 'nowhere')


def test_broken_xml_raises_user_error(unicode_dir: Path) -> None:
    broken = unicode_dir / 'common' / 'annotations' / 'xx.xml'
    broken.write_text('<ldml>', encoding='utf-8')
    with pytest.raises(UserError, match='not readable XML'):
        cldr.read_annotations(unicode_dir, 'xx')


def test_concepts_are_split_by_share() -> None:
    splits = [assign_split(f'concept {i}') for i in range(10_000)]
    assert abs(splits.count('test') / 10_000 - 0.15) < 0.01
    assert abs(splits.count('validation') / 10_000 - 0.03) < 0.01


def test_splits_of_concepts_are_fixed() -> None:
    # Another hash would move concepts from the test split to training.
    assert [assign_split(c) for c in ('dog', 'cat', 'telephone', 'person')] == [
        'train',
        'train',
        'train',
        'train',
    ]
