"""Filters: each drops what its setting says and no more, and leaks of a test set are found."""

import shutil
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from data.datasets import (
    LetterTokenizer,
    draw_image,
    encode_image,
    ingest_captions,
    ingest_translations,
    read_letters,
)
from PIL import Image, ImageEnhance

from mural_jax.data.reading.selection import ensure_filters
from mural_jax.data.reading.stream import open_stream
from mural_jax.data.sets import schema
from mural_jax.data.sets.filters import Filters, select_texts
from mural_jax.data.sets.records import Records, open_split
from mural_jax.data.streams.base import StreamSource
from mural_jax.data.streams.captions import Captions
from mural_jax.types import UserError

# The names say what is special about each image.
IMAGES = {
    'plain.png': encode_image(draw_image(1)),
    'small.png': encode_image(draw_image(2, (40, 30))),
    'long.png': encode_image(draw_image(3, (300, 60))),
    'same.png': encode_image(draw_image(1)),
    'recoded.jpg': encode_image(draw_image(1).resize((50, 40)), 'JPEG', quality=9),
    'many.png': encode_image(draw_image(4)),
    'bad.png': b'none',
}
ROWS = [
    ('plain.png', 'en', 'a brown dog runs'),
    ('plain.png', 'de', 'ein brauner Hund rennt'),
    ('small.png', 'en', 'dog'),
    ('small.png', 'th', 'หมา'),
    ('long.png', 'en', 'a brown dog runs'),
    ('long.png', 'en', 'a ' + 'brown ' * 30),
    ('same.png', 'en', 'A  BROWN dog runs'),
    ('recoded.jpg', 'en', 'xyzzy plugh'),
    *[('many.png', 'en', f'a brown dog runs {"again " * n}') for n in range(5)],
    ('bad.png', 'en', 'broken'),
]


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp('filtered')
    ingest_captions(folder, 'small', IMAGES, ROWS)
    pair = {'en': 'a short text of ten', 'de': 'ein kurzer Text', 'fr': 'un texte court de dix'}
    rows = [
        {'en': 'dog', 'de': 'ein Hund, der lange bellt'},
        {'en': 'dog', 'de': 'Hund'},
        {'en': 'x' * 10, 'de': 'y' * 20},
        {'en': 'x' * 10, 'de': 'y' * 21},
        pair,
        pair | {'it': 'un ' + 'testo ' * 30},
        {'en': 'alone'},
    ]
    ingest_translations(folder, 'rows', rows)
    return folder


def apply_filters(
    data_dir: Path, filters: Filters, name: str = 'captions/small'
) -> tuple[set, dict]:
    """({(id, language, text)} of the texts that stay, number of dropped texts or images)."""
    records = Records(name, 'train', data_dir)
    keep_T, counts, _ = select_texts(records, filters, lambda test: open_split(test, data_dir))
    totals = {key: counts.pop(key) for key in ('texts', 'texts kept', 'records', 'records kept')}
    assert totals['texts'] == len(keep_T)
    assert totals['texts kept'] == keep_T.sum()
    counts.pop('bad records')
    texts = list_texts(records)
    stay = {texts[row] for row in np.flatnonzero(keep_T)}
    assert totals['records kept'] == len({row[0] for row in stay})
    return stay, counts


def list_texts(records: Records) -> list[tuple[str, str, str]]:
    """(id, language, text) of all texts in the order of the index."""
    parsed = schema.parse_examples(records.read(np.arange(len(records))), 'id', 'text')
    index, texts, ids = records.index, parsed['text'].to_list(), parsed['id'].numpy()
    return [
        (ids[record].decode(), records.languages[language], texts[record][number].decode())
        for record, number, language in zip(index.record_T, index.number_T, index.language_T)
    ]


GOOD = {(name, language, ' '.join(text.split())) for name, language, text in ROWS[:-1]}


def select_by_image(*names: str) -> set:
    return {row for row in GOOD if row[0].split('.')[0] in names}


def select_by_text(*wanted: str) -> set:
    return {row for row in GOOD if row[2] in wanted}


BROWN, LONG = 'a brown dog runs', ('a ' + 'brown ' * 30).strip()


