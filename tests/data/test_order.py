"""The order of a stream: exact shares, whole epochs, the same from anywhere."""

import numpy as np
import pytest

from mural_jax.data.reading.order import BLOCK, Mixture, quotas, shares, uniform

SIZES, WEIGHTS = np.array([5, 1000, 30]), np.array([1.0, 2.0, 0.5])


def mixture(seed: int = 3) -> Mixture:
    return Mixture(SIZES, WEIGHTS, seed)


def test_quotas_share_by_largest_remainder() -> None:
    assert quotas(np.array([1, 1, 1]), 10).tolist() == [4, 3, 3]
    assert quotas(np.array([5, 3, 2]), 10).tolist() == [5, 3, 2]
    assert quotas(np.array([1.0, 0.0]), 10).tolist() == [10, 0]


def test_whoever_has_a_weight_gets_a_slot() -> None:
    assert quotas(np.array([1.0, 1e-9]), 10).tolist() == [9, 1]
    assert quotas(np.array([5, 4, 1e-9, 1e-9, 1e-9]), 10).tolist() == [4, 3, 1, 1, 1]


def test_shares_are_capped_and_the_rest_is_shared_on() -> None:
    np.testing.assert_allclose(shares(np.array([100, 25]), 0.5, 1.0), [2 / 3, 1 / 3])
    np.testing.assert_allclose(shares(np.array([90, 8, 2]), 1.0, 0.5), [0.5, 0.4, 0.1])
    # The second one goes over the cap only once the first one's rest is shared.
    np.testing.assert_allclose(shares(np.array([90, 8, 2]), 1.0, 0.4), [0.4, 0.4, 0.2])
    np.testing.assert_allclose(shares(np.array([90, 8, 2]), 1.0, 0.2), [1 / 3] * 3)


def test_every_block_holds_each_source_by_its_quota() -> None:
    source, _ = mixture().locate(np.arange(3 * BLOCK))
    for block in source.reshape(3, BLOCK):
        assert np.bincount(block).tolist() == quotas(WEIGHTS, BLOCK).tolist()


def records_of(mixed: Mixture, positions: np.ndarray, wanted: int) -> np.ndarray:
    """The records of one source in the order in which they are drawn."""
    source, draw = mixed.locate(positions)
    return mixed.record(source, draw)[source == wanted]


@pytest.mark.parametrize('wanted', [0, 1, 2])
def test_every_record_comes_once_an_epoch(wanted: int) -> None:
    """Also over the ends of blocks, and in another order in each epoch."""
    record = records_of(mixture(), np.arange(BLOCK - 9000, BLOCK + 9000), wanted)
    size = SIZES[wanted]
    _, draw = mixture().locate(np.arange(BLOCK - 9000, BLOCK + 9000))
    source, _ = mixture().locate(np.arange(BLOCK - 9000, BLOCK + 9000))
    start = -draw[source == wanted][0] % size
    epochs = [record[i : i + size] for i in range(start, len(record) - size, size)]
    assert len(epochs) >= 2
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    assert any((epochs[0] != epoch).any() for epoch in epochs[1:])


def test_new_weights_hold_from_a_position_on_and_epochs_go_on() -> None:
    first = mixture()
    position = BLOCK + 12345
    second = Mixture(SIZES, np.array([1.0, 0.5, 4.0]), 3, first.state, position)
    assert second.changed
    assert not mixture().changed
    before = np.arange(position - 5000, position)
    np.testing.assert_array_equal(first.locate(before), second.locate(before))
    source, draw = second.locate(np.arange(position, position + BLOCK))
    assert np.bincount(source).tolist() == quotas(np.array([1.0, 0.5, 4.0]), BLOCK).tolist()
    for wanted in range(3):
        old = first.locate(np.arange(position))
        seen = (old[0] == wanted).sum()
        assert draw[source == wanted].tolist() == list(range(seen, seen + (source == wanted).sum()))
    again = Mixture(SIZES, np.array([1.0, 0.5, 4.0]), 3, second.state, position + 7)
    assert not again.changed
    after = np.arange(position - 50, position + 50)
    np.testing.assert_array_equal(again.locate(after), second.locate(after))


def test_a_source_may_rest() -> None:
    resting = Mixture(SIZES, np.array([1.0, 0.0, 1.0]), 3, mixture().state, 100)
    source, _ = resting.locate(np.arange(100, 5000))
    assert set(source) == {0, 2}


def test_a_far_position_costs_no_more_than_a_near_one() -> None:
    """No loop over what came before: 10^15 would not end."""
    source, draw = mixture().locate(np.array([10**15]))
    assert mixture().record(source, draw)[0] < SIZES[source[0]]


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
