"""The order of a stream: exact shares, whole epochs, the same from anywhere."""

import numpy as np

from mural_jax.data.order import BLOCK, Mixture, quotas, uniform


def mixture(seed: int = 3) -> Mixture:
    return Mixture(np.array([5, 1000, 30]), np.array([1.0, 2.0, 0.5]), seed)


def test_quotas_share_by_largest_remainder() -> None:
    assert quotas(np.array([1, 1, 1]), 10).tolist() == [4, 3, 3]
    assert quotas(np.array([5, 3, 2]), 10).tolist() == [5, 3, 2]
    assert quotas(np.array([1.0, 1e-9]), 10).tolist() == [10, 0]


def test_every_block_holds_each_source_by_its_quota() -> None:
    source, _ = mixture().locate(np.arange(3 * BLOCK))
    for block in source.reshape(3, BLOCK):
        assert np.bincount(block).tolist() == mixture().quotas.tolist()


def test_every_epoch_holds_each_record_once() -> None:
    source, record = mixture().locate(np.arange(2 * BLOCK))
    drawn = record[source == 1]
    order = np.argsort(np.flatnonzero(source == 1), kind='stable')
    counts = np.bincount(drawn[order], minlength=1000)
    assert len(drawn) == 2 * mixture().quotas[1]
    assert set(counts) <= {len(drawn) // 1000, len(drawn) // 1000 + 1}


def test_a_position_does_not_depend_on_what_is_asked_with_it() -> None:
    whole = mixture().locate(np.arange(100, 400))
    part = mixture().locate(np.array([250, 117]))
    assert part[0].tolist() == [whole[0][150], whole[0][17]]
    assert part[1].tolist() == [whole[1][150], whole[1][17]]


def test_seeds_and_blocks_have_orders_of_their_own() -> None:
    first, second = mixture().locate(np.arange(2 * BLOCK))[0].reshape(2, BLOCK)
    other = mixture(seed=4).locate(np.arange(BLOCK))[0]
    assert (first != second).mean() > 0.3
    assert (first != other).mean() > 0.3


def test_random_numbers_belong_to_a_position() -> None:
    whole = uniform(7, np.arange(1000), 5)
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() < 1
    np.testing.assert_array_equal(whole[400:402], uniform(7, np.array([400, 401]), 5))
    assert abs(whole.mean() - 0.5) < 0.02
    assert np.abs(np.corrcoef(whole.T) - np.eye(5)).max() < 0.1
    assert (whole != uniform(8, np.arange(1000), 5)).mean() > 0.99