@pytest.mark.parametrize(
    ('filters', 'dropped', 'counts'),
    [
        ({}, set(), {}),
        ({'languages': ('en',)}, {r for r in GOOD if r[1] != 'en'}, {'languages: texts': 2}),
        ({'min_side': 31}, select_by_image('small'), {'min_side: pictures': 1}),
        ({'min_side': 30}, set(), {'min_side: pictures': 0}),
        ({'max_aspect': 4.9}, select_by_image('long'), {'max_aspect: pictures': 1}),
        ({'max_aspect': 5.0}, set(), {'max_aspect: pictures': 0}),
        ({'max_texts_per_image': 4}, select_by_image('many'), {'max_texts_per_image: pictures': 1}),
        # Copies are tested below: TFDS shuffles, so any of them may be the first one.
        ({'min_words': 3}, select_by_text('dog', 'xyzzy plugh'), {'min_words: texts': 2}),
        ({'max_words': 8}, select_by_text(LONG), {'max_words: texts': 1}),
        (
            {'max_words': 3},
            GOOD - select_by_text('dog', 'xyzzy plugh', 'หมา'),
            {'max_words: texts': 10},
        ),
        # Four images share a text, which they write in different ways.
        ({'max_images_per_text': 4}, set(), {'max_images_per_text: texts': 0}),
        (
            {'max_images_per_text': 3},
            select_by_text(BROWN, 'A BROWN dog runs'),
            {'max_images_per_text: texts': 4},
        ),
        (
            {'max_rare_share': 0.99, 'languages': ('en',)},
            {r for r in GOOD if r[1] != 'en'} | select_by_text('xyzzy plugh'),
            {'languages: texts': 2, 'max_rare_share: texts': 1},
        ),
        # "runs" occurs eight times, and is at most a fourth of each text with it.
        (
            {'max_rare_share': 0.2, 'rare_below': 9, 'languages': ('en', 'th')},
            select_by_text(
                'ein brauner Hund rennt', 'xyzzy plugh', 'หมา', BROWN, 'A BROWN dog runs'
            ),
            {'languages: texts': 1, 'max_rare_share: texts': 6},
        ),
    ],
)
def test_each_filter_drops_what_it_says(
    data_dir: Path, filters: dict, dropped: set, counts: dict
) -> None:
    stay, dropped_counts = apply_filters(data_dir, Filters(**filters))
    assert GOOD - stay == dropped
    assert dropped_counts == counts


def test_length_ratio_compares_two_texts_or_a_text_and_the_median(data_dir: Path) -> None:
    stay, counts = apply_filters(data_dir, Filters(max_length_ratio=2.0), 'translations/rows')
    dropped = set(list_texts(Records('translations/rows', 'train', data_dir))) - stay
    # Both texts of a pair go; of several texts only the one far from the median.
    expected = {'dog', 'ein Hund, der lange bellt', 'x' * 10, 'y' * 21}
    assert {text for _, _, text in dropped if not text.startswith('un testo')} == expected
    assert counts == {'max_length_ratio: texts': 5}
    assert ('y' * 20) in {text for _, _, text in stay}
    assert 'alone' in {text for _, _, text in stay}


@pytest.mark.parametrize(('distance', 'same'), [(0, {'plain', 'same'}), (4, None)])
def test_one_of_several_near_images_stays(data_dir: Path, distance: int, same: set | None) -> None:
    stay, counts = apply_filters(data_dir, Filters(image_distance=distance))
    same = same or {'plain', 'same', 'recoded'}
    left = {row[0].split('.')[0] for row in stay}
    assert len(left & same) == 1
    assert left | same == {'plain', 'same', 'recoded', 'small', 'long', 'many'}
    assert counts == {'image_distance: pictures': len(same) - 1}


def test_one_of_several_equal_texts_stays(data_dir: Path) -> None:
    stay, counts = apply_filters(data_dir, Filters(text_distance=0))
    assert counts == {'text_distance: texts': 3}
    assert Counter(row[2].lower() for row in stay)[BROWN] == 1
    assert len(stay) == len(GOOD) - 3
    fewer, _ = apply_filters(data_dir, Filters(text_distance=12))
    assert len(fewer) < len(stay)


def test_filters_do_not_count_what_earlier_ones_dropped(data_dir: Path) -> None:
    filters = Filters(min_side=31, min_words=3, max_images_per_text=3, max_aspect=4)
    _, counts = apply_filters(data_dir, filters)
    assert counts == {
        'min_side: pictures': 1,
        'max_aspect: pictures': 1,
        'min_words: texts': 1,
        'max_images_per_text: texts': 0,
    }


def test_everything_may_be_dropped(data_dir: Path) -> None:
    stay, _ = apply_filters(
        data_dir,
        Filters(
            min_side=10_000,
            image_distance=4,
            max_rare_share=0.5,
            max_length_ratio=2,
            text_distance=3,
            exclude=('captions/small:train',),
        ),
    )
    assert not stay


