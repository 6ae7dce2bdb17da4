"""Settings of the filters: which texts and images of a data set a stream may draw.

This module needs no TensorFlow, so configs can be checked where TensorFlow is not installed.
"""

import dataclasses

from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Filters:
    """What the filters drop; 0 or empty turns a filter off, unless its field says otherwise.

    Filters run in the order of the fields, and each drop counts for the first filter that makes
    it. In brackets: ALIGN's values (Jia et al. 2021, arXiv:2102.05918, section 3).

    languages: Only texts in these languages stay.
    min_side: Smallest shorter side of an image, in pixels (201: "larger than 200").
    max_aspect: Largest ratio of the longer to the shorter side of an image (3.0).
    max_texts_per_image: Images with more texts are dropped (1000).
    image_distance: An image is dropped if its hash of 64 bits differs in at most this many bits
        from the hash of an earlier image; 0 drops equal hashes only, -1 turns the filter off. Up
        to 4 bits are a near duplicate (ours).
    min_words: Smallest number of words in a text (3). In scripts without spaces each character
        counts as a word.
    max_words: Largest number of words in a text (20).
    max_images_per_text: Texts that more records share are dropped (10).
    max_rare_share: Largest share of rare words among the words of a text (0); 1 turns the filter
        off.
    rare_below: A word is rare if it occurs fewer times than this in the split (ALIGN: if it is not
        among the 100 million most frequent).
    max_length_ratio: Largest ratio of lengths in bytes, of the two texts of a record to each other;
        with more than two texts, of each text to their median.
    text_distance: A text is dropped if an earlier text of its language is equal once both are
        normalised (0), or if their SimHashes of 64 bits differ in at most this many bits (1 and
        more); -1 turns the filter off.
    exclude: `DATASET:SPLIT` of test sets. Images near to one of theirs are dropped, and texts that
        are equal to one of theirs once normalised.
    exclude_distance: Images are near to a test image if their hashes differ in at most this many
        bits.
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
        # Unrelated hashes differ in 32 bits on average, and by chance in far fewer in large data.
        if max(self.image_distance, self.text_distance, self.exclude_distance) > 16:
            raise UserError(
                'The distances of filters must be at most 16 bits: hashes of 64 bits that differ '
                'in more bits do not belong to near images or texts.'
            )

    @property
    def active(self) -> bool:
        """Whether any filter is on."""
        return self != Filters()
