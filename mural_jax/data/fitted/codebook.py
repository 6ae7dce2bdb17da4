"""Visual words: classes of regions where the data set has none, by k-means over their features.

A choice of this project: Unicoder-VL's classes are those of a detector, which patches lack.
"""

import dataclasses
import hashlib
import io
import json
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from mural_jax.data.fields.crops import NO_CLASS, is_region
from mural_jax.data.reading.draws import Pool
from mural_jax.data.reading.order import uniform
from mural_jax.data.sets import schema
from mural_jax.data.streams.captions import Captions
from mural_jax.types import UserError

if TYPE_CHECKING:
    from mural_jax.data.streams.regions import RegionPairs

PICTURES = 2000  # whose regions are clustered
CHUNK = 100  # pictures read at a time
MOST = 20_000  # regions that are clustered, at most
ROUNDS = 20  # of k-means
FIELDS = ('image', 'boxes', 'features', 'height', 'width')


@dataclasses.dataclass(frozen=True, eq=False)
class Codebook:
    """`centre_KF`, float32: a region's class is the number of the nearest one."""

    centre_KF: np.ndarray

    def classes(self, region_BRF: tf.Tensor, feature_size: int) -> tf.Tensor:
        """Regions, float32 [B, R, F + G] -> int32 [B, R], NO_CLASS where there is none."""
        feature_BRF = region_BRF[..., :feature_size]
        # |x - c|^2 without |x|^2, which is the same for every c.
        square_K = (self.centre_KF**2).sum(1)
        distance_BRK = square_K - 2 * tf.einsum('brf,kf->brk', feature_BRF, self.centre_KF)
        nearest_BR = tf.argmin(distance_BRK, axis=-1, output_type=tf.int32)
        return tf.where(is_region(region_BRF, feature_size), nearest_BR, NO_CLASS)

    @property
    def fingerprint(self) -> str:
        return f'{zlib.crc32(self.centre_KF.tobytes()):08x}'


def path_of(spec: 'RegionPairs', data_dir: Path) -> Path:
    """Where the codebook of a stream with these sources and these pictures is kept."""
    sources = sorted(
        [source.dataset, source.split, dataclasses.asdict(source.filters)]
        for source in spec.sources.values()
    )
    seen = [spec.image_size, spec.resize, spec.area, dataclasses.asdict(spec.augment)]
    words = json.dumps([sources, spec.languages, seen, dataclasses.asdict(spec.regions)])
    return data_dir / 'codebooks' / f'{hashlib.sha256(words.encode()).hexdigest()[:16]}.npy'


def load(spec: 'RegionPairs', data_dir: Path) -> Codebook:
    """Raises UserError where it was not made."""
    try:
        return Codebook(np.load(path_of(spec, data_dir), allow_pickle=False))
    except (FileNotFoundError, ValueError) as error:
        raise UserError(
            f'The codebook of {spec.regions.codebook} visual words is not made in {data_dir}. '
            'Run `mural prepare` with the same --config and --data_dir first.'
        ) from error


def ensure(spec: 'RegionPairs', data_dir: Path) -> Path:
    """Makes the codebook of a stream where there is none."""
    path = path_of(spec, data_dir)
    if not path.exists():
        stream = io.BytesIO()
        np.save(stream, fit(sample(spec, data_dir), spec.regions.codebook))
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix('.part')
        part.write_bytes(stream.getvalue())
        part.replace(path)
    return path


def sample(spec: 'RegionPairs', data_dir: Path) -> np.ndarray:
    """Features of regions as the stream gives them, float32 [N, F]; the same ones each time."""
    pool = Pool(spec, data_dir)
    random = np.random.default_rng(0)
    count = min(PICTURES, len(pool.record_G))
    member_M = np.sort(random.choice(len(pool.record_G), count, replace=False))
    size, found = spec.regions.feature_size, []
    for start in range(0, count, CHUNK):
        member_B = member_M[start : start + CHUNK]
        parsed = schema.parse(tf.constant(pool.read(member_B)), *FIELDS)
        random_BU = tf.constant(uniform(0, member_B, Captions.num_random))
        region_BRF = spec.seen(parsed, random_BU)
        found.append(region_BRF[is_region(region_BRF, size)].numpy()[:, :size])
    feature_NF = np.concatenate(found)
    chosen = random.permutation(len(feature_NF))[:MOST]
    return feature_NF[chosen]


def fit(feature_NF: np.ndarray, count: int) -> np.ndarray:
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
        # A cluster that is empty keeps its centre, which is a region.
        warnings.simplefilter('ignore')
        centre_KF, _ = kmeans2(feature_NF, _first(feature_NF, count), ROUNDS, minit='matrix')
    return centre_KF.astype(np.float32)


def _first(feature_NF: np.ndarray, count: int) -> np.ndarray:
    """Regions to start from, each drawn by its squared distance to those before: k-means++
    (Arthur and Vassilvitskii 2007). SciPy's own compares with all of them again for each."""
    random = np.random.default_rng(0)
    chosen = [int(random.integers(len(feature_NF)))]
    square_N = (feature_NF**2).sum(1)
    distance_N = np.full(len(feature_NF), np.inf)
    for _ in range(count - 1):
        last = chosen[-1]
        away_N = square_N + square_N[last] - 2 * feature_NF @ feature_NF[last]
        distance_N = np.clip(away_N, 0, distance_N)
        share_N = distance_N.cumsum()
        place = np.searchsorted(share_N, random.uniform() * share_N[-1], side='right')
        chosen.append(min(int(place), len(feature_NF) - 1))
    return feature_NF[chosen]