def test_filters_of_images_keep_rows_of_texts(data_dir: Path) -> None:
    filters = Filters(min_side=200, max_aspect=3, image_distance=4)
    stay, counts = apply_filters(data_dir, filters, 'translations/rows')
    assert len(stay) == 14 + 3 - 1
    assert not any(counts.values())


TEST = {f'test{n}.png': encode_image(draw_image(100 + n, (128, 96))) for n in range(12)}
# Unicode has two forms of accented letters.
TEST_TEXTS = [f'Un garçon numéro {n} joue à la plage' for n in range(12)]


def make_leaks() -> dict[str, bytes]:
    """Test images as they come back in crawled data."""
    leaks = {}
    for n in range(12):
        image = draw_image(100 + n, (128, 96))
        changes = [
            image.resize((64, 48), Image.Resampling.LANCZOS),
            image.resize((300, 225)),
            ImageEnhance.Brightness(image).enhance(1.06),
            image,
        ]
        leaks[f'leak{n}.jpg'] = encode_image(changes[n % 4], 'JPEG', quality=55)
    return leaks


TEST_SET = 'captions/test:train'


@pytest.fixture(scope='module')
def crawled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Captions]:
    """(folder of data sets, stream) with images and texts that leaked from a test set."""
    folder = tmp_path_factory.mktemp('crawled')
    ingest_captions(folder, 'test', TEST, zip(TEST, ['fr'] * 12, TEST_TEXTS))
    innocent = {f'own{n}.png': encode_image(draw_image(500 + n, (128, 96))) for n in range(150)}
    leaks = make_leaks()
    rows = [(name, 'fr', f'Une image {n} à elle') for n, name in enumerate(innocent)]
    rows += [(name, 'fr', f'trouvée {n}') for n, name in enumerate(leaks)]
    forms = [
        str.upper,
        lambda t: t.replace(' ', '  '),
        lambda t: unicodedata.normalize('NFD', t),
        lambda t: f' {t}\n',
    ]
    stolen = [forms[n % 4](text) for n, text in enumerate(TEST_TEXTS)]
    rows += [(f'own{n}.png', 'fr', text) for n, text in enumerate(stolen)]
    ingest_captions(folder, 'crawled', innocent | leaks, rows)
    source = StreamSource('captions/crawled', filters=Filters(exclude=(TEST_SET,)))
    stream = Captions({'crawled': source}, ('fr',), 10, image_size=16)
    with pytest.raises(UserError, match='mural prepare'):
        open_stream(stream, folder, LetterTokenizer(), 1)
    ensure_filters(stream, folder)
    return folder, stream


def test_all_leaks_of_a_test_set_are_found(crawled: tuple[Path, Captions]) -> None:
    folder, stream = crawled
    selection = ensure_filters(stream, folder)['crawled']
    counts, leaks = selection['counts'], selection['leaks']
    assert counts[f'exclude {TEST_SET}: pictures'] == len(TEST)
    assert counts[f'exclude {TEST_SET}: texts'] == len(TEST_TEXTS)
    assert {leak['what'] for leak in leaks} == {'picture', 'text'}
    assert len({leak['in test'] for leak in leaks if leak['what'] == 'picture'}) == 12


def test_stream_draws_everything_but_leaks(crawled: tuple[Path, Captions]) -> None:
    folder, stream = crawled
    assert ensure_filters(stream, folder)['crawled']['counts']['texts kept'] == 150
    # In one epoch every innocent image comes once, with its own text.
    batches = open_stream(stream, folder, LetterTokenizer(), 1).batches(0, 15)
    drawn = Counter(text for batch in batches for text in read_letters(batch['text']))
    assert drawn == Counter(f'Une image {n} à elle' for n in range(150))


def test_rebuilt_data_set_is_filtered_again(tmp_path: Path) -> None:
    # Only the words of the new data set differ, not the form of its index.
    spec = Captions({'s': StreamSource('captions/s', filters=Filters(min_words=2))}, ('en',), 1)
    one = {'a.png': encode_image(draw_image(1))}
    ingest_captions(tmp_path, 's', one, [('a.png', 'en', 'a dog')])
    assert ensure_filters(spec, tmp_path)['s']['counts']['texts kept'] == 1
    shutil.rmtree(tmp_path / 'captions' / 's')
    ingest_captions(tmp_path, 's', one, [('a.png', 'en', 'dog')])
    assert ensure_filters(spec, tmp_path)['s']['counts']['texts kept'] == 0
