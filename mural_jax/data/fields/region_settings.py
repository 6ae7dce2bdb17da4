"""What a stream of regions is made of, and how large its fields are. Needs no TensorFlow."""

import dataclasses

from mural_jax.types import UserError

WAYS = {
    'boxes': 'the pixels in the boxes of the data set',
    'patches': 'the pixels of a grid of squares',
    'features': 'the features of the data set',
}
GEOMETRY = (5, 6)  # numbers of a box: Unicoder-VL's, VinVL's


@dataclasses.dataclass(frozen=True)
class RegionSettings:
    """How the regions of a picture are made.

    by: of WAYS. most: regions of a picture, at most; more are left out. side: pixels on a side of
    what a box or a square is resized to; of features, 0. size: numbers of a stored feature; of
    pixels, 0. geometry: numbers of a box: left, top, right, bottom in shares of the picture, then
    5: its area, or 6: its width and height. codebook: visual words of a codebook, by which regions
    are classed where the data set has no classes of them; 0 takes those of the data set.
    """

    by: str = 'boxes'
    most: int = 10
    side: int = 16
    size: int = 0
    geometry: int = 5
    codebook: int = 0

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise UserError(f'regions.by={self.by!r} is not known; there are {sorted(WAYS)}.')
        if self.codebook < 0 or self.codebook == 1:
            raise UserError(
                f'regions.codebook={self.codebook} must be 0, for none, or at least 2 visual words.'
            )
        if self.most < 1 or self.geometry not in GEOMETRY:
            raise UserError(
                f'regions: most={self.most} must be at least 1, geometry={self.geometry} one of '
                f'{GEOMETRY}.'
            )
        if (self.side < 1) != (self.by == 'features') or (self.size < 1) == (self.by == 'features'):
            raise UserError(
                "regions: side goes with by='boxes' and by='patches', size with by='features'; "
                'the other one is 0.'
            )

    @property
    def feature_size(self) -> int:
        """Numbers of a region without its geometry."""
        return self.size or 3 * self.side**2
