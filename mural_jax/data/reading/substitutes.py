"""Plausible other words: a caption that is nearly right, as a hard negative."""

import collections
from collections.abc import Iterable, Sequence

import numpy as np

SHARE = 0.3  # of the words of a text that are replaced (VLDeformer, arXiv:2110.11338)
EDGE = ''  # what stands before the first word and after the last


class Substitutes:
    """Replaces words of a text by others that were seen in the same place.

    The place of a word is the word before and the word after it; where too few words of a text
    were seen to have others there, the one before it alone; at last any word takes its place.
    VLDeformer's code asks WordNet, which is English; this asks the texts themselves, in any
    language, a choice of ours. A text without spaces is taken character by character.
    """

    def __init__(self, texts: Iterable[str]):
        between: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
        behind: dict[str, set[str]] = collections.defaultdict(set)
        for text in texts:
            words, _ = _words(text)
            for before, word, after in zip([EDGE, *words], words, [*words[1:], EDGE]):
                between[before, after].add(word)
                behind[before].add(word)
        # Sorted: which word is drawn must not depend on the order of a set.
        self._between = {place: sorted(words) for place, words in between.items()}
        self._behind = {before: sorted(words) for before, words in behind.items()}
        self._all = sorted(set().union(*self._behind.values())) if behind else []

    def __call__(self, text: str, seed: int) -> str:
        """The text with SHARE of its words replaced, at least one; the same for the same seed.

        The text itself where there is no other word.
        """
        words, joint = _words(text)
        rng = np.random.default_rng(seed)
        left = max(1, round(SHARE * len(words)))
        open_places = rng.permutation(len(words)).tolist()
        for known in (self._seen_between, self._seen_behind, self._seen):
            for place in list(open_places):
                others = [word for word in known(words, place) if word != words[place]]
                if left and others:
                    words[place] = others[rng.integers(len(others))]
                    open_places.remove(place)
                    left -= 1
        return joint.join(words)

    def _seen_between(self, words: list[str], place: int) -> list[str]:
        before = words[place - 1] if place else EDGE
        after = words[place + 1] if place + 1 < len(words) else EDGE
        return self._between.get((before, after), [])

    def _seen_behind(self, words: list[str], place: int) -> list[str]:
        return self._behind.get(words[place - 1] if place else EDGE, [])

    def _seen(self, words: list[str], place: int) -> list[str]:
        return self._all

    def replace_batch(self, text_B: np.ndarray, random_B: np.ndarray) -> np.ndarray:
        """Encoded texts -> encoded texts, object arrays [B]; `random_B` in [0, 1)."""
        seed_B = (random_B.astype(np.float64) * 2**32).astype(np.int64)
        swapped = [
            self(text.decode(errors='replace'), int(seed)).encode()
            for text, seed in zip(text_B, seed_B)
        ]
        return np.array(swapped, object)


def _words(text: str) -> tuple[list[str], str]:
    """(words, what joins them)."""
    words: Sequence[str] = text.split()
    if len(words) == 1 and not text.isascii() and len(text) > 1:
        return list(words[0]), ''
    return list(words), ' '
