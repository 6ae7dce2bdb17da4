"""Visual words: classes of regions where the data set has none, by k-means over their features.

Ours: Unicoder-VL takes the classes of a detector, which patches do not have.
"""

import dataclasses
import hashlib
import io
import json
import warnings
import zlib
from pathlib import Path
from typing import Self

import numpy as np
import tensorflow as tf

from mural_jax.data.fields.crops import NO_CLASS, region_mask
from mural_jax.data.fields.image_settings import NUM_IMAGE_RANDOM
from mural_jax.data.fitted.base import FittedArtefact
from mural_jax.data.reading.order import uniform
from mural_jax.data.reading.pool import Pool
from mural_jax.data.sets.schema import parse_examples
from mural_jax.data.streams.regions import RegionPairs
from mural_jax.types import UserError

NUM_IMAGES = 2000  # images whose regions are clustered
CHUNK = 100  # images read at a time
MAX_REGIONS = 20_000  # regions that are clustered
ROUNDS = 20  # rounds of k-means
COLUMNS = ('image', 'boxes', 'features', 'height', 'width')


@dataclasses.dataclass(frozen=True, eq=False)
class Codebook(FittedArtefact):
    """K cluster centres, `centre_KF`, float32: the class of a region is its nearest centre."""

    centre_KF: np.ndarray

    def classify(self, region_BRF: tf.Tensor, feature_size: int) -> tf.Tensor:
        """The class of each region, int32 [B, R]; NO_CLASS where there is no region.

        `region_BRF` is float32 [B, R, F + geometry] with F = `feature_size`.
        """
        feature_BRF = region_BRF[..., :feature_size]
        # |x - c|^2 without |x|^2, which is the same for every c.
        square_K = (self.centre_KF**2).sum(1)
        distance_BRK = square_K - 2 * tf.einsum('brf,kf->brk', feature_BRF, self.centre_KF)
        nearest_BR = tf.argmin(distance_BRK, axis=-1, output_type=tf.int32)
        return tf.where(region_mask(region_BRF, feature_size), nearest_BR, NO_CLASS)

    @classmethod
    def path(cls, stream: RegionPairs, data_dir: Path) -> Path:
        sources = sorted(
            [source.dataset, source.split, dataclasses.asdict(source.filters)]
            for source in stream.sources.values()
        )
        # Without weights, alpha and cap: regions are sampled from all members equally often.
        augment = dataclasses.asdict(stream.augment)
        images = [stream.image_size, stream.resize, stream.area, augment]
        regions = dataclasses.asdict(stream.regions)
        words = json.dumps([sources, stream.languages, images, regions])
        return data_dir / 'codebooks' / f'{hashlib.sha256(words.encode()).hexdigest()[:16]}.npy'

    @classmethod
    def fit(cls, stream: RegionPairs, data_dir: Path) -> Self:
        return cls(fit_centres(sample_features(stream, data_dir), stream.regions.codebook))

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        return cls(np.load(io.BytesIO(content), allow_pickle=False))

    def to_bytes(self) -> bytes:
        stream = io.BytesIO()
        np.save(stream, self.centre_KF)
        return stream.getvalue()

    @property
    def fingerprint(self) -> str:
        return f'{zlib.crc32(self.centre_KF.tobytes()):08x}'


def sample_features(stream: RegionPairs, data_dir: Path) -> np.ndarray:
    """Features of a sample of the stream's regions, float32 [N, F]; the same ones each time."""
    pool = Pool(stream, data_dir)
    random = np.random.default_rng(0)
    count = min(NUM_IMAGES, len(pool.record_G))
    member_M = np.sort(random.choice(len(pool.record_G), count, replace=False))
    size, parts = stream.regions.feature_size, []
    for start in range(0, count, CHUNK):
        member_B = member_M[start : start + CHUNK]
        stored = parse_examples(tf.constant(pool.read(member_B)), *COLUMNS)
        # Augmented as in training: the codebook must cover what training sees.
        random_BU = tf.constant(uniform(0, member_B, NUM_IMAGE_RANDOM))
        region_BRF = stream.make_regions(stored, random_BU)
        parts.append(region_BRF[region_mask(region_BRF, size)].numpy()[:, :size])
    feature_NF = np.concatenate(parts)
    chosen = random.permutation(len(feature_NF))[:MAX_REGIONS]
    return feature_NF[chosen]


def fit_centres(feature_NF: np.ndarray, count: int) -> np.ndarray:
    """The centres of `count` clusters, float32 [count, F].

    Raises UserError where there are fewer regions than that.
    """
    from scipy.cluster.vq import kmeans2  # Only here: it takes a second to import.

    if len(feature_NF) < count:
        raise UserError(
            f'regions.codebook={count} visual words are more than the {len(feature_NF)} regions '
            'there are. Give fewer.'
        )
    feature_NF = feature_NF.astype(np.float64)
    with warnings.catch_warnings():
        # SciPy warns of an empty cluster; it keeps its centre, which is a region.
        warnings.simplefilter('ignore')
        centre_KF, _ = kmeans2(feature_NF, _draw_first(feature_NF, count), ROUNDS, minit='matrix')
    return centre_KF.astype(np.float32)


def _draw_first(feature_NF: np.ndarray, count: int) -> np.ndarray:
    """The first centres, [count, F]: k-means++ (Arthur and Vassilvitskii 2007).

    Each is a region, drawn in proportion to its squared distance to the nearest one before it.
    SciPy's own k-means++ computes the distances to all earlier centres again for each new one.
    """
    random = np.random.default_rng(0)
    chosen = [int(random.integers(len(feature_NF)))]
    square_N = (feature_NF**2).sum(1)
    distance_N = np.full(len(feature_NF), np.inf)
    for _ in range(count - 1):
        last = chosen[-1]
        away_N = square_N + square_N[last] - 2 * feature_NF @ feature_NF[last]
        # Rounding can make the distance of a region to itself a little negative.
        distance_N = np.clip(away_N, 0, distance_N)
        share_N = distance_N.cumsum()
        place = np.searchsorted(share_N, random.uniform() * share_N[-1], side='right')
        chosen.append(min(int(place), len(feature_NF) - 1))
    return feature_NF[chosen]
