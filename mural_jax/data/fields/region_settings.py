"""How an image becomes regions. Needs no TensorFlow."""

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
    """How the regions of an image are made.

    by: a key of WAYS.
    most: largest number of regions of an image; further ones are left out.
    side: side in pixels to which the content of a box or square is resized; 0 for features.
    size: numbers of a stored feature; 0 for pixels.
    geometry: numbers that describe a box: left, top, right and bottom as shares of the image, then
    its area (5 numbers) or its width and height (6 numbers).
    codebook: number of visual words that a codebook has, which replace the data set's classes of
    regions; 0 keeps the classes of the data set.
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
        # Pixels have a side and no stored size; a stored feature has a size and no side.
        if (self.side < 1) != (self.by == 'features') or (self.size < 1) == (self.by == 'features'):
            raise UserError(
                "regions: side goes with by='boxes' and by='patches', size with by='features'; "
                'the other one is 0.'
            )

    @property
    def feature_size(self) -> int:
        """Numbers of a region without its geometry."""
        return self.size or 3 * self.side**2
