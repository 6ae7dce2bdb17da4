"""Pairs of an image's regions and a text, for models that read both as one sequence."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mural_jax.data.fields.image_settings import NUM_IMAGE_RANDOM
from mural_jax.data.fields.region_settings import RegionSettings
from mural_jax.data.streams.base import DrawnExamples, Field, Tensor
from mural_jax.data.streams.captions import Captions
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class RegionPairs(Captions):
    """What the streams of regions share: fields `regions`, float32 [R, F], and `text`, int32 [L].

    regions: how an image becomes regions. Boxes and stored features need the whole image.
    tags: kind of text that names what is in an image, as a part of it: field `tags`, int32 [L];
    '' for none (VinVL, arXiv:2101.00529).
    candidates: number of examples drawn as possible partners of an example; its partner is the
    one whose text is most similar to its own. 1 takes any example (ours; VLDeformer's code draws
    one of the same category).
    """

    regions: RegionSettings = RegionSettings()
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
                f'regions.by={self.regions.by!r} takes images whole, since boxes are places in '
                'them: resize, area and of augment shift, zoom, rotate and mirror must be 0.'
            )
        if self.regions.by == 'patches' and self.image_size % self.regions.side:
            raise UserError(
                f'regions.side={self.regions.side} must divide image_size={self.image_size}.'
            )

    def fields(self) -> dict[str, Field]:
        text_shape = (self.max_length,)
        fields = {
            'regions': Field(self.region_shape, np.float32, 'regions'),
            'text': Field(text_shape, np.int32, 'text'),
        }
        if self.tags:
            fields['tags'] = Field(text_shape, np.int32, 'tags')
        return fields

    def make_fields(self, drawn: DrawnExamples) -> dict[str, Tensor]:
        fields = {
            'regions': self.make_regions(drawn.stored, drawn.random_BU[:, -NUM_IMAGE_RANDOM:]),
            'text': drawn.texts[0],
        }
        if self.tags:
            fields['tags'] = drawn.tags_B
        return fields

    def make_regions(self, stored: dict[str, Tensor], random_BU: Tensor) -> Tensor:
        """float32 [B, R, F] from stored images; `random_BU` is as `make_images` takes it."""
        from mural_jax.data.fields import crops

        return crops.cut_regions(self.regions, self.make_images(stored, random_BU), stored)

    @property
    def region_shape(self) -> tuple[int, int]:
        """(regions of an image, numbers of a region)."""
        return self.regions.most, self.regions.feature_size + self.regions.geometry

    @property
    def stored_columns(self) -> tuple[str, ...]:
        return (*super().stored_columns, 'boxes', 'classes', 'features')

    def fitted(self) -> tuple[str, ...]:
        return ('codebook',) if self.regions.codebook else ()

    def check_records(self, records: Sequence[Any]) -> None:
        if self.regions.by == 'features':
            # A feature of another size would be cut or padded without a word.
            for split in records:
                split.check_features(self.regions.size)

    def prepare_data(self, open_pool: Callable[[], Any]) -> list[str]:
        lines = []
        if self.regions.by != 'patches':
            # Found now, so that the processes of a training run only read it.
            count = count_region_classes(open_pool().records)
            lines.append(f'the classes of its regions in the data are below {count}')
        if self.tags or self.candidates > 1:
            # Opening makes the sketches, and raises UserError where the data has no tags.
            open_pool()
        if self.candidates > 1:
            lines.append('the sketches of its texts are made')
        return lines


@dataclasses.dataclass(frozen=True)
class RegionCaptions(RegionPairs):
    """Regions of an image, float32 [R, F], and one text of it, int32 [L].

    hard_negatives: adds to each pair a text and an image that are nearly right, the fields
    `text_negative` and `regions_negative` (VLDeformer, arXiv:2110.11338): the text with 30% of
    its words replaced by plausible others, and the image with half of its regions, and of its
    tags, replaced by those of another example, one of the next 65,536.
    """

    hard_negatives: bool = False

    def fields(self) -> dict[str, Field]:
        fields: dict[str, Field] = {}
        for name, field in super().fields().items():
            fields[name] = field
            if self.hard_negatives:
                fields[f'{name}_negative'] = field._replace(negative_of=name)
        return fields

    def make_fields(self, drawn: DrawnExamples) -> dict[str, Tensor]:
        fields = super().make_fields(drawn)
        if drawn.partner is None:
            return fields
        from mural_jax.data.fields import crops

        # `reading` adds the negative of the text, which other texts of the data set give.
        other_BRF = self.make_regions(drawn.partner.stored, drawn.random_BU[:, -NUM_IMAGE_RANDOM:])
        order_BR = drawn.random_BU[:, 1 : 1 + self.regions.most]
        fields['regions_negative'] = crops.swap_half_of_regions(
            self.regions, fields['regions'], other_BRF, order_BR
        )
        if self.tags:
            fields['tags_negative'] = crops.swap_half_of_tags(fields['tags'], drawn.partner.tags_B)
        return fields

    @property
    def has_partner(self) -> bool:
        return self.hard_negatives

    @property
    def partner_columns(self) -> tuple[str, ...]:
        return self.stored_columns

    @property
    def num_random(self) -> int:
        # One number chooses words of the negative text, one for each region its place in the
        # order of replacement.
        return 1 + self.regions.most + NUM_IMAGE_RANDOM


def count_region_classes(records: Sequence[Any]) -> int:
    """One more than the highest class of a region in any of the data sets."""
    return max(split.region_facts['num_classes'] for split in records)
