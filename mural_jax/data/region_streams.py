"""Streams of pairs for one stream: regions of a picture and a text, whole or with parts hidden."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from mural_jax.data import codebook, hidden, regions, schema
from mural_jax.data.codebook import Codebook
from mural_jax.data.region_settings import Regions
from mural_jax.data.streams import Captions, Given, hashed, join_texts
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.types import UserError

if TYPE_CHECKING:
    from mural_jax.data.opened import OpenStream

FIELDS = ('id', 'text', 'image', 'boxes', 'classes', 'features', 'height', 'width')


@dataclasses.dataclass(frozen=True)
class RegionPairs(Captions):
    """What streams of regions share.

    regions: what they are. Where they are boxes the picture is taken whole.
    tags: the kind of text that names what is in the picture, a part of it: field `tags`, int32
    [B, L]; '' for none (VinVL, arXiv:2101.00529).
    candidates: where an example comes with another one, so many are drawn, and the one whose text
    is most like its own is taken; 1 takes any (ours; VLDeformer's code asks for one category).
    """

    regions: Regions = Regions()
    tags: str = ''
    candidates: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.candidates < 1:
            raise UserError(f'candidates={self.candidates} must be at least 1.')
        augment = self.augment
        moved = augment.shift or augment.zoom or augment.rotate or augment.mirror
        if self.regions.by != 'patches' and (self.resize or self.area or moved):
            raise UserError(
                f'regions.by={self.regions.by!r} takes pictures whole, since boxes are places in '
                'them: resize, area and of augment shift, zoom, rotate and mirror must be 0.'
            )
        if self.regions.by == 'patches' and self.image_size % self.regions.side:
            raise UserError(
                f'regions.side={self.regions.side} must divide image_size={self.image_size}.'
            )

    def fields(
        self, serialized: list[tf.Tensor], number_BJ: list[tf.Tensor], random_BU: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        parsed = schema.parse(serialized[0], *FIELDS)
        fields = {
            'regions': self.seen(parsed, random_BU[:, -Captions.num_random :]),
            'class': regions.classes(self.regions, parsed),
            'text': join_texts(parsed['text'], number_BJ[0]),
            'id': hashed(parsed['id']),
        }
        if self.tags:
            fields['tags'] = join_texts(parsed['text'], number_BJ[1 + self.has_partner])
        return fields

    def complete(self, data_dir: Path) -> list[str]:
        made = []
        if self.regions.by != 'patches':
            # Worked out now, so that the processes of a training only read it.
            counts = [found.regions['num_classes'] for found in self.pool(data_dir).records]
            made.append(f'the classes of its regions in the data are below {max(counts)}')
        if self.regions.codebook:
            made.append(f'the codebook of its regions is {codebook.ensure(self, data_dir)}')
        if self.tags or self.candidates > 1:
            self.pool(data_dir)  # Which makes the sketches, and raises where there are no tags.
        if self.candidates > 1:
            made.append('the sketches of its texts are made')
        return made

    def open(
        self, data_dir: Path, tokenizer: Tokenizer, seed: int, codebook: Any = None
    ) -> 'OpenStream':
        """As of every stream. Raises UserError where features are of another size, too."""
        opened = super().open(data_dir, tokenizer, seed, codebook)
        if self.regions.by == 'features':
            for records in opened.pool.records:
                records.check_features(self.regions.size)
        return opened

    def codebook(self, data_dir: Path) -> Codebook | None:
        return codebook.load(self, data_dir) if self.regions.codebook else None

    def seen(self, parsed: dict[str, tf.Tensor], random_BU: tf.Tensor) -> tf.Tensor:
        """The regions of parsed pictures, float32 [B, R, F + G]."""
        side_B2 = tf.stack([parsed['height'], parsed['width']], axis=1)
        image_BHWC = self.pictures(parsed['image'], side_B2, random_BU)
        return regions.regions(self.regions, image_BHWC, parsed)


@dataclasses.dataclass(frozen=True)
class RegionCaptions(RegionPairs):
    """Regions of a picture, float32 [B, R, F + G], and one text of it, [B, L].

    hard_negatives: whether each pair comes with a text and a picture that are nearly right,
    `text_negative` and `regions_negative` (VLDeformer, arXiv:2110.11338): the text with 30% of
    its words replaced by plausible others, and the picture with half of its regions, and of its
    tags, replaced by those of another example, of the next 65,536.
    """

    hard_negatives: bool = False

    @property
    def has_partner(self) -> bool:  # type: ignore[override]
        return self.hard_negatives

    @property
    def num_random(self) -> int:  # type: ignore[override]
        """Numbers in [0, 1) of an example: one for its words, those of regions and picture."""
        return 1 + self.regions.most + Captions.num_random

    def fields(
        self, serialized: list[tf.Tensor], number_BJ: list[tf.Tensor], random_BU: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        fields = super().fields(serialized, number_BJ, random_BU)
        if self.hard_negatives:
            other = schema.parse(serialized[1], *FIELDS)
            if self.tags:
                fields['tags_negative'] = _half_and_half(
                    fields['tags'], join_texts(other['text'], number_BJ[-1])
                )
            other_BRF = self.seen(other, random_BU[:, -Captions.num_random :])
            place_BU = random_BU[:, 1 : 1 + self.regions.most]
            fields['regions_negative'] = regions.mixed(
                self.regions, fields['regions'], other_BRF, place_BU
            )
        return fields

    def finished(
        self, fields: dict[str, tf.Tensor], random_BU: tf.Tensor, given: Given
    ) -> dict[str, tf.Tensor]:
        del random_BU, given
        return {name: value for name, value in fields.items() if name != 'class'}


@dataclasses.dataclass(frozen=True)
class HiddenCaptions(RegionPairs):
    """Pairs of which words and regions are hidden, and some of which do not belong together.

    Besides `regions` and `text`: `word_place`, `word_target`, `region_place`, `region_target`,
    int32 [B, M], and `match`, int32 [B], 1 where the two belong together. Of pairs that do not,
    nothing is to be predicted but that. Their text is that of another example, of the next
    65,536; as both of a pair are drawn alike, it is the same whether its text is another one or
    its picture is.

    hide_words, hide_regions: the share of a text's words and a picture's regions, in [0, 1)
    (15%: BERT, Unicoder-VL). mismatch: the share of pairs that do not belong together, in [0, 1]
    (Unicoder-VL takes as many as of those that do).
    """

    hide_words: float = 0.15
    hide_regions: float = 0.15
    mismatch: float = 0.5

    has_partner = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (
            0 <= self.hide_words < 1 and 0 <= self.hide_regions < 1 and 0 <= self.mismatch <= 1
        ):
            raise UserError(
                'hide_words and hide_regions must be in [0, 1), and mismatch in [0, 1].'
            )

    @property
    def num_random(self) -> int:  # type: ignore[override]
        """Numbers in [0, 1) of an example: one for the match, those of words, regions, picture."""
        return 1 + sum(self._parts) + Captions.num_random

    @property
    def _parts(self) -> tuple[int, int]:
        return (
            hidden.random_words(self.max_length, self.hide_words),
            hidden.random_regions(self.regions.most, self.hide_regions),
        )

    def fields(
        self, serialized: list[tf.Tensor], number_BJ: list[tf.Tensor], random_BU: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        fields = super().fields(serialized, number_BJ, random_BU)
        other = schema.parse(serialized[1], 'id', 'text')
        other_B = join_texts(other['text'], number_BJ[1])
        swapped_B = random_BU[:, 0] < self.mismatch
        # By chance the other example may be of the same picture, or have the same text.
        same_B = (hashed(other['id']) == fields['id']) | (other_B == fields['text'])
        match_B = tf.where(swapped_B, tf.where(same_B, hidden.NONE, 0), 1)
        text_B = tf.where(swapped_B, other_B, fields['text'])
        return fields | {'text': text_B, 'match': match_B}

    def finished(
        self, fields: dict[str, tf.Tensor], random_BU: tf.Tensor, given: Given
    ) -> dict[str, tf.Tensor]:
        words_BU, regions_BU = tf.split(random_BU[:, 1 : 1 + sum(self._parts)], self._parts, axis=1)
        class_BR = fields.pop('class')
        if given.codebook:
            class_BR = given.codebook.classes(fields['regions'], self.regions.feature_size)
        fields |= hidden.words(
            fields['text'], given.marks, given.vocab_size, self.hide_words, words_BU
        )
        fields |= hidden.regions(
            fields['regions'], class_BR, self.regions.feature_size, self.hide_regions, regions_BU
        )
        matched_B1 = fields['match'][:, None] == 1
        for name in ('word_target', 'region_target'):
            fields[name] = tf.where(matched_B1, fields[name], hidden.NONE)
        return fields


def _half_and_half(own_B: tf.Tensor, other_B: tf.Tensor) -> tf.Tensor:
    """Tags, joined by commas: the first half of a picture's own and as many of another's."""

    def mix(own_B: np.ndarray, other_B: np.ndarray) -> np.ndarray:
        mixed = []
        for own, other in zip(own_B, other_B):
            names = own.split(b', ')
            kept = len(names) // 2
            mixed.append(b', '.join(names[:kept] + other.split(b', ')[: len(names) - kept]))
        return np.array(mixed, object)

    return tf.ensure_shape(tf.numpy_function(mix, [own_B, other_B], tf.string), own_B.shape)
