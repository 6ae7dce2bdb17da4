"""Hashes find nearly equal images and texts, whatever their size and coding, and no others."""

import io
import tarfile

import numpy as np
import pytest
from conftest import REAL_DATA
from data.datasets import draw_image, encode_image
from PIL import Image, ImageEnhance

from mural_jax.data.sets import hashes as near


def hash_image(image: Image.Image) -> int:
    return near.image_hash(np.asarray(image.convert('RGB')))


def count_bits(left: int, right: int) -> int:
    return (left ^ right).bit_count()


def recode(image: Image.Image, quality: int) -> Image.Image:
    return Image.open(io.BytesIO(encode_image(image, 'JPEG', quality=quality)))


def change_image(image: Image.Image) -> dict[str, Image.Image]:
    """Versions of an image that count as the same."""
    width, height = image.size
    return {
        'half': image.resize((width // 2, height // 2), Image.Resampling.LANCZOS),
        'double': image.resize((2 * width, 2 * height), Image.Resampling.BICUBIC),
        'quality 30': recode(image, 30),
        'half, quality 60': recode(image.resize((width // 2, height // 2)), 60),
        'brighter': ImageEnhance.Brightness(image).enhance(1.05),
        'grey': image.convert('L'),
    }


def read_photos(count: int) -> list[Image.Image]:
    path = REAL_DATA / 'flickr8k_multi' / 'images112.tar'
    if not path.exists():
        pytest.skip(f'{path} is missing')
    with tarfile.open(path) as archive:
        files = [archive.extractfile(archive.next()) for _ in range(count)]
        return [Image.open(io.BytesIO(file.read())).convert('RGB') for file in files]


@pytest.mark.parametrize('kind', ['drawn', 'photos'])
def test_changed_image_is_near_and_others_are_far(kind: str) -> None:
    drawn = kind == 'drawn'
    images = [draw_image(n, (112, 112)) for n in range(40)] if drawn else read_photos(200)
    hashes = [hash_image(image) for image in images]
    for image, hash_ in zip(images[:40], hashes):
        for change, other in change_image(image).items():
            # Real photos stay within 4 bits, the threshold that filters recommend.
            assert count_bits(hash_, hash_image(other)) <= 4, change
    apart = [count_bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(apart) > 8
    assert 24 < np.mean(apart) < 40


def test_flat_and_thin_images_have_a_hash() -> None:
    flat = [np.full((height, width, 3), 200, np.uint8) for height, width in ((1, 1), (1, 999))]
    flat += [np.full((70, 50, 3), 201, np.uint8)]
    assert len({near.image_hash(image_HWC) for image_HWC in flat}) == 1
    assert 0 <= near.image_hash(np.zeros((5, 5, 3), np.uint8)) < 2**64


def test_slightly_changed_texts_have_near_sketches() -> None:
    text = 'a brown dog runs over the wet grass behind a red ball while two children look on'
    near_by = [text.replace('red', 'blue'), text + ' today', text.replace('two', 'three')]
    others = [
        'a man in a black suit plays the violin on the stage of a large concert hall',
        'two girls sit on a bench in the park and eat ice cream in the hot sun',
    ]
    sketch = near.text_sketch(text)
    assert sketch == near.text_sketch(text)
    near_bits = [count_bits(sketch, near.text_sketch(other)) for other in near_by]
    far_bits = [count_bits(sketch, near.text_sketch(other)) for other in others]
    assert max(near_bits) <= 16 < 20 < min(far_bits)
    for short in ('', 'a', 'ab', 'ไทย', '犬'):
        assert 0 <= near.text_sketch(short) < 2**64


def test_different_texts_have_different_hashes() -> None:
    texts = [f'{a} {b}' for a in range(100) for b in range(100)]
    assert len({near.text_hash(text) for text in texts}) == len(texts)


def make_clusters(rng: np.random.Generator, count: int) -> np.ndarray:
    """Hashes; many are equal to another one or differ from it in up to a dozen bits."""
    base = rng.integers(0, 2**64, 12, dtype=np.uint64)
    flips = (rng.random((count, 64)) < rng.choice([0, 0.03, 0.08], (count, 1))).astype(np.uint8)
    return rng.choice(base, count) ^ np.packbits(flips, axis=1).view('>u8').ravel().astype('u8')


@pytest.mark.parametrize('most', [near.MAX_PAIRS, 7, 1])
@pytest.mark.parametrize('distance', range(9))
def test_pairs_equal_brute_force(monkeypatch: pytest.MonkeyPatch, distance: int, most: int) -> None:
    """With chunks of any size, also if one query has more candidates than a chunk may hold."""
    monkeypatch.setattr(near, 'MAX_PAIRS', most)
    rng = np.random.default_rng(distance)
    query_N, table_M = make_clusters(rng, 60), make_clusters(rng, 80)
    table_M[:5] = query_N[:5]
    within = np.bitwise_count(query_N[:, None] ^ table_M[None]) <= distance
    found = near.find_pairs(query_N, table_M, distance)
    np.testing.assert_array_equal(np.stack(found), np.stack(np.nonzero(within)))
    assert found[0].dtype == np.int64
    assert len(found[0]) >= 5


def test_empty_arrays_have_no_pairs() -> None:
    none, some = np.zeros(0, np.uint64), np.zeros(3, np.uint64)
    for query_N, table_M in ((none, some), (some, none), (none, none)):
        assert [len(part) for part in near.find_pairs(query_N, table_M, 4)] == [0, 0]
    assert near.find_later_copies(none, 4).tolist() == []


@pytest.mark.parametrize('distance', [0, 1, 3, 4, 8])
@pytest.mark.parametrize('seed', range(4))
def test_later_copies_equal_a_greedy_walk(distance: int, seed: int) -> None:
    hash_N = make_clusters(np.random.default_rng(seed), 150)
    kept: list[int] = []
    dropped_N = []
    for hash_ in hash_N.tolist():
        dropped_N.append(any(count_bits(hash_, other) <= distance for other in kept))
        if not dropped_N[-1]:
            kept.append(hash_)
    assert near.find_later_copies(hash_N, distance).tolist() == dropped_N
    assert 0 < sum(dropped_N) < len(hash_N)


def test_copy_of_a_dropped_hash_stays() -> None:
    """1 is a copy of 0 and is dropped; 3 is only a copy of the dropped 1, so it stays."""
    hash_N = np.array([0b00, 0b01, 0b11], np.uint64)
    assert near.find_later_copies(hash_N, 1).tolist() == [False, True, False]
