"""How many places of an example are hidden, and how many random numbers that takes.

Needs no TensorFlow: the shapes of a stream's fields follow from these numbers.
"""


def max_hidden(share: float, length: int) -> int:
    """Largest number of hidden places among `length`, at least 1, where `share` of them is hidden.

    Real examples may be shorter than `length`; then fewer places are hidden.
    """
    return max(1, round(share * length))


def count_word_randoms(length: int, share: float) -> int:
    """Random numbers that `masking.hide_words` uses for one text of `length` tokens."""
    # One for the order in which words are hidden; two for how a hidden word is replaced.
    return length + 2 * max_hidden(share, length)


def count_region_randoms(length: int, share: float) -> int:
    """Random numbers that `masking.hide_regions` uses for one image of `length` regions."""
    # One for the order in which regions are hidden; one for whether a hidden one is shown.
    return length + max_hidden(share, length)
