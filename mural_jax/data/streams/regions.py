"""Streams of pairs for one stream: regions of a picture and a text, whole or with parts hidden."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from mural_jax.data.fields import crops
from mural_jax.data.fields.crops import mix_tags
from mural_jax.data.fields.region_settings import Regions
from mural_jax.data.fields.texts import hashed, join_texts
from mural_jax.data.fitted import codebook
from mural_jax.data.fitted.codebook import Codebook
from mural_jax.data.sets import schema
from mural_jax.data.streams.base import Given
from mural_jax.data.streams.captions import Captions
from mural_jax.data.tokenizer import Tokenizer
from mural_jax.types import UserError

if TYPE_CHECKING:
    from mural_jax.data.reading.stream import OpenStream

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
            'class': crops.classes(self.regions, parsed),
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
        return crops.regions(self.regions, image_BHWC, parsed)


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
                fields['tags_negative'] = mix_tags(
                    fields['tags'], join_texts(other['text'], number_BJ[-1])
                )
            other_BRF = self.seen(other, random_BU[:, -Captions.num_random :])
            place_BU = random_BU[:, 1 : 1 + self.regions.most]
            fields['regions_negative'] = crops.mixed(
                self.regions, fields['regions'], other_BRF, place_BU
            )
        return fields

    def finished(
        self, fields: dict[str, tf.Tensor], random_BU: tf.Tensor, given: Given
    ) -> dict[str, tf.Tensor]:
        del random_BU, given
        return {name: value for name, value in fields.items() if name != 'class'}
