"""The order of a stream: exact shares, whole epochs, the same from anywhere."""

import numpy as np
import pytest

from mural_jax.data.reading.order import BLOCK, Mixture, language_shares, split_quotas, uniform

SIZES, WEIGHTS = np.array([5, 1000, 30]), np.array([1.0, 2.0, 0.5])
NEW_WEIGHTS, CHANGE = np.array([1.0, 0.5, 4.0]), BLOCK + 12345


def make_mixture(seed: int = 3) -> Mixture:
    return Mixture(SIZES, WEIGHTS, seed)


def change_weights() -> Mixture:
    """The mixture with NEW_WEIGHTS from position CHANGE on."""
    return Mixture(SIZES, NEW_WEIGHTS, 3, make_mixture().state, CHANGE)


def test_quotas_follow_the_largest_remainder() -> None:
    assert split_quotas(np.array([1, 1, 1]), 10).tolist() == [4, 3, 3]
    assert split_quotas(np.array([5, 3, 2]), 10).tolist() == [5, 3, 2]
    assert split_quotas(np.array([1.0, 0.0]), 10).tolist() == [10, 0]


def test_every_positive_weight_gets_a_slot() -> None:
    assert split_quotas(np.array([1.0, 1e-9]), 10).tolist() == [9, 1]
    assert split_quotas(np.array([5, 4, 1e-9, 1e-9, 1e-9]), 10).tolist() == [4, 3, 1, 1, 1]


def test_shares_follow_the_power_of_sizes() -> None:
    np.testing.assert_allclose(language_shares(np.array([100, 25]), 0.5, 1.0), [2 / 3, 1 / 3])


def test_capped_shares_pass_the_rest_on() -> None:
    np.testing.assert_allclose(language_shares(np.array([90, 8, 2]), 1.0, 0.5), [0.5, 0.4, 0.1])
    # The second share is above the cap only once it has got a part of the first.
    np.testing.assert_allclose(language_shares(np.array([90, 8, 2]), 1.0, 0.4), [0.4, 0.4, 0.2])
    np.testing.assert_allclose(language_shares(np.array([90, 8, 2]), 1.0, 0.2), [1 / 3] * 3)


def test_every_block_holds_each_source_by_its_quota() -> None:
    source, _ = make_mixture().locate(np.arange(3 * BLOCK))
    for block in source.reshape(3, BLOCK):
        assert np.bincount(block).tolist() == split_quotas(WEIGHTS, BLOCK).tolist()


@pytest.mark.parametrize('wanted', [0, 1, 2])
def test_every_record_comes_once_an_epoch(wanted: int) -> None:
    """Also across the end of a block, and in another order in each epoch."""
    source, draw = make_mixture().locate(np.arange(BLOCK - 9000, BLOCK + 9000))
    record = make_mixture().record(source, draw)[source == wanted]
    size = SIZES[wanted]
    start = -draw[source == wanted][0] % size
    epochs = [record[i : i + size] for i in range(start, len(record) - size, size)]
    assert len(epochs) >= 2
    for epoch in epochs:
        assert sorted(epoch) == list(range(size))
    assert any((epochs[0] != epoch).any() for epoch in epochs[1:])


def test_order_before_a_change_of_weights_stays() -> None:
    changed = change_weights()
    assert changed.changed and not make_mixture().changed
    before = np.arange(CHANGE - 5000, CHANGE)
    np.testing.assert_array_equal(make_mixture().locate(before), changed.locate(before))


def test_new_weights_apply_from_the_change_on() -> None:
    source, _ = change_weights().locate(np.arange(CHANGE, CHANGE + BLOCK))
    assert np.bincount(source).tolist() == split_quotas(NEW_WEIGHTS, BLOCK).tolist()


def test_epochs_continue_after_a_change_of_weights() -> None:
    source, draw = change_weights().locate(np.arange(CHANGE, CHANGE + BLOCK))
    source_before, _ = make_mixture().locate(np.arange(CHANGE))
    for wanted in range(3):
        seen = (source_before == wanted).sum()
        count = (source == wanted).sum()
        assert draw[source == wanted].tolist() == list(range(seen, seen + count))


def test_resume_with_the_same_weights_is_no_change() -> None:
    changed = change_weights()
    again = Mixture(SIZES, NEW_WEIGHTS, 3, changed.state, CHANGE + 7)
    assert not again.changed
    around = np.arange(CHANGE - 50, CHANGE + 50)
    np.testing.assert_array_equal(again.locate(around), changed.locate(around))


def test_source_of_weight_zero_pauses() -> None:
    paused = Mixture(SIZES, np.array([1.0, 0.0, 1.0]), 3, make_mixture().state, 100)
    source, _ = paused.locate(np.arange(100, 5000))
    assert set(source) == {0, 2}


def test_far_position_costs_no_more_than_a_near_one() -> None:
    """There is no loop over what came before: up to 10^15 it would not end."""
    source, draw = make_mixture().locate(np.array([10**15]))
    assert make_mixture().record(source, draw)[0] < SIZES[source[0]]


def test_position_does_not_depend_on_positions_asked_with_it() -> None:
    whole = make_mixture().locate(np.arange(100, 400))
    part = make_mixture().locate(np.array([250, 117]))
    assert part[0].tolist() == [whole[0][150], whole[0][17]]
    assert part[1].tolist() == [whole[1][150], whole[1][17]]


def test_seeds_and_blocks_have_orders_of_their_own() -> None:
    first, second = make_mixture().locate(np.arange(2 * BLOCK))[0].reshape(2, BLOCK)
    other = make_mixture(seed=4).locate(np.arange(BLOCK))[0]
    assert (first != second).mean() > 0.3
    assert (first != other).mean() > 0.3


def test_random_numbers_depend_on_the_position_alone() -> None:
    whole = uniform(7, np.arange(1000), 5)
    np.testing.assert_array_equal(whole[400:402], uniform(7, np.array([400, 401]), 5))
    assert (whole != uniform(8, np.arange(1000), 5)).mean() > 0.99


def test_random_numbers_are_uniform_and_uncorrelated() -> None:
    whole = uniform(7, np.arange(1000), 5)
    assert whole.dtype == np.float32
    assert whole.min() >= 0
    assert whole.max() < 1
    assert abs(whole.mean() - 0.5) < 0.02
    assert np.abs(np.corrcoef(whole.T) - np.eye(5)).max() < 0.1
