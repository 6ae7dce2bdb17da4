"""Captions that are nearly right, made from the texts themselves."""

import numpy as np

from mural_jax.data.reading.substitutes import Substitutes

TEXTS = [
    'cat left of dog',
    'cat above dog',
    'dog left of car',
    'car right of cat',
    '赤い車',
    '青い車',
]


def test_words_are_replaced_by_others_seen_in_the_same_context() -> None:
    substitutes = Substitutes(TEXTS)
    swapped = {substitutes.replace('cat left of dog', seed) for seed in range(200)}
    assert 'cat left of dog' not in swapped
    for text in swapped:
        words = text.split()
        assert sum(a != b for a, b in zip(words, ['cat', 'left', 'of', 'dog'], strict=True)) == 1
        # Nothing else was seen between "left" and a name, so "of" stays.
        assert words[1] in ('left', 'right') and words[2] == 'of'
        assert words[0] in ('cat', 'dog', 'car') and words[3] in ('cat', 'dog', 'car')
    assert 'dog left of dog' in swapped


def test_text_without_spaces_is_replaced_by_characters() -> None:
    substitutes = Substitutes(TEXTS)
    assert {substitutes.replace('赤い車', seed) for seed in range(50)} == {'青い車'}


def test_text_stays_where_there_is_no_other_word() -> None:
    substitutes = Substitutes(['cat'])
    assert substitutes.replace('cat', 0) == 'cat' and substitutes.replace('', 0) == ''
    assert substitutes.replace('dog', 0) == 'cat'


def test_replacements_do_not_depend_on_the_order_of_texts() -> None:
    substitutes, again = Substitutes(TEXTS), Substitutes(TEXTS[::-1])
    text_B, random_B = np.array([t.encode() for t in TEXTS], object), np.linspace(0, 0.99, 6)
    swapped = substitutes.replace_batch(text_B, random_B)
    np.testing.assert_array_equal(swapped, again.replace_batch(text_B, random_B))
    assert all(a != b for a, b in zip(swapped, text_B))
