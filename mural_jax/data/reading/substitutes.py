"""Replaces words of a caption by plausible others: a text that is nearly right, a hard negative."""

import collections
from collections.abc import Iterable, Sequence

import numpy as np

SHARE = 0.3  # share of a text's words that are replaced (VLDeformer, arXiv:2110.11338)
EDGE = ''  # stands for the word before the first one and after the last one


class Substitutes:
    """Replaces words of a text by others that occur in the same context in other texts.

    The context of a word is the word before and the word after it. Where too few words of a text
    have alternatives in their context, the word before alone is the context, and at last any word
    is an alternative. VLDeformer's code asks WordNet, which is English; taking alternatives from
    the texts themselves works in any language (ours). A text without spaces is replaced character
    by character.
    """

    def __init__(self, texts: Iterable[str]):
        between: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
        behind: dict[str, set[str]] = collections.defaultdict(set)
        for text in texts:
            words, _ = _split_text(text)
            for before, word, after in zip([EDGE, *words], words, [*words[1:], EDGE]):
                between[before, after].add(word)
                behind[before].add(word)
        # Sorted: the word that a seed draws must not depend on the order of a set.
        self._between = {context: sorted(words) for context, words in between.items()}
        self._behind = {before: sorted(words) for before, words in behind.items()}
        self._all = sorted(set().union(*self._behind.values())) if behind else []

    def replace(self, text: str, seed: int) -> str:
        """The text with SHARE of its words replaced, at least one; the same for the same seed.

        Fewer words, down to none, are replaced where there are no other words.
        """
        words, separator = _split_text(text)
        rng = np.random.default_rng(seed)
        left = max(1, round(SHARE * len(words)))
        open_places = rng.permutation(len(words)).tolist()
        # From the narrowest context to none; a place is used once.
        for find_seen in (self._seen_between, self._seen_behind, self._seen_anywhere):
            for place in list(open_places):
                others = [word for word in find_seen(words, place) if word != words[place]]
                if left and others:
                    words[place] = others[rng.integers(len(others))]
                    open_places.remove(place)
                    left -= 1
        return separator.join(words)

    def replace_batch(self, text_B: np.ndarray, random_B: np.ndarray) -> np.ndarray:
        """The texts with words replaced, an object array [B] of bytes, as `text_B` is.

        `random_B` in [0, 1) seeds the replacement of each text.
        """
        seed_B = (random_B.astype(np.float64) * 2**32).astype(np.int64)
        swapped = [
            self.replace(text.decode(errors='replace'), int(seed)).encode()
            for text, seed in zip(text_B, seed_B)
        ]
        return np.array(swapped, object)

    def _seen_between(self, words: list[str], place: int) -> list[str]:
        before = words[place - 1] if place else EDGE
        after = words[place + 1] if place + 1 < len(words) else EDGE
        return self._between.get((before, after), [])

    def _seen_behind(self, words: list[str], place: int) -> list[str]:
        return self._behind.get(words[place - 1] if place else EDGE, [])

    def _seen_anywhere(self, words: list[str], place: int) -> list[str]:
        return self._all


def _split_text(text: str) -> tuple[list[str], str]:
    """(words, the separator that joins them)."""
    words: Sequence[str] = text.split()
    # Languages such as Chinese put no spaces between words.
    if len(words) == 1 and not text.isascii() and len(text) > 1:
        return list(words[0]), ''
    return list(words), ' '
