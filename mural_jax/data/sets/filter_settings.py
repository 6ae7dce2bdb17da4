"""Which texts and images of a data set a stream may draw, as the config says it.

Needs no TensorFlow: a config is checked where TensorFlow is not installed.
"""

import dataclasses

from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Filters:
    """What is left out; 0, or what is empty, leaves nothing out.

    The order is that of the fields, and each drop counts for the first one that makes it. ALIGN's
    values (Jia et al. 2021, arXiv:2102.05918, section 3) stand in brackets.

    languages: only texts in these.
    min_side: the shorter side of a picture is at least so many pixels (201: "larger than 200").
    max_aspect: the longer side by the shorter is at most this (3.0).
    max_texts_per_image: pictures with more texts are dropped (1000).
    image_distance: pictures whose hash differs in at most so many bits from an earlier one's are
    dropped; 0 takes equal hashes only, -1 keeps all. Of 64 bits, 4 is a near duplicate (ours).
    min_words, max_words: of a text (3, 20); a character is a word where no spaces are written.
    max_images_per_text: texts that more records share are dropped (10).
    max_rare_share: the largest share of a text's words that are rare, 1 for all (0); rare is a
    word seen fewer than `rare_below` times in the split (ALIGN: outside the 100 M most frequent).
    max_length_ratio: of the two texts of a pair, in bytes; in rows of more languages, of a text
    and the row's median.
    text_distance: texts equal to an earlier one of their language once normalised are dropped
    (0), or those whose SimHash of 64 bits differs in at most so many; -1 keeps all.
    exclude: `DATASET:SPLIT` of test sets: pictures within `exclude_distance` bits of one of
    theirs, and texts equal to one of theirs once normalised, are dropped.
    """

    languages: tuple[str, ...] = ()
    min_side: int = 0
    max_aspect: float = 0.0
    max_texts_per_image: int = 0
    image_distance: int = -1
    min_words: int = 0
    max_words: int = 0
    max_images_per_text: int = 0
    max_rare_share: float = 1.0
    rare_below: int = 2
    max_length_ratio: float = 0.0
    text_distance: int = -1
    exclude: tuple[str, ...] = ()
    exclude_distance: int = 4

    def __post_init__(self) -> None:
        if not 0 <= self.max_rare_share <= 1:
            raise UserError(f'filters.max_rare_share={self.max_rare_share} must be in [0, 1].')
        if max(self.image_distance, self.text_distance, self.exclude_distance) > 16:
            raise UserError('filters: distances of more than 16 of 64 bits mean nothing any more.')

    @property
    def active(self) -> bool:
        """Whether anything may be left out."""
        return self != Filters()
