"""Image-caption pairs."""

import dataclasses

import numpy as np

from mural_jax.data.fields.image_settings import NUM_IMAGE_RANDOM, Augment, ImageSettings
from mural_jax.data.streams.base import DrawnExamples, Field, Stream, Tensor
from mural_jax.types import UserError


@dataclasses.dataclass(frozen=True)
class Captions(Stream):
    """An image and one text of it: fields `image`, uint8 [H, W, 3], and `text`, int32 [L].

    image_size: side of an image in pixels.
    resize: side to which an image is resized before image_size is cut out of it; 0 resizes to
    image_size, so that nothing is cut off.
    area: smallest share of an image's area that a random crop takes, in (0, 1); 0 takes images
    whole. Only where `resize` is 0.
    augment: random changes of the images.
    """

    image_size: int = 64
    resize: int = 0
    area: float = 0.0
    augment: Augment = Augment()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.resize and self.resize < self.image_size:
            raise UserError(
                f'resize={self.resize} is smaller than image_size={self.image_size}, which is cut '
                'out of it. Give 0 or something larger.'
            )
        if not 0 <= self.area < 1 or (self.area and self.resize):
            raise UserError(f'area={self.area} must be in [0, 1), and resize 0 where it is not 0.')

    def fields(self) -> dict[str, Field]:
        return {
            'image': Field((self.image_size, self.image_size, 3), np.uint8, 'image'),
            'text': Field((self.max_length,), np.int32, 'text'),
        }

    def make_fields(self, drawn: DrawnExamples) -> dict[str, Tensor]:
        return {'image': self.make_images(drawn.stored, drawn.random_BU), 'text': drawn.texts[0]}

    def make_images(self, stored: dict[str, Tensor], random_BU: Tensor) -> Tensor:
        """uint8 [B, image_size, image_size, 3] from stored images.

        `random_BU` holds NUM_IMAGE_RANDOM numbers for each image.
        """
        # Imported where examples are read: settings are made where TensorFlow is not installed.
        import tensorflow as tf

        from mural_jax.data.fields import augmentation

        side_B2 = tf.stack([stored['height'], stored['width']], axis=1)
        return augmentation.make_images(self.images, stored['image'], side_B2, random_BU)

    @property
    def num_random(self) -> int:
        return NUM_IMAGE_RANDOM

    @property
    def stored_columns(self) -> tuple[str, ...]:
        # The size is stored too: a random part is drawn before the image is decoded.
        return ('id', 'text', 'image', 'height', 'width')

    @property
    def images(self) -> ImageSettings:
        return ImageSettings(
            self.image_size, self.resize or self.image_size, self.area, self.augment
        )
