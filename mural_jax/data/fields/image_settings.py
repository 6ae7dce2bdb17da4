"""How a stream turns images into squares of pixels. Needs no TensorFlow."""

import dataclasses
from typing import NamedTuple


@dataclasses.dataclass(frozen=True)
class Augment:
    """Random shifts, turns, changes of scale and of colour; all values 0 change nothing.

    shift: largest shift, as a share of the image's side, in [0, 1).
    zoom: largest change of scale, as a share, in [0, 1).
    rotate: largest turn, in degrees.
    colour: largest change of brightness, contrast and saturation, as a share, in [0, 1).
    mirror: share of the images that are mirrored left to right, in [0, 1].
    crop: cuts the final square at a random place instead of the middle. Has an effect only where
    the stream's `resize` is larger than its `image_size`.
    """

    shift: float = 0.0
    zoom: float = 0.0
    rotate: float = 0.0
    colour: float = 0.0
    mirror: float = 0.0
    crop: bool = False

    NUM_RANDOM = 10  # random numbers in [0, 1) that one image uses
    MIRROR = 7  # index of the random number that decides whether an image is mirrored


# Random numbers in [0, 1) that one image uses: those of its augmentation, then four that choose
# the part which `ImageSettings.area` asks for.
NUM_IMAGE_RANDOM = Augment.NUM_RANDOM + 4


class ImageSettings(NamedTuple):
    """How an encoded image becomes a square of pixels.

    size: side of the square, in pixels.
    resize: side to which the whole image is resized before the square is cut out of it.
    area: smallest share of an image's area that a random crop takes, in (0, 1); 0 takes the whole
    image.
    augment: random changes of the square.
    """

    size: int
    resize: int
    area: float
    augment: Augment
