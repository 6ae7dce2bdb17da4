"""Image-caption pairs."""

import dataclasses

import tensorflow as tf

from mural_jax.data.fields import images
from mural_jax.data.fields.images import Augment
from mural_jax.data.fields.texts import hashed, join_texts
from mural_jax.data.sets import schema
from mural_jax.data.streams.base import Stream
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Captions(Stream):
    """A picture and one text of it: fields `image`, uint8 [B, H, W, 3], and `text`, [B, L].

    image_size: the side of a picture in pixels.
    resize: the side that a picture is brought to before image_size is cut out of it; 0 for
    image_size, so that nothing is cut off.
    area: the smallest share of a picture's area that a random crop takes, in (0, 1); 0 takes
    pictures whole. Instead of `resize`.
    augment: how pictures are changed.
    """

    image_size: int = 64
    resize: int = 0
    area: float = 0.0
    augment: Augment = Augment()

    has_image = True
    num_random = Augment.NUM_RANDOM + 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize and self.resize < self.image_size:
            raise UserError(
                f'resize={self.resize} is smaller than image_size={self.image_size}, which is cut '
                'out of it. Give 0 or something larger.'
            )
        if not 0 <= self.area < 1 or (self.area and self.resize):
            raise UserError(f'area={self.area} must be in [0, 1), and resize 0 where it is not 0.')

    def fields(
        self, serialized: list[tf.Tensor], number_BJ: list[tf.Tensor], random_BU: tf.Tensor
    ) -> dict[str, tf.Tensor]:
        parsed = schema.parse(serialized[0], 'id', 'text', 'image', 'height', 'width')
        side_B2 = tf.stack([parsed['height'], parsed['width']], axis=1)
        image_BHWC = self.pictures(parsed['image'], side_B2, random_BU)
        text_B = join_texts(parsed['text'], number_BJ[0])
        return {'image': image_BHWC, 'text': text_B, 'id': hashed(parsed['id'])}

    def pictures(self, encoded_B: tf.Tensor, side_B2: tf.Tensor, random_BU: tf.Tensor) -> tf.Tensor:
        """Encoded pictures of (height, width) -> uint8 [B, image_size, image_size, 3]."""
        return self.augmented(self.cut(encoded_B, side_B2, random_BU), random_BU)

    def cut(self, encoded_B: tf.Tensor, side_B2: tf.Tensor, random_BU: tf.Tensor) -> tf.Tensor:
        """Encoded pictures -> uint8 [B, S, S, 3]: parts of them, or whole pictures."""
        if not self.area:
            return images.decode(encoded_B, self.resize or self.image_size)
        mirrored_B = random_BU[:, Augment.MIRROR] < self.augment.mirror
        random_B4 = random_BU[:, Augment.NUM_RANDOM :]
        return images.decode_area(
            encoded_B, side_B2, self.image_size, self.area, random_B4, mirrored_B
        )

    def augmented(self, image_BSSC: tf.Tensor, random_BU: tf.Tensor) -> tf.Tensor:
        """What `cut` gives -> uint8 [B, image_size, image_size, 3]."""
        # Parts are mirrored already.
        augment = dataclasses.replace(self.augment, mirror=0.0) if self.area else self.augment
        return augment(image_BSSC, random_BU[:, : Augment.NUM_RANDOM], self.image_size)
